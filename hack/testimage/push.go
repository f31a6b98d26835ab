package testimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Push writes img to a registry that speaks plain HTTP, under reference
// (host:port/name:tag), and returns the manifest's digest.
func Push(ctx context.Context, reference string, img v1.Image) (v1.Hash, error) {
	r, err := parse(reference)
	if err != nil {
		return v1.Hash{}, err
	}
	return r.image(ctx, r.tag, img)
}

// PushIndex writes one image per architecture and an index over them.
func PushIndex(ctx context.Context, reference string, images map[string]v1.Image) (v1.Hash, error) {
	r, err := parse(reference)
	if err != nil {
		return v1.Hash{}, err
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, arch := range slices.Sorted(maps.Keys(images)) {
		img := images[arch]
		digest, err := img.Digest()
		if err != nil {
			return v1.Hash{}, err
		}
		if _, err := r.image(ctx, digest.String(), img); err != nil {
			return v1.Hash{}, err
		}
		size, err := img.Size()
		if err != nil {
			return v1.Hash{}, err
		}
		kind, err := img.MediaType()
		if err != nil {
			return v1.Hash{}, err
		}
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: kind, Size: size, Digest: digest, Platform: &v1.Platform{Architecture: arch, OS: "linux"},
		})
	}
	data, err := json.Marshal(index)
	if err != nil {
		return v1.Hash{}, err
	}
	return PushManifest(ctx, reference, string(types.OCIImageIndex), data)
}

// PushManifest writes data as a manifest of any kind, well-formed or not as
// far as the registry lets it.
func PushManifest(ctx context.Context, reference, mediaType string, data []byte) (v1.Hash, error) {
	r, err := parse(reference)
	if err != nil {
		return v1.Hash{}, err
	}
	if err := r.put(ctx, r.base+"/manifests/"+r.tag, mediaType, data); err != nil {
		return v1.Hash{}, fmt.Errorf("cannot push %s: %w", reference, err)
	}
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}, nil
}

// Blob is a layer of an artifact.
type Blob struct {
	MediaType, Title, Data string // Title may be empty
}

// PushArtifact writes an artifact of type kind with the empty config, and
// returns the manifest's digest.
func PushArtifact(ctx context.Context, reference, kind string, blobs ...Blob) (v1.Hash, error) {
	r, err := parse(reference)
	if err != nil {
		return v1.Hash{}, err
	}
	write := func(mediaType string, data []byte) (ocispec.Descriptor, error) {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		return d, r.blob(ctx, v1.Hash{Algorithm: "sha256", Hex: d.Digest.Encoded()}, data)
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind, Layers: []ocispec.Descriptor{}}
	if m.Config, err = write(ocispec.MediaTypeEmptyJSON, ocispec.DescriptorEmptyJSON.Data); err != nil {
		return v1.Hash{}, err
	}
	for _, b := range blobs {
		d, err := write(b.MediaType, []byte(b.Data))
		if err != nil {
			return v1.Hash{}, err
		}
		if b.Title != "" {
			d.Annotations = map[string]string{ocispec.AnnotationTitle: b.Title}
		}
		m.Layers = append(m.Layers, d)
	}
	data, err := json.Marshal(m)
	if err != nil {
		return v1.Hash{}, err
	}
	return PushManifest(ctx, reference, m.MediaType, data)
}

// repository is where to push to: the distribution protocol as far as a test
// needs it, so that no client of ours tests itself.
type repository struct{ base, tag string }

func parse(reference string) (repository, error) {
	host, rest, ok := strings.Cut(reference, "/")
	repo, tag, tagged := strings.Cut(rest, ":")
	if !ok || repo == "" {
		return repository{}, fmt.Errorf("cannot push %s: want host:port/name:tag", reference)
	}
	if !tagged {
		tag = "latest"
	}
	return repository{base: "http://" + host + "/v2/" + repo, tag: tag}, nil
}

func (r repository) image(ctx context.Context, tag string, img v1.Image) (v1.Hash, error) {
	layers, err := img.Layers()
	if err != nil {
		return v1.Hash{}, err
	}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return v1.Hash{}, err
		}
		content, err := l.Compressed()
		if err != nil {
			return v1.Hash{}, err
		}
		data, err := io.ReadAll(content)
		content.Close()
		if err != nil {
			return v1.Hash{}, err
		}
		if err := r.blob(ctx, digest, data); err != nil {
			return v1.Hash{}, err
		}
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return v1.Hash{}, err
	}
	id, err := img.ConfigName()
	if err != nil {
		return v1.Hash{}, err
	}
	if err := r.blob(ctx, id, config); err != nil {
		return v1.Hash{}, err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	kind, err := img.MediaType()
	if err != nil {
		return v1.Hash{}, err
	}
	if err := r.put(ctx, r.base+"/manifests/"+tag, string(kind), manifest); err != nil {
		return v1.Hash{}, err
	}
	return img.Digest()
}

func (r repository) blob(ctx context.Context, sum v1.Hash, data []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/blobs/uploads/", nil)
	if err != nil {
		return err
	}
	header, err := do(req, http.StatusAccepted)
	if err != nil {
		return fmt.Errorf("cannot start the upload of %s: %w", sum, err)
	}
	to, err := req.URL.Parse(header.Get("Location"))
	if err != nil {
		return err
	}
	query := to.Query()
	query.Set("digest", sum.String())
	to.RawQuery = query.Encode()
	return r.put(ctx, to.String(), "application/octet-stream", data)
}

func (r repository) put(ctx context.Context, to, mediaType string, data []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, to, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", mediaType)
	_, err = do(req, http.StatusCreated)
	return err
}

// do gives the header of the answer.
func do(req *http.Request, want int) (http.Header, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return nil, fmt.Errorf("%s %s: %s: %s", req.Method, req.URL, resp.Status, body)
	}
	return resp.Header, nil
}
