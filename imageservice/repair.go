package imageservice

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/imageservice/inventory"
	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Repair fetches the layers and blobs of damages again, from the repositories
// from which their images came, and puts the new layers in the place of the
// old in every image. The directory of an old one goes when the last container
// on it does: what is mounted is not changed under those who run on it. auths
// are the credentials for some registries, by host; nil for none. What cannot
// be repaired is DataLoss, and does not keep the others from it.
func (s *Service) Repair(ctx context.Context, damages []Damage, auths map[string]*Auth) error {
	var blobs []digest.Digest
	var layers []Damage
	for _, d := range byLayer(damages) {
		if d.Blob != "" {
			blobs = append(blobs, d.Blob)
		} else {
			layers = append(layers, d)
		}
	}
	errs := s.repairBlobs(ctx, blobs, auths)
	for _, d := range layers {
		if err := s.repairLayer(ctx, d.Layer, auths); err != nil {
			errs = append(errs, errkind.New(errkind.DataLoss, "cannot repair layer %s: %w", d.DiffID, err))
		}
	}
	return errors.Join(errs...)
}

// repairBlobs repairs blobs as long as one of them can be: some are found by
// what others say.
func (s *Service) repairBlobs(ctx context.Context, blobs []digest.Digest, auths map[string]*Auth) (errs []error) {
	for repaired := true; repaired; {
		repaired, errs = false, nil
		blobs = slices.DeleteFunc(blobs, func(d digest.Digest) bool {
			err := s.repairBlob(ctx, d, auths)
			if err != nil {
				errs = append(errs, errkind.New(errkind.DataLoss, "cannot repair blob %s: %w", d, err))
				return false
			}
			repaired = true
			return true
		})
	}
	return errs
}

