package imageservice

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/berth-runtime/berth/imageservice/archive"
	"github.com/berth-runtime/berth/imageservice/refs"
)

// Load reads the images of an archive that docker save or an OCI tool wrote,
// compressed or not, and gives them in its order, each with the tags that the
// archive gives it. progress may be nil.
func (s *Service) Load(ctx context.Context, r io.Reader, progress func(Progress)) (images []Image, err error) {
	dir, err := os.MkdirTemp(s.spoolDir(), "load-")
	if err != nil {
		return nil, fmt.Errorf("cannot load images: %w", err)
	}
	defer func() { _ = removeTree(dir) }()
	if err := archive.Spool(ctx, r, dir); err != nil {
		return nil, kinded(err, "cannot load images")
	}
	return s.load(ctx, dir, progress)
}

// LoadDir reads the images of an OCI layout, or of an unpacked docker archive,
// in the directory path.
func (s *Service) LoadDir(ctx context.Context, path string) ([]Image, error) {
	return s.load(ctx, path, nil)
}

func (s *Service) load(ctx context.Context, dir string, progress func(Progress)) ([]Image, error) {
	a, err := archive.Open(dir)
	if err != nil {
		return nil, kinded(err, "cannot load images")
	}
	defer func() { _ = a.Close() }()
	var images []Image
	for _, from := range a.Images {
		b, err := s.bundleOf(a, from, progress)
		if err != nil {
			return images, kinded(err, "cannot load image %s", from.Name())
		}
		image, err := s.install(ctx, b)
		if err != nil {
			return images, kinded(err, "cannot load image %s", from.Name())
		}
		image.Tags = b.tags // it may have had others here
		images = append(images, image)
	}
	return images, nil
}

func (s *Service) bundleOf(a *archive.Archive, from archive.Image, progress func(Progress)) (bundle, error) {
	b := bundle{config: from.Config, blobs: from.Manifests}
	for _, tag := range from.Tags {
		ref, err := refs.Parse(tag, s.cfg.DefaultRegistry)
		if err != nil {
			return b, err
		}
		if ref.Digest == "" {
			b.tags = append(b.tags, ref.String())
		}
	}
	for _, l := range from.Layers {
		b.layers = append(b.layers, source{
			blob: l.Digest,
			size: l.Size,
			open: func(context.Context, int64) (io.ReadCloser, error) { return a.OpenLayer(l) },
			report: func(done int64, status string) {
				if progress != nil {
					progress(Progress{Ref: from.Name(), Layer: l.Name, Done: done, Total: l.Size, Status: status})
				}
			},
		})
	}
	return b, nil
}
