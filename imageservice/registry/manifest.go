package registry

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// The media types of docker; those of OCI are in the image specification.
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Manifest is the bytes of a manifest or index, verified to be Digest's.
type Manifest struct {
	MediaType string
	Digest    digest.Digest
	Bytes     []byte
}

// IsIndex reports whether m lists manifests of several platforms.
func (m Manifest) IsIndex() bool {
	return m.MediaType == ocispec.MediaTypeImageIndex || m.MediaType == MediaTypeDockerList
}

// Manifest fetches a manifest or index by tag or digest; "" is what the
// reference itself says. By tag only endpoints trusted to resolve are asked.
// Errors: NotFound, PermissionDenied, Unavailable, InvalidArgument if it is
// over MaxManifest or no manifest at all, DataLoss if it is not the digest's.
func (r *Repository) Manifest(ctx context.Context, tagOrDigest string) (Manifest, error) {
	if tagOrDigest == "" {
		if tagOrDigest = r.ref.Tag; r.ref.Digest != "" {
			tagOrDigest = r.ref.Digest.String()
		}
	}
	want, isDigest := digest.Digest(tagOrDigest), strings.Contains(tagOrDigest, ":")
	what, need := "manifest "+r.ref.Name(), canResolve
	if isDigest {
		if err := checkDigest(want); err != nil {
			return Manifest{}, err
		}
		what, need = what+"@"+tagOrDigest, canPull
	} else {
		if !validTag(tagOrDigest) {
			return Manifest{}, errkind.New(errkind.InvalidArgument, "cannot fetch %s: %q is not a tag", what, tagOrDigest)
		}
		what, want = what+":"+tagOrDigest, ""
	}
	var m Manifest
	err := r.try(ctx, verbFetch, what, need, func(e *endpoint) error {
		var err error
		m, err = e.manifest(ctx, r.ref.Path, tagOrDigest, want)
		return err
	})
	return m, err
}

func validTag(tag string) bool {
	return reference.TagRegexp.FindString(tag) == tag && tag != ""
}

func checkDigest(d digest.Digest) error {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return errkind.New(errkind.InvalidArgument, "cannot fetch %q: it is not a sha256 digest", string(d))
	}
	return nil
}

// manifest fetches name; want is the digest it must have, "" if not known.
func (e *endpoint) manifest(ctx context.Context, path, name string, want digest.Digest) (Manifest, error) {
	resp, err := e.get(ctx, path, "manifests/"+name, http.Header{"Accept": {
		ocispec.MediaTypeImageIndex, MediaTypeDockerList, ocispec.MediaTypeImageManifest, MediaTypeDockerManifest,
	}})
	if err != nil {
		return Manifest{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return Manifest{}, statusFailure("", resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	switch {
	case err != nil:
		return Manifest{}, err
	case len(body) > MaxManifest:
		return Manifest{}, refuse(errkind.InvalidArgument, "the manifest is larger than the limit of %d bytes", MaxManifest)
	}
	got := digest.FromBytes(body)
	if want == "" {
		// A tag has no digest to hold the host to but the one it states.
		want = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	}
	if checkDigest(want) == nil && got != want {
		return Manifest{}, refuse(errkind.DataLoss, "the manifest's bytes have digest %s, not %s", got, want)
	}
	mediaType, err := classify(resp.Header.Get("Content-Type"), body)
	if err != nil {
		return Manifest{}, err
	}
	return Manifest{MediaType: mediaType, Digest: got, Bytes: body}, nil
}

// classify says what a manifest is. What would be read differently depending
// on which of header, mediaType and fields one believes is refused, lest two
// runtimes see two images under one digest (GHSA-5j5w-g665-5m35).
func classify(header string, body []byte) (string, error) {
	var doc struct {
		MediaType string          `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", refuse(errkind.InvalidArgument, "the manifest is not JSON")
	}
	if doc.FSLayers != nil {
		return "", refuse(errkind.InvalidArgument, "the manifest is of docker's schema 1, which is not supported")
	}
	isIndex, isManifest := doc.Manifests != nil, doc.Config != nil || doc.Layers != nil
	if isIndex == isManifest {
		return "", refuse(errkind.InvalidArgument, "the manifest must have either manifests or config and layers")
	}
	sent, _, _ := mime.ParseMediaType(header)
	known, index := isIndexType(sent)
	if known && index != isIndex {
		return "", refuse(errkind.InvalidArgument, "the manifest was sent as %q, of which it does not have the fields", sent)
	}
	stated := doc.MediaType
	if stated == "" {
		// The field is optional in OCI; plain file servers send any header.
		if stated = sent; !known {
			stated = ocispec.MediaTypeImageManifest
			if isIndex {
				stated = ocispec.MediaTypeImageIndex
			}
		}
	}
	known, index = isIndexType(stated)
	if !known || index != isIndex {
		return "", refuse(errkind.InvalidArgument, "the manifest's fields are not those of media type %q", stated)
	}
	return stated, nil
}

func isIndexType(mediaType string) (known, index bool) {
	switch mediaType {
	case ocispec.MediaTypeImageIndex, MediaTypeDockerList:
		return true, true
	case ocispec.MediaTypeImageManifest, MediaTypeDockerManifest:
		return true, false
	}
	return false, false
}
