package imageservice

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berth-runtime/berth/imageservice/content"
	"github.com/berth-runtime/berth/imageservice/inflate"
	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/unpack"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// With Config.KeepBlobs the blobs of layers stay as they came, beside the
// unpacked layers, and an image that has all of them is saved and pushed by
// its own manifest instead of a new one. A kept blob belongs to images, as
// configs do, not to layers: equal layers may come as different blobs.
//
// An artifact has all its blobs in any case: those of its files are the files,
// and those of its tars are kept, as there is nothing else that gives them again.

// keptManifest gives the manifest of the bundle's image and its digest; nil
// if it has none, as in docker's archives.
func (b *bundle) keptManifest() (*v1.Manifest, digest.Digest) {
	id := digest.FromBytes(b.config)
	for _, raw := range append([][]byte{b.config}, b.blobs...) {
		doc, err := manifest.Parse("", raw)
		if err == nil && doc.Manifest != nil && imageID(doc.Manifest, raw) == id {
			return doc.Manifest, digest.FromBytes(raw)
		}
	}
	return nil, ""
}

// willKeep names in row the manifest of b and its layers' blobs, if they are
// to be kept, and reports whether they are.
func (s *Service) willKeep(row *meta.Image, b bundle) bool {
	m, sum := b.keptManifest()
	if m == nil || !s.cfg.KeepBlobs && !manifest.IsArtifact(m) {
		return false
	}
	row.Manifest = sum
	for i, l := range m.Layers {
		if !b.layers[i].part.IsFile() {
			row.Blobs = append(row.Blobs, l.Digest)
		}
	}
	return true
}

// keepBlobs makes blobs of what was received of layers, and fetches what was
// not, since the layer itself was here.
func (s *Service) keepBlobs(ctx context.Context, layers []source) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, src := range layers {
		if !src.part.IsFile() {
			g.Go(func() error { return s.keepBlob(ctx, src) })
		}
	}
	return g.Wait()
}

func (s *Service) keepBlob(ctx context.Context, src source) error {
	defer s.layerLocks.Lock(blobKey(src.blob))()
	if s.blobs.Has(src.blob) {
		return nil
	}
	in, err := s.wholeIngest(ctx, src)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if err := s.receive(ctx, in, src); err != nil {
		return err
	}
	return in.Commit()
}

// blobKey is the key of the lock over the fetching of one blob.
func blobKey(d digest.Digest) string { return "blob " + d.String() }

// wholeIngest opens the part of a layer's blob. It waits for a flight that
// has it, since what that receives need not be fetched again.
func (s *Service) wholeIngest(ctx context.Context, src source) (*content.Ingest, error) {
	if !src.remote {
		// An archive cannot be read from an offset.
		if err := s.blobs.Abandon(src.blob); err != nil {
			return nil, err
		}
	}
	for {
		in, err := s.ingest(src)
		if !errkind.Is(err, errkind.FailedPrecondition) {
			return in, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// receive adds to in what it lacks of the blob.
func (s *Service) receive(ctx context.Context, in *content.Ingest, src source) error {
	if in.Offset() == src.size {
		return nil
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	rest, err := src.open(ctx, in.Offset())
	if err != nil {
		return err
	}
	_, err = io.Copy(in, io.LimitReader(rest, src.size-in.Offset()+1))
	return errors.Join(err, rest.Close())
}

// blobSize is what a stored blob takes on disk; 0 if it is absent.
func (s *Service) blobSize(d digest.Digest) uint64 {
	fi, err := os.Lstat(s.blobs.Path(d))
	if err != nil {
		return 0
	}
	return unpack.OnDisk(fi.Size())
}

// kept gives the manifest of an image all of whose blobs are kept; nil if
// they are not.
func (s *Service) kept(row meta.Image) (m *v1.Manifest, raw []byte, err error) {
	if row.Manifest == "" {
		return nil, nil, nil
	}
	if raw, err = s.blobs.ReadFile(row.Manifest, manifest.MaxBytes); err != nil {
		return nil, nil, err
	}
	doc, err := manifest.Parse("", raw)
	if err == nil && doc.Manifest == nil {
		err = errkind.New(errkind.DataLoss, "cannot use manifest %s: it is an index", row.Manifest)
	}
	return doc.Manifest, raw, err
}

// blobFiles are the files that have the blobs of a kept manifest, whose bytes
// are raw: of its config, then of its layers.
func (s *Service) blobFiles(row meta.Image, m *v1.Manifest, raw []byte) ([]string, error) {
	var parts []manifest.Part
	if manifest.IsArtifact(m) {
		config, err := manifest.ParseConfig(raw)
		if err != nil {
			return nil, err
		}
		parts = config.Artifact.Parts
	}
	files := []string{s.blobs.Path(m.Config.Digest)}
	for i, l := range m.Layers {
		if parts != nil && parts[i].IsFile() {
			files = append(files, filepath.Join(s.layerFS(row.Layers[i]), parts[i].File))
		} else {
			files = append(files, s.blobs.Path(l.Digest))
		}
	}
	return files, nil
}

// inflateKept writes the tar of a layer from its kept blob to w and verifies
// it.
func (s *Service) inflateKept(ctx context.Context, w io.Writer, d v1.Descriptor, diffID digest.Digest) error {
	f, err := os.Open(s.blobs.Path(d.Digest))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	plain, err := inflate.Reader(f)
	if err != nil {
		return kinded(err, "cannot read blob %s", d.Digest)
	}
	defer func() { _ = plain.Close() }()
	tar := &meter{ctx: ctx, r: plain, hash: sha256.New()}
	if _, err := io.Copy(w, tar); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, tar.hash); got != diffID {
		return errkind.New(errkind.DataLoss, "cannot write layer %s: its kept blob %s gives a tar of digest %s", diffID, d.Digest, got)
	}
	return nil
}
