package imageservice

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berth-runtime/berth/imageservice/archive"
	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// ArchiveFormat says what Save writes.
type ArchiveFormat = archive.Format

// The formats of Save.
const (
	ArchiveOCI    = archive.OCI
	ArchiveDocker = archive.Docker
)

// Save writes the images that names name into one archive, from which Load
// gives the same image ids. Each has the tag by which it was named; one named
// by id or digest has none. Equal calls write equal bytes. An OCI archive has
// the manifest and the blobs with which an image came, if they are kept.
func (s *Service) Save(ctx context.Context, names []string, format ArchiveFormat, w io.Writer) error {
	a, remove, err := s.newArchive(format)
	if err != nil {
		return kinded(err, "cannot save images")
	}
	defer remove()
	tags := map[string][]string{} // by image id
	var ids []string
	for _, name := range names {
		image, tag, err := s.named(ctx, name)
		if err != nil {
			return kinded(err, "cannot save image %s", name)
		}
		if !slices.Contains(ids, image.ID) {
			ids = append(ids, image.ID)
		}
		if tag != "" {
			tags[image.ID] = union(tags[image.ID], []string{tag})
		}
	}
	for _, id := range ids {
		if _, err := s.export(ctx, a, id, tags[id], format); err != nil {
			return kinded(err, "cannot save image %s", id)
		}
	}
	if err := a.WriteTar(w); err != nil {
		return kinded(err, "cannot save images")
	}
	return nil
}

// newArchive makes an archive in the spool. The caller removes it.
func (s *Service) newArchive(format ArchiveFormat) (a *archive.Writer, remove func(), err error) {
	dir, err := os.MkdirTemp(s.spoolDir(), "save-")
	if err != nil {
		return nil, nil, err
	}
	remove = func() { _ = removeTree(dir) }
	if a, err = archive.NewWriter(dir, format); err != nil {
		remove()
		return nil, nil, err
	}
	return a, remove, nil
}

// named finds an image, and the tag that name is, if it is one.
func (s *Service) named(ctx context.Context, name string) (image Image, tag string, err error) {
	if image, err = s.Status(ctx, name); err != nil {
		return image, "", err
	}
	if ref, err := refs.Parse(name, s.cfg.DefaultRegistry); err == nil && slices.Contains(image.Tags, ref.String()) {
		tag = ref.String()
	}
	return image, tag, nil
}

// exported is what an image became in an archive.
type exported struct {
	manifest v1.Descriptor
	layers   []v1.Descriptor
}

// export puts an image into an archive.
func (s *Service) export(ctx context.Context, a *archive.Writer, id string, tags []string, format ArchiveFormat) (e exported, err error) {
	row, release, err := s.holdImage(id)
	if err != nil {
		return e, err
	}
	defer release()
	m, raw, err := s.kept(row)
	if err != nil {
		return e, err
	}
	if m != nil && format == ArchiveOCI {
		return s.exportKept(ctx, a, row, m, raw, tags)
	}
	b, err := s.blobs.ReadFile(digest.Digest(id), manifest.MaxBytes)
	if err != nil {
		return e, err
	}
	config, err := manifest.ParseConfig(b)
	if err != nil {
		return e, err
	}
	if config.Artifact != nil {
		return e, errkind.New(errkind.FailedPrecondition, "it is an artifact, which docker's archives cannot hold; use the format oci")
	}
	e.layers = make([]v1.Descriptor, len(row.Layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range row.Layers {
		stack := slices.Clone(row.Layers[:i+1])
		slices.Reverse(stack)
		g.Go(func() (err error) {
			e.layers[i], err = a.Layer(func(w io.Writer) error {
				if m != nil {
					return s.inflateKept(ctx, w, m.Layers[i], config.DiffIDs[i])
				}
				return s.writeTar(ctx, w, stack, config.DiffIDs[i])
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return e, err
	}
	e.manifest, err = a.Image(b, e.layers, tags)
	return e, err
}

// exportKept puts an image into an archive as it came.
func (s *Service) exportKept(ctx context.Context, a *archive.Writer, row meta.Image, m *v1.Manifest, raw []byte, tags []string) (e exported, err error) {
	files, err := s.blobFiles(row, m, raw)
	if err != nil {
		return e, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		g.Go(func() error { return errors.Join(ctx.Err(), a.Blob(d, files[i])) })
	}
	if err := g.Wait(); err != nil {
		return e, err
	}
	e.layers = m.Layers
	e.manifest, err = a.Manifest(cmp.Or(m.MediaType, v1.MediaTypeImageManifest), raw, tags)
	return e, err
}

// holdImage keeps the layers and blobs of an image until they are released.
func (s *Service) holdImage(id string) (row meta.Image, release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.state.Images[id]
	if !ok {
		return row, nil, errkind.New(errkind.NotFound, "cannot find image %s: it was removed meanwhile", id)
	}
	var holds []hold
	for _, seq := range row.Layers {
		s.held[seq]++
		holds = append(holds, hold{row: s.state.Layers[seq]})
	}
	for _, d := range row.Blobs {
		s.heldBlobs[d]++
	}
	return row, func() { _ = errors.Join(s.release(holds...), s.releaseBlobs(row.Blobs)) }, nil
}
