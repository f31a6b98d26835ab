package imageservice

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/imageservice/inflate"
	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// An artifact is stored as an image whose config is its manifest and whose
// layers are its parts. A part that is a file passes for a tar with that one
// file, so that all that holds for layers holds for it: one flight, limits,
// inventory, verification, repair.

// imageID is the id of what the manifest m, whose bytes are raw, describes.
func imageID(m *v1.Manifest, raw []byte) digest.Digest {
	if manifest.IsArtifact(m) {
		return digest.FromBytes(raw)
	}
	return m.Config.Digest
}

// setConfig gives the bundle the config to which m leads. The manifest is the
// last of its blobs.
func (b *bundle) setConfig(m *v1.Manifest, config []byte) {
	if !manifest.IsArtifact(m) {
		b.config = config
		return
	}
	last := len(b.blobs) - 1
	b.config, b.blobs = b.blobs[last], append(slices.Clone(b.blobs[:last]), config)
}

// identify tells the layers of the bundle what they are by the config.
func (b *bundle) identify(config manifest.Config) error {
	if len(config.DiffIDs) != len(b.layers) {
		return errkind.New(errkind.InvalidArgument, "cannot use image: its manifest has %d layers and its config %d", len(b.layers), len(config.DiffIDs))
	}
	chains := identity.ChainIDs(slices.Clone(config.DiffIDs))
	for i := range b.layers {
		l := &b.layers[i]
		l.diffID, l.chain = config.DiffIDs[i], chains[i]
		if config.Artifact == nil {
			continue
		}
		if l.part = &config.Artifact.Parts[i]; l.part.Blob != l.blob {
			return errkind.New(errkind.InvalidArgument, "cannot use artifact: its part %d is blob %s, but %s came for it", i, l.part.Blob, l.blob)
		}
	}
	return nil
}

// tar gives the tar in the bytes of a source.
func (src source) tar(blob io.Reader, decoders *inflate.Decoders) (io.ReadCloser, error) {
	if !src.part.IsFile() {
		return decoders.Reader(blob)
	}
	return fileTar(src.part.File, src.size, blob)
}

// fileTar gives a tar of one file, with the directories above it.
func fileTar(name string, size int64, content io.Reader) (io.ReadCloser, error) {
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	for i, c := range name {
		if c != '/' {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Name: name[:i+1], Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		return nil, err
	}
	const block = 512
	tail := strings.NewReader(strings.Repeat("\x00", int((block-size%block)%block)+2*block))
	return io.NopCloser(io.MultiReader(&head, &exactly{r: content, left: size}, tail)), nil
}

// exactly reads the given number of bytes, and fails if r has less or more.
type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	n, err := e.r.Read(p[:min(int64(len(p)), e.left+1)])
	if e.left -= int64(n); e.left < 0 || e.left > 0 && errors.Is(err, io.EOF) {
		return 0, errkind.New(errkind.InvalidArgument, "cannot use blob: its size is not what its manifest says")
	}
	return n, err
}
