package imageservice

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/snapshot"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
)

// Prepare gives a container a writable layer on an image. The row comes first
// and keeps the image's layers, even if the image is removed later, until
// Discard. A second Prepare of the same container and image does nothing. An
// image that is absent is NotFound. A damaged one is fetched again first; if
// it cannot be, it is DataLoss.
func (s *Service) Prepare(ctx context.Context, containerID, imageID string) error {
	if err := checkContainerID(containerID); err != nil {
		return err
	}
	defer s.snapshotLocks.Lock(containerID)()
	if err := s.trustSource(ctx, imageID); err != nil {
		return kinded(err, "cannot prepare snapshot of container %s from image %s", containerID, imageID)
	}
	var row meta.Snapshot
	err := s.step(ctx, verbSnapshot, "rows", func() (err error) {
		row, err = s.snapshotOf(ctx, containerID, imageID)
		return err
	})
	if err == nil {
		err = s.step(ctx, verbSnapshot, "directories", func() error { return s.makeSnapshot(row) })
	}
	if err != nil {
		return kinded(err, "cannot prepare snapshot of container %s from image %s", containerID, imageID)
	}
	return nil
}

// trustSource makes sure that a container can start on an image, or on what a
// build serves by that name.
func (s *Service) trustSource(ctx context.Context, imageID string) error {
	s.mu.Lock()
	root, ok := s.served[imageID]
	s.mu.Unlock()
	if ok {
		return s.trust(ctx, root.layers)
	}
	image, err := s.Status(ctx, imageID)
	if err != nil {
		return err
	}
	return s.trustImage(ctx, image.ID)
}

// makeSnapshot makes the directories of a snapshot that has a row.
func (s *Service) makeSnapshot(row meta.Snapshot) error {
	return snapshot.At(s.snapshotDir(row.Container)).Create(s.rootOf(row), nil)
}

// snapshotOf gives the row of a container's snapshot, which it writes if there
// is none.
func (s *Service) snapshotOf(ctx context.Context, containerID, imageID string) (row meta.Snapshot, err error) {
	err = s.change(func(tx *meta.Tx, st *meta.State) error {
		id := imageID
		root, served := s.served[imageID]
		layers := root.layers
		if !served {
			image, err := s.Status(ctx, imageID)
			if err != nil {
				return err
			}
			id, layers = image.ID, st.Images[image.ID].Layers
		}
		old, ok := st.Snapshots[containerID]
		if ok && old.Image != id {
			return errkind.New(errkind.AlreadyExists, "it has one already, of image %s", old.Image)
		}
		if row = old; ok {
			return nil
		}
		row = meta.Snapshot{Container: containerID, Image: id, Layers: layers, Created: time.Now()}
		tx.PutSnapshot(row)
		st.Snapshots[containerID] = row
		return nil
	})
	return row, err
}

// rootOf is the directory whose owner and mode a container sees at "/": of
// the topmost layer that says something about it.
func (s *Service) rootOf(row meta.Snapshot) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seq := range slices.Backward(row.Layers) {
		if l := s.state.Layers[seq]; l.Root || l.Opaque {
			return s.layerFS(seq)
		}
	}
	if len(row.Layers) > 0 {
		return s.layerFS(row.Layers[0])
	}
	return s.emptyDir()
}

// lowers are the layer directories for overlayfs, topmost first. A layer that
// comes twice counts once, at its upper place: the lower one adds nothing,
// and overlayfs refuses the same directory twice.
func (s *Service) lowers(row meta.Snapshot) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var dirs []string
	seen := map[uint64]bool{}
	for _, seq := range slices.Backward(row.Layers) {
		if !seen[seq] {
			dirs = append(dirs, s.layerFS(seq))
		}
		seen[seq] = true
		if s.state.Layers[seq].Opaque {
			break
		}
	}
	if len(dirs) == 0 {
		dirs = []string{s.emptyDir()}
	}
	return dirs
}

