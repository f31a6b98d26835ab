package registry

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/refs"
)

type Auth struct {
	Username      string
	Password      string
	Auth          string
	IdentityToken string
	RegistryToken string
	ServerAddress string
}

type Config struct {
	CertsDirs  []string
	UserAgent  string
	NoProgress time.Duration
	Retries    int
}

type Client struct{ cfg Config }

func New(cfg Config) *Client { return &Client{cfg} }

type Repository struct{}

type Manifest struct {
	MediaType string
	Digest    digest.Digest
	Bytes     []byte
}

func (c *Client) Repository(ctx context.Context, ref refs.Ref, auth *Auth) (*Repository, error) {
	return &Repository{}, nil
}
func (r *Repository) Manifest(ctx context.Context, tagOrDigest string) (Manifest, error) {
	return Manifest{}, nil
}
func (r *Repository) Blob(ctx context.Context, d digest.Digest, size, offset int64) (io.ReadCloser, error) {
	return nil, nil
}
