package imageservice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/unpack"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// bundle is all that makes an image, wherever it comes from.
type bundle struct {
	config  []byte   // of an artifact the manifest
	blobs   [][]byte // manifest and index to keep, if there are any, and an artifact's config
	media   string   // type of the first of blobs
	tags    []string
	digests []string
	layers  []source // bottom first; install fills in the diff and chain IDs
	again   bool     // it is here already, and if it is no more, it is not to come back
}

// install makes an image of b. Layers come side by side; then their data is
// made durable by one syncfs; then one transaction commits image, tags and
// layers. Until then a crash or a failure leaves nothing.
func (s *Service) install(ctx context.Context, b bundle) (Image, error) {
	config, err := manifest.ParseConfig(b.config)
	if err != nil {
		return Image{}, err
	}
	if err := b.identify(config); err != nil {
		return Image{}, err
	}
	row := meta.Image{ID: digest.FromBytes(b.config).String(), Digests: b.digests}
	whole := s.willKeep(&row, b)
	release, err := s.putBlobs(ctx, &row, append([][]byte{b.config}, b.blobs...))
	defer release()
	if err != nil {
		return Image{}, err
	}
	// The kernel tells a descriptor of the errors of writing that came since it
	// was opened: this one knows of all that the layers will suffer.
	disk, err := os.Open(s.cfg.Root)
	if err != nil {
		return Image{}, err
	}
	defer func() { _ = disk.Close() }()
	holds, err := s.acquireAll(ctx, b.layers)
	defer func() { _ = s.release(holds...) }()
	if err != nil {
		return Image{}, err
	}
	if whole {
		if err := s.step(ctx, verbPull, "keep", func() error { return s.keepBlobs(ctx, b.layers) }); err != nil {
			return Image{}, err
		}
	}
	if !fresh(holds) {
		return s.commit(ctx, row, config, b, holds)
	}
	if err := s.completeAll(ctx, disk, b.layers, holds); err != nil {
		return Image{}, err
	}
	image, err := s.commit(ctx, row, config, b, holds)
	if err != nil {
		return Image{}, err
	}
	// What fails here is dropped with the parts that nobody asks for.
	_ = s.step(ctx, verbPull, "drop-old-parts", func() error { return s.dropParts(b.layers, 0) })
	return image, nil
}

// fresh reports whether some layer was not here before.
func fresh(holds []hold) bool {
	return slices.ContainsFunc(holds, func(h hold) bool { return h.flight != nil })
}

// completeAll completes the layers that are new and makes them durable. disk is
// a descriptor of the store's directory from before they were begun or joined.
func (s *Service) completeAll(ctx context.Context, disk *os.File, layers []source, holds []hold) error {
	// Before anything is synced, which would write to disk what is of no use any
	// more. A part that was begun long ago is written already, costs nothing to
	// keep, and took long to come: it stays until it cannot be needed.
	err := s.step(ctx, verbPull, "drop-parts", func() error {
		return errors.Join(s.dropParts(layers, s.youngPart), s.blobs.AbandonBefore(time.Now().Add(-partAge)))
	})
	if err != nil {
		return err
	}
	// What is there is written to disk while the rest is made, to leave little
	// to the sync that counts.
	early := make(chan error, 1)
	go func() { early <- s.sync(disk, holds) }()
	err = s.settleAll(ctx, holds)
	if err = errors.Join(err, <-early); err != nil {
		return err
	}
	return s.step(ctx, verbPull, "sync", func() error { return s.sync(disk, holds) })
}

// sync makes durable what is in the store. If the kernel says on disk that
// something was not written, it does not say what, and says it once to each
// descriptor: all flights are lost then, since who comes to one of them later
// has a descriptor that hears nothing of it.
func (s *Service) sync(disk *os.File, holds []hold) error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	lost := unix.Syncfs(int(disk.Fd()))
	if lost != nil {
		s.loseFlights(lost)
	}
	for _, h := range holds {
		if h.flight != nil {
			lost = cmp.Or(lost, h.flight.lost)
		}
	}
	if lost != nil {
		return fmt.Errorf("cannot make layers durable: %w", lost)
	}
	return nil
}

// acquireAll gives the holds of all layers, or of those that came before one
// failed.
func (s *Service) acquireAll(ctx context.Context, layers []source) ([]hold, error) {
	holds := make([]hold, len(layers))
	got := make([]bool, len(layers))
	g, ctx := errgroup.WithContext(ctx)
	for i, src := range layers {
		g.Go(func() error {
			h, err := s.acquire(ctx, src)
			holds[i], got[i] = h, err == nil
			return err
		})
	}
	err := g.Wait()
	if err == nil {
		return holds, nil
	}
	var kept []hold
	for i, h := range holds {
		if got[i] {
			kept = append(kept, h)
		}
	}
	return kept, err
}

// settleAll completes the layers from the bottom up.
func (s *Service) settleAll(ctx context.Context, holds []hold) error {
	var lowers []string // topmost first
	for _, h := range holds {
		if h.flight != nil {
			if err := s.step(ctx, verbPull, "settle", func() error { return s.settle(ctx, h.flight, lowers) }); err != nil {
				return err
			}
		}
		if h.opaque() {
			lowers = nil
		}
		lowers = append([]string{s.layerFS(h.seq())}, lowers...)
	}
	return nil
}

