package api

import (
	"context"
	"io"
	"time"
)

// ImageList has all images, by id.
type ImageList struct {
	Images []Image `json:"images"`
}

// History is one command of the build of an image.
type History struct {
	Created   time.Time `json:"created,omitzero"`
	CreatedBy string    `json:"created_by,omitempty"`
	Comment   string    `json:"comment,omitempty"`
	DiffID    string    `json:"diff_id,omitempty"` // of the layer that it made; empty: none
	Size      int64     `json:"size,omitempty"`    // of that layer, bytes unpacked
}

// SaveRequest names the images of an archive.
type SaveRequest struct {
	Images []string `json:"images"`
	Format string   `json:"format,omitempty"` // "docker", which is the default, or "oci"
}

// PushRequest sends an image to a registry.
type PushRequest struct {
	Image string `json:"image"`
	Ref   string `json:"ref,omitempty"` // where to; empty: Image is the reference
	Credentials
}

// PruneRequest says which images go.
type PruneRequest struct {
	All bool `json:"all,omitempty"` // tagged ones too
}

// PruneResult names what went. Bytes is what came free: less than the sum of
// the images where they share layers with others.
type PruneResult struct {
	Images []Usage `json:"images"`
	Bytes  uint64  `json:"bytes"`
}

// ExplainRequest names an image and what a pull of it would bring.
type ExplainRequest struct {
	Ref string `json:"ref"`
	Credentials
}

// RegistryExplanation tells where a pull looks, in order.
type RegistryExplanation struct {
	Ref       string     `json:"ref"` // in full
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is one place where an image is looked for. It holds no secret.
type Endpoint struct {
	URL          string      `json:"url"`
	Server       bool        `json:"server,omitempty"` // the authority; otherwise a mirror
	Capabilities []string    `json:"capabilities"`
	Source       string      `json:"source,omitempty"` // file or directory that says so; empty: the default
	Auth         string      `json:"auth"`
	CA           []string    `json:"ca,omitempty"`
	Client       [][2]string `json:"client,omitempty"` // files of certificate and key
	SkipVerify   bool        `json:"skip_verify,omitempty"`
	Headers      []string    `json:"headers,omitempty"` // names
	Proxy        string      `json:"proxy,omitempty"`
}

// Save writes an archive of images to w.
func (c *Client) Save(ctx context.Context, r *SaveRequest, w io.Writer) error {
	return receive(ctx, c, "Save", r, func(chunk *Chunk) error {
		_, err := w.Write(chunk.Data)
		return err
	})
}

// Push sends an image to a registry and gives the digest of its manifest.
// progress may be nil.
func (c *Client) Push(ctx context.Context, r *PushRequest, progress func(*Progress)) (digest string, err error) {
	err = receive(ctx, c, "Push", r, func(p *Progress) error {
		switch {
		case p.Digest != "":
			digest = p.Digest
		case progress != nil:
			progress(p)
		}
		return nil
	})
	return digest, err
}

// Untag takes the name ref from its image, which stays.
func (c *Client) Untag(ctx context.Context, ref string) error {
	_, err := call[Empty](ctx, c, "Untag", &ImageRequest{Ref: ref})
	return err
}

// Prune removes images that no container uses.
func (c *Client) Prune(ctx context.Context, r *PruneRequest) (*PruneResult, error) {
	return call[PruneResult](ctx, c, "Prune", r)
}

// ExplainRegistry tells where a pull would look, in order.
func (c *Client) ExplainRegistry(ctx context.Context, r *ExplainRequest) (*RegistryExplanation, error) {
	return call[RegistryExplanation](ctx, c, "ExplainRegistry", r)
}

// LoginRequest asks whether a registry takes credentials.
type LoginRequest struct {
	Host string `json:"host"` // HOST[:PORT]
	Credentials
}

// CheckLogin asks a registry whether it takes credentials.
func (c *Client) CheckLogin(ctx context.Context, r *LoginRequest) error {
	_, err := call[Empty](ctx, c, "CheckLogin", r)
	return err
}