// repairLayer repairs the first image that can be, and thereby all of them.
func (s *Service) repairLayer(ctx context.Context, seq uint64, auths map[string]*Auth) error {
	s.mu.Lock()
	row, ok := s.state.Layers[seq]
	images, containers := s.users(seq)
	s.mu.Unlock()
	if !ok || row.Whole() {
		return nil
	}
	if len(images) == 0 {
		return errkind.New(errkind.FailedPrecondition, "no image has it any more; it goes with the containers %q", containers)
	}
	var errs []error
	for _, id := range images {
		err := s.repairImage(ctx, id, auths)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// repairImage installs an image anew as it was pulled: by the manifest that
// is kept, with the layers that are sound, and the broken ones from one of its
// repositories.
func (s *Service) repairImage(ctx context.Context, id string, auths map[string]*Auth) error {
	defer s.layerLocks.Lock(id)()
	s.mu.Lock()
	row, ok := s.state.Images[id]
	broken := s.broken(row)
	s.mu.Unlock()
	switch {
	case !ok:
		return errkind.New(errkind.NotFound, "cannot repair image %s: it was removed", id)
	case broken == 0:
		return nil // another call did it
	case len(row.Digests) == 0:
		return errkind.New(errkind.FailedPrecondition, "cannot repair image %s: it came from an archive; load that again", id)
	}
	var errs []error
	for _, name := range row.Digests {
		err := s.refetch(ctx, row, name, auths)
		if err == nil {
			s.cfg.Observer.Repaired(broken, 0)
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// broken counts the layers of the image with which something is wrong. mu is
// held.
func (s *Service) broken(row meta.Image) (n int) {
	for _, seq := range distinct(row.Layers) {
		if !s.state.Layers[seq].Whole() {
			n++
		}
	}
	return n
}

// origin gives the repository that name, a repository and digest of an image,
// is in.
func (s *Service) origin(ctx context.Context, name string, auths map[string]*Auth) (refs.Ref, *registry.Repository, error) {
	ref, err := refs.Parse(name, s.cfg.DefaultRegistry)
	if err != nil {
		return ref, nil, err
	}
	repo, err := s.client.Repository(ctx, ref, auths[ref.Host])
	return ref, repo, err
}

// unstored adds to a registry's refusal what to do about it: the store never
// has anybody's credentials.
func unstored(err error, ref refs.Ref, auths map[string]*Auth) error {
	if !errkind.Is(err, errkind.PermissionDenied) || auths[ref.Host] != nil {
		return err
	}
	return errkind.New(errkind.PermissionDenied, "%w; credentials are never stored: pull it again with credentials, or log in to %s and run berth check --repair", err, ref.Host)
}

// refetch installs the image of row from the repository that name names.
func (s *Service) refetch(ctx context.Context, row meta.Image, name string, auths map[string]*Auth) error {
	ref, repo, err := s.origin(ctx, name, auths)
	if err != nil {
		return err
	}
	b := bundle{digests: row.Digests, again: true}
	m, _, err := findManifest(ctx, ref, &b, func(_ context.Context, name string) (registry.Manifest, error) {
		raw, err := s.blobs.ReadFile(digest.Digest(name), manifest.MaxBytes)
		return registry.Manifest{Bytes: raw}, err
	})
	if err != nil {
		return err
	}
	if imageID(m, b.blobs[len(b.blobs)-1]).String() != row.ID {
		return errkind.New(errkind.NotFound, "cannot repair image %s: %s is another one on this platform", row.ID, name)
	}
	config, err := s.blobs.ReadFile(m.Config.Digest, manifest.MaxBytes)
	if err != nil {
		return err
	}
	b.setConfig(m, config)
	b.layers = s.sources(repo, ref, m, func(Progress) {})
	if _, err := s.install(ctx, b); err != nil {
		return kinded(unstored(err, ref, auths), "cannot repair image %s from %s", row.ID, ref.Name())
	}
	return nil
}

// repairBlob fetches a blob again, from a repository of one of the images
// that have it.
func (s *Service) repairBlob(ctx context.Context, d digest.Digest, auths map[string]*Auth) error {
	s.mu.Lock()
	s.heldBlobs[d]++
	var rows []meta.Image
	for _, id := range s.blobUsers(d) {
		rows = append(rows, s.state.Images[id])
	}
	s.mu.Unlock()
	defer func() { _ = s.releaseBlobs([]digest.Digest{d}) }()
	defer s.layerLocks.Lock(blobKey(d))()
	if s.verifyBlob(d, inventory.Contents) == nil {
		return nil // another call did it
	}
	var errs []error
	for _, row := range rows {
		for _, name := range row.Digests {
			ref, repo, err := s.origin(ctx, name, auths)
			if err == nil {
				err = unstored(s.refetchBlob(ctx, repo, row, d), ref, auths)
			}
			if err == nil {
				s.cfg.Observer.Repaired(0, 1)
				return nil
			}
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return errkind.New(errkind.FailedPrecondition, "no image that has it came from a registry; load it again")
	}
	return errors.Join(errs...)
}

// refetchBlob fetches one blob of the image of row from a repository.
func (s *Service) refetchBlob(ctx context.Context, repo *registry.Repository, row meta.Image, d digest.Digest) error {
	m, _, err := s.kept(row)
	if err != nil && row.Manifest != d {
		return err
	}
	parts := []v1.Descriptor{{Digest: digest.Digest(row.ID), Size: -1}} // its config, unless it is an artifact
	if m != nil {
		parts = append([]v1.Descriptor{m.Config}, m.Layers...)
	}
	for _, part := range parts {
		if part.Digest != d {
			continue
		}
		r, err := s.observed(repo.Blob(ctx, d, part.Size, 0))
		if errkind.Is(err, errkind.NotFound) && m == nil {
			break // an artifact: its id is its manifest's
		}
		if err != nil {
			return err
		}
		return errors.Join(s.replaceBlob(ctx, d, r, part.Size), r.Close())
	}
	got, err := repo.Manifest(ctx, d.String())
	if err != nil {
		return err
	}
	return s.replaceBlob(ctx, d, bytes.NewReader(got.Bytes), int64(len(got.Bytes)))
}

// replaceBlob puts the bytes of r in the place of the blob d; a size that is
// not known is negative.
func (s *Service) replaceBlob(ctx context.Context, d digest.Digest, r io.Reader, size int64) error {
	if size < 0 {
		size = manifest.MaxBytes
	}
	in, err := s.wholeIngest(ctx, source{blob: d})
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if _, err := io.Copy(in, io.LimitReader(r, size+1)); err != nil {
		return err
	}
	return in.Commit()
}