// putBlobs stores blobs and writes them into row. They and what row names
// already stay at least until the returned function is called, and longer if a
// row names them by then.
func (s *Service) putBlobs(ctx context.Context, row *meta.Image, blobs [][]byte) (release func(), err error) {
	for _, b := range blobs {
		row.Blobs = append(row.Blobs, digest.FromBytes(b))
	}
	held := slices.Clone(row.Blobs)
	s.mu.Lock()
	for _, d := range held {
		s.heldBlobs[d]++
	}
	s.mu.Unlock()
	release = func() { _ = s.releaseBlobs(held) }
	err = s.step(ctx, verbPull, "blobs", func() error {
		for _, b := range blobs {
			if err := s.blobs.Put(digest.FromBytes(b), b); err != nil {
				return err
			}
		}
		return nil
	})
	return release, err
}

// releaseBlobs lets go of blobs. Those that no row names are deleted.
func (s *Service) releaseBlobs(held []digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range held {
		if s.heldBlobs[d]--; s.heldBlobs[d] == 0 {
			delete(s.heldBlobs, d)
		}
	}
	_, err := s.dropBlobs(held)
	return err
}

// commit writes the rows of an image with those of its new layers.
func (s *Service) commit(ctx context.Context, row meta.Image, config manifest.Config, b bundle, holds []hold) (Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The same image may be here, under another name or by another manifest.
	old, ok := s.state.Images[row.ID]
	if b.again && !ok {
		return Image{}, errkind.New(errkind.NotFound, "cannot commit image %s: it was removed meanwhile", row.ID)
	}
	row.Digests = union(old.Digests, row.Digests)
	row.Blobs = union(old.Blobs, row.Blobs)
	row.Manifest = cmp.Or(row.Manifest, old.Manifest)
	for _, d := range row.Blobs {
		s.blobSizes[d] = s.blobSize(d)
	}
	layers := map[uint64]meta.Layer{}
	for i, h := range holds {
		row.Layers = append(row.Layers, h.seq())
		if h.flight != nil && !h.flight.committed {
			l, err := s.account(h.flight.row(config.DiffIDs[i]))
			if err != nil {
				return Image{}, err
			}
			layers[l.Seq] = l
		}
	}
	if s.knows(row, b.tags) {
		return s.view.Load().image(row.ID), nil
	}
	images := s.healed(layers)
	images[row.ID] = row
	err := s.step(ctx, verbPull, "commit", func() error {
		return s.db.Update(func(tx *meta.Tx) error {
			for _, l := range layers {
				tx.PutLayer(l)
			}
			for _, image := range images {
				tx.PutImage(image)
			}
			for _, tag := range b.tags {
				tx.PutTag(tag, row.ID)
			}
			return nil
		})
	})
	if err != nil {
		return Image{}, fmt.Errorf("cannot commit image %s: %w", row.ID, err)
	}
	for _, h := range holds {
		if f := h.flight; f != nil && !f.committed {
			f.committed = true
			s.forget(f)
			s.held[f.seq] += f.refs
		}
	}
	maps.Copy(s.state.Layers, layers)
	maps.Copy(s.state.Images, images)
	s.configs[row.ID] = config
	for _, tag := range b.tags {
		s.state.Tags[tag] = row.ID
	}
	s.publish()
	return s.view.Load().image(row.ID), nil
}

// account completes the row of a layer with what lies beside its files.
func (s *Service) account(l meta.Layer) (meta.Layer, error) {
	beside, err := os.ReadDir(s.layerDir(l.Seq))
	if err != nil {
		return l, fmt.Errorf("cannot account for layer: %w", err)
	}
	l.Bytes += unpack.OnDisk(1) // the directory itself
	l.Inodes++
	for _, e := range beside {
		if e.IsDir() {
			continue // fs, which was counted while it was unpacked
		}
		fi, err := e.Info()
		if err != nil {
			return l, fmt.Errorf("cannot account for layer: %w", err)
		}
		l.Bytes += unpack.OnDisk(fi.Size())
		l.Inodes++
		l.Recorded = l.Recorded || e.Name() == splitName
	}
	return l, nil
}

// healed gives the images that have a broken layer of which there is now a
// sound one, as they become. mu is held.
func (s *Service) healed(fresh map[uint64]meta.Layer) map[string]meta.Image {
	instead := map[uint64]uint64{}
	for seq, old := range s.state.Layers {
		for _, l := range fresh {
			if !old.Whole() && old.DiffID == l.DiffID && old.Chain == l.Chain {
				instead[seq] = l.Seq
			}
		}
	}
	images := map[string]meta.Image{}
	for id, row := range s.state.Images {
		layers := slices.Clone(row.Layers)
		for i, seq := range layers {
			if to, ok := instead[seq]; ok {
				layers[i] = to
			}
		}
		if !slices.Equal(layers, row.Layers) {
			row.Layers = layers
			images[id] = row
		}
	}
	return images
}

// knows reports whether the database says all of it already. mu is held.
func (s *Service) knows(row meta.Image, tags []string) bool {
	for _, tag := range tags {
		if s.state.Tags[tag] != row.ID {
			return false
		}
	}
	return reflect.DeepEqual(s.state.Images[row.ID], row)
}

func union[T ~string](a, b []T) []T {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}

// kinded gives err an outer text and keeps its kind.
func kinded(err error, format string, args ...any) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errkind.New(errkind.ResourceExhausted, format+": %w", append(args, err)...)
	}
	return errkind.New(errkind.Of(err), format+": %w", append(args, err)...)
}
