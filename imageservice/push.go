package imageservice

import (
	"bytes"
	"context"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berth-runtime/berth/imageservice/archive"
	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// The values of Progress.Status while pushing; StatusExists and StatusDone
// come too.
const (
	StatusPreparing = "preparing"
	StatusPushing   = "pushing"
)

// PushRequest asks to send an image to a registry.
type PushRequest struct {
	Image    string         // as Status takes it
	Ref      string         // where to, with a tag; empty: Image is the reference
	Auth     *Auth          // nil for anonymous
	Progress func(Progress) // may be nil; called from many goroutines, must not block
}

// Push sends an image to a registry and gives the digest of its manifest. The
// image id and the diff IDs are those of the image. Manifest and layers' blobs
// are those with which it came, if they are kept; else the layers are
// compressed anew, the same on every node. A blob that the registry has, there
// or in another repository that we know of, is not sent.
func (s *Service) Push(ctx context.Context, r PushRequest) (digest.Digest, error) {
	if r.Ref == "" {
		r.Ref = r.Image
	}
	ref, err := refs.Parse(r.Ref, s.cfg.DefaultRegistry)
	if err == nil && ref.Digest != "" {
		err = errkind.New(errkind.InvalidArgument, "it has a digest; a push needs a tag")
	}
	if err != nil {
		return "", kinded(err, "cannot push to %q", r.Ref)
	}
	image, err := s.Status(ctx, r.Image)
	if err != nil {
		return "", kinded(err, "cannot push %s", ref)
	}
	to, err := s.client.Pusher(ctx, ref, r.Auth)
	if err != nil {
		return "", kinded(err, "cannot push %s", ref)
	}
	to.From = s.neighbour(image, ref)
	p := pushing{to: to, ref: ref, progress: r.Progress}
	sum, err := s.push(ctx, p, image.ID)
	if err != nil {
		return "", kinded(err, "cannot push %s", ref)
	}
	return sum, nil
}

// neighbour gives another repository of ref's registry that may have the
// image's blobs: one that it came from, or else one that it has the name of.
func (s *Service) neighbour(image Image, ref refs.Ref) string {
	for _, name := range slices.Concat(image.Digests, image.Tags) {
		if r, err := refs.Parse(name, s.cfg.DefaultRegistry); err == nil && r.Host == ref.Host && r.Path != ref.Path {
			return r.Path
		}
	}
	return ""
}

// pushing is one push under way.
type pushing struct {
	to       *registry.Pusher
	ref      refs.Ref
	progress func(Progress)
}

func (p pushing) report(layer digest.Digest, done, total int64, status string) {
	if p.progress != nil {
		p.progress(Progress{Ref: p.ref.String(), Layer: layer.String(), Done: done, Total: total, Status: status})
	}
}

func (s *Service) push(ctx context.Context, p pushing, id string) (digest.Digest, error) {
	row, release, err := s.holdImage(id)
	if err != nil {
		return "", err
	}
	defer release()
	d := v1.Descriptor{Digest: digest.Digest(id)}
	if m, _, err := s.kept(row); err != nil {
		return "", err
	} else if m != nil {
		d = m.Config
	}
	config, err := s.blobs.ReadFile(d.Digest, manifest.MaxBytes)
	if err != nil {
		return "", err
	}
	// The config goes first: a registry that does not want the image says so
	// before its layers are compressed.
	d.Size = int64(len(config))
	err = p.blob(ctx, d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config)), nil })
	if err != nil {
		return "", err
	}
	a, remove, err := s.newArchive(archive.OCI)
	if err != nil {
		return "", err
	}
	defer remove()
	p.report("", 0, 0, StatusPreparing)
	e, err := s.export(ctx, a, id, nil, ArchiveOCI)
	if err != nil {
		return "", err
	}
	g, uploading := errgroup.WithContext(ctx)
	g.SetLimit(s.cfg.MaxParallelLayers)
	for _, l := range distinctBlobs(e.layers) {
		g.Go(func() error {
			return p.blob(uploading, l, func() (io.ReadCloser, error) { return a.Open(l.Digest) })
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	f, err := a.Open(e.manifest.Digest)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(f)
	if err != nil {
		return "", err
	}
	return e.manifest.Digest, p.to.Manifest(ctx, p.ref.Tag, e.manifest.MediaType, b)
}

// distinctBlobs leaves out what comes again, which two would send at a time.
func distinctBlobs(all []v1.Descriptor) []v1.Descriptor {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b v1.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return slices.CompactFunc(all, func(a, b v1.Descriptor) bool { return a.Digest == b.Digest })
}

// blob sends one blob.
func (p pushing) blob(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	sent, err := p.to.Blob(ctx, d.Digest, d.Size, func() (io.ReadCloser, error) {
		r, err := open()
		if err != nil {
			return nil, err
		}
		return &sending{ReadCloser: r, report: func(n int64) { p.report(d.Digest, n, d.Size, StatusPushing) }}, nil
	})
	if err != nil {
		return err
	}
	status := StatusExists
	if sent {
		status = StatusDone
	}
	p.report(d.Digest, d.Size, d.Size, status)
	return nil
}

// sending reports how much of a blob was read.
type sending struct {
	io.ReadCloser
	n, reported int64
	report      func(int64)
}

func (s *sending) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if s.n += int64(n); s.n-s.reported >= reportEvery {
		s.reported = s.n
		s.report(s.n)
	}
	return n, err
}
