package imageservice

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Remove removes the image that ref names, under all its names at once, and
// frees what only it used before it returns; layers of a container stay until
// the container's snapshot goes. An image that is absent is success.
func (s *Service) Remove(ctx context.Context, ref string) error {
	image, err := s.Status(ctx, ref)
	if errkind.Is(err, errkind.NotFound) {
		return nil
	}
	if err != nil {
		return kinded(err, "cannot remove image %s", ref)
	}
	err = s.collect(ctx, verbRemove, func(tx *meta.Tx, st *meta.State) { deleteImage(tx, st, image.ID) })
	if err != nil {
		return kinded(err, "cannot remove image %s", ref)
	}
	s.happened(Event{Kind: EventRemoved, Ref: ref, ID: image.ID})
	return nil
}

// deleteImage deletes an image with all its tags.
func deleteImage(tx *meta.Tx, st *meta.State, id string) {
	tx.DeleteImage(id)
	delete(st.Images, id)
	for tag, of := range st.Tags {
		if of == id {
			tx.DeleteTag(tag)
			delete(st.Tags, tag)
		}
	}
}

// Tag makes dst, a reference with a tag, name the image that src names.
func (s *Service) Tag(ctx context.Context, src, dst string) error {
	to, err := s.tagOf(dst)
	if err != nil {
		return err
	}
	return s.change(func(tx *meta.Tx, st *meta.State) error {
		image, err := s.Status(ctx, src)
		if err != nil {
			return err
		}
		tx.PutTag(to, image.ID)
		st.Tags[to] = image.ID
		return nil
	})
}

// Untag removes one tag and leaves the image, even if that was its last name.
// A tag that is absent is NotFound.
func (s *Service) Untag(_ context.Context, ref string) error {
	tag, err := s.tagOf(ref)
	if err != nil {
		return err
	}
	return s.change(func(tx *meta.Tx, st *meta.State) error {
		if _, ok := st.Tags[tag]; !ok {
			return errkind.New(errkind.NotFound, "cannot remove tag %s: no image has it", tag)
		}
		tx.DeleteTag(tag)
		delete(st.Tags, tag)
		return nil
	})
}

func (s *Service) tagOf(ref string) (string, error) {
	r, err := refs.Parse(ref, s.cfg.DefaultRegistry)
	if err != nil {
		return "", err
	}
	if r.Digest != "" {
		return "", errkind.New(errkind.InvalidArgument, "cannot use %q as a tag: it has a digest", ref)
	}
	return r.String(), nil
}

// change runs do on the rows and on the state, which stay equal.
func (s *Service) change(do func(*meta.Tx, *meta.State) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := cloneState(s.state)
	if err := s.db.Update(func(tx *meta.Tx) error { return do(tx, &next) }); err != nil {
		return err
	}
	s.state = next
	s.publish()
	return nil
}

// collect runs do, which may be nil, and in the same transaction deletes the
// rows of layers that nobody uses afterwards. Then it removes their
// directories and the blobs that no image names.
func (s *Service) collect(ctx context.Context, v verb, do func(*meta.Tx, *meta.State)) error {
	dead, err := s.collectRows(ctx, v, do)
	var errs []error
	for _, seq := range dead {
		errs = append(errs, s.step(ctx, v, "layers", func() error { return removeTree(s.layerDir(seq)) }))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seq := range dead {
		delete(s.dying, seq)
	}
	return errors.Join(append(errs, err)...)
}

func (s *Service) collectRows(ctx context.Context, v verb, do func(*meta.Tx, *meta.State)) (dead []uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if do == nil && len(unused(s.state, s.held)) == 0 {
		return nil, nil
	}
	next := cloneState(s.state)
	err = s.step(ctx, v, "rows", func() error {
		return s.db.Update(func(tx *meta.Tx) error {
			if do != nil {
				do(tx, &next)
			}
			dead = unused(next, s.held)
			for _, seq := range dead {
				tx.DeleteLayer(seq)
				delete(next.Layers, seq)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	var bytes uint64
	for _, seq := range dead {
		bytes += s.state.Layers[seq].Bytes
	}
	var blobs []digest.Digest
	for id, row := range s.state.Images {
		if _, ok := next.Images[id]; !ok {
			delete(s.configs, id)
			blobs = append(blobs, row.Blobs...)
		}
	}
	for _, seq := range dead {
		s.dying[seq] = true
	}
	s.state = next
	s.publish()
	err = s.step(ctx, v, "blobs", func() error {
		freed, err := s.dropBlobs(blobs)
		bytes += freed
		return err
	})
	s.cfg.Observer.Collected(len(dead), bytes)
	return dead, err
}

// unused lists the layers that no image, no snapshot, no step of a build and no
// install uses.
func unused(st meta.State, held map[uint64]int) (seqs []uint64) {
	used := map[uint64]bool{}
	for _, i := range st.Images {
		for _, seq := range i.Layers {
			used[seq] = true
		}
	}
	for _, c := range st.Snapshots {
		for _, seq := range c.Layers {
			used[seq] = true
		}
	}
	for _, b := range st.Builds {
		used[b.Layer] = true
	}
	for seq := range st.Layers {
		if !used[seq] && held[seq] == 0 {
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

// dropBlobs deletes those of blobs that nobody names, and tells how many bytes
// images had in them. mu is held, so that no install takes one for present
// while it is deleted.
func (s *Service) dropBlobs(blobs []digest.Digest) (bytes uint64, err error) {
	named := namedBlobs(s.state)
	var errs []error
	for _, d := range blobs {
		if !named[d] && s.heldBlobs[d] == 0 {
			bytes += s.blobSizes[d]
			delete(s.blobSizes, d)
			errs = append(errs, s.blobs.Delete(d))
		}
	}
	return bytes, errors.Join(errs...)
}

func namedBlobs(st meta.State) map[digest.Digest]bool {
	named := map[digest.Digest]bool{}
	for _, row := range st.Images {
		for _, d := range row.Blobs {
			named[d] = true
		}
	}
	return named
}

// removeTree removes a directory of the store with all below it.
func removeTree(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove %s: %w", dir, err)
	}
	return nil
}