func (s *Service) snapshotRow(containerID string) (meta.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.state.Snapshots[containerID]
	if !ok {
		return row, errkind.New(errkind.NotFound, "cannot find snapshot of container %s", containerID)
	}
	return row, nil
}

// trustedRow gives the row of a snapshot of which all layers can be mounted.
// What is mounted at target already is not looked at again.
func (s *Service) trustedRow(ctx context.Context, containerID, target string) (row meta.Snapshot, mounted bool, err error) {
	if row, err = s.snapshotRow(containerID); err != nil {
		return row, false, err
	}
	if mounted, err = snapshot.Mounted(target); err != nil || mounted {
		return row, mounted, err
	}
	return row, false, s.trust(ctx, row.Layers)
}

// Mount mounts the container's root file system at target, a directory that
// it makes if need be. If it is mounted there already, that is success. If a
// layer below it is damaged, it is DataLoss, and a new container is needed.
// With in, the image's files have owners of that user namespace.
func (s *Service) Mount(ctx context.Context, containerID, target string, in *idmap.Pinned, label string) error {
	defer s.snapshotLocks.Lock(containerID)()
	row, mounted, err := s.trustedRow(ctx, containerID, target)
	dirs := snapshot.At(s.snapshotDir(containerID))
	if err == nil && in != nil && !mounted {
		err = dirs.Create(s.rootOf(row), in)
	}
	if err == nil {
		err = snapshot.Mount(dirs, s.lowers(row), target, in, label)
	}
	if err != nil {
		return kinded(err, "cannot mount root of container %s", containerID)
	}
	return nil
}

// MountReadOnly mounts only the image below the container's writable layer,
// as an image volume wants it, with in and label like Mount.
func (s *Service) MountReadOnly(ctx context.Context, containerID, target string, in *idmap.Pinned, label string) error {
	defer s.snapshotLocks.Lock(containerID)()
	row, _, err := s.trustedRow(ctx, containerID, target)
	if err == nil {
		lowers := s.lowers(row)
		if len(lowers) == 1 && lowers[0] != s.emptyDir() {
			// A bind mount of the layer could be remounted writable by a
			// privileged container. An overlay without upper cannot, and it
			// wants two directories.
			lowers = append(lowers, s.emptyDir())
		}
		err = snapshot.MountReadOnly(lowers, target, in, label)
	}
	if err != nil {
		return kinded(err, "cannot mount image of snapshot %s", containerID)
	}
	return nil
}

// ProbeUserNamespaces tells, by doing, why containers in user namespaces
// cannot have their images here; nil: they can. The answer does not change
// while kernel and file system stay.
func (s *Service) ProbeUserNamespaces() error { return snapshot.ProbeMapped(s.snapshotsDir()) }

// Unmount undoes Mount and MountReadOnly. A target that is absent is success.
func (s *Service) Unmount(_ context.Context, target string) error {
	return snapshot.Unmount(target)
}

// Discard removes a container's writable layer, and the layers below it if
// nobody else uses them. It must not be mounted. An absent one is success.
func (s *Service) Discard(ctx context.Context, containerID string) error {
	if err := checkContainerID(containerID); err != nil {
		return err
	}
	defer s.snapshotLocks.Lock(containerID)()
	if _, err := s.snapshotRow(containerID); err != nil {
		return nil
	}
	err := s.step(ctx, verbDiscard, "directories", func() error { return removeTree(s.snapshotDir(containerID)) })
	if err == nil {
		err = s.collect(ctx, verbDiscard, func(tx *meta.Tx, st *meta.State) {
			tx.DeleteSnapshot(containerID)
			delete(st.Snapshots, containerID)
		})
	}
	if err != nil {
		return kinded(err, "cannot discard snapshot of container %s", containerID)
	}
	s.usages.drop(containerID)
	return nil
}

// checkContainerID accepts what may become the name of a directory.
func checkContainerID(id string) error {
	if id == "" || id[0] == '.' || len(id) > 200 || strings.ContainsAny(id, "/:,\\\x00") {
		return errkind.New(errkind.InvalidArgument, "cannot use %q as a container id", id)
	}
	return nil
}
