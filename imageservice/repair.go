package imageservice

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Repair fetches the layers of damages again, from the repositories from
// which their images came, and puts the new ones in the place of the old in
// every image. The directory of an old one goes when the last container on it
// does: what is mounted is not changed under those who run on it. A layer that
// cannot be repaired is DataLoss, and does not keep the others from it.
func (s *Service) Repair(ctx context.Context, damages []Damage) error {
	var errs []error
	for _, d := range byLayer(damages) {
		if err := s.repairLayer(ctx, d.Layer); err != nil {
			errs = append(errs, errkind.New(errkind.DataLoss, "cannot repair layer %s: %w", d.DiffID, err))
		}
	}
	return errors.Join(errs...)
}

// repairLayer repairs the first image that can be, and thereby all of them.
func (s *Service) repairLayer(ctx context.Context, seq uint64) error {
	s.mu.Lock()
	broken := s.state.Layers[seq].Broken != ""
	images, containers := s.users(seq)
	s.mu.Unlock()
	if !broken {
		return nil
	}
	if len(images) == 0 {
		return errkind.New(errkind.FailedPrecondition, "no image has it any more; it goes with the containers %q", containers)
	}
	var errs []error
	for _, id := range images {
		err := s.repairImage(ctx, id)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// repairImage installs an image anew as it was pulled: by the manifest that
// is kept, with the layers that are sound, and the broken ones from one of its
// repositories. Nobody's credentials are kept, so the registry is asked
// without.
func (s *Service) repairImage(ctx context.Context, id string) error {
	defer s.layerLocks.Lock(id)()
	s.mu.Lock()
	row, ok := s.state.Images[id]
	whole := ok && !s.hasBroken(row)
	s.mu.Unlock()
	switch {
	case !ok:
		return errkind.New(errkind.NotFound, "cannot repair image %s: it was removed", id)
	case whole:
		return nil // another call did it
	case len(row.Digests) == 0:
		return errkind.New(errkind.FailedPrecondition, "cannot repair image %s: it came from an archive; load that again", id)
	}
	var errs []error
	for _, name := range row.Digests {
		err := s.refetch(ctx, row, name)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hasBroken reports whether a layer of the image is quarantined. mu is held.
func (s *Service) hasBroken(row meta.Image) bool {
	for _, seq := range row.Layers {
		if s.state.Layers[seq].Broken != "" {
			return true
		}
	}
	return false
}

// refetch installs the image of row from the repository that name names.
func (s *Service) refetch(ctx context.Context, row meta.Image, name string) error {
	ref, err := refs.Parse(name, s.cfg.DefaultRegistry)
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
	repo, err := s.client.Repository(ctx, ref, nil)
	if err != nil {
		return err
	}
	b.layers = sources(repo, ref, m, func(Progress) {})
	if _, err := s.install(ctx, b); err != nil {
		return kinded(err, "cannot repair image %s from %s", row.ID, ref.Name())
	}
	return nil
}
