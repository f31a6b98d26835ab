package imageservice

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Inherit gives a container a writable layer on the layers that another
// container's is on, even if their image was removed meanwhile; with keep that
// one's own, which has none from then on and must not be mounted. A second
// Inherit of the same two does nothing.
func (s *Service) Inherit(ctx context.Context, containerID, from string, keep bool) error {
	if err := errors.Join(checkContainerID(containerID), checkContainerID(from)); err != nil {
		return err
	}
	defer s.lockSnapshots(containerID, from)()
	old, err := s.snapshotRow(from)
	if err == nil {
		err = s.trust(ctx, old.Layers)
	}
	row := meta.Snapshot{Container: containerID, Image: old.Image, Layers: old.Layers, Created: time.Now()}
	if keep {
		row.From = from
	}
	if err == nil {
		err = s.step(ctx, verbSnapshot, "rows", func() error { return s.inheritRow(row) })
	}
	if err == nil {
		err = s.step(ctx, verbSnapshot, "directories", func() error {
			if keep {
				return s.moveSnapshot(from, containerID)
			}
			return s.makeSnapshot(row)
		})
	}
	if err != nil {
		return kinded(err, "cannot give container %s the layers of container %s", containerID, from)
	}
	s.usages.drop(from)
	return nil
}

// GiveBack undoes Inherit, whatever was done of it: from has again what was its.
func (s *Service) GiveBack(ctx context.Context, containerID, from string) error {
	if err := errors.Join(checkContainerID(containerID), checkContainerID(from)); err != nil {
		return err
	}
	if err := s.giveBack(containerID, from); err != nil {
		return kinded(err, "cannot give the writable layer of container %s back to container %s", containerID, from)
	}
	return s.Discard(ctx, containerID)
}

func (s *Service) giveBack(containerID, from string) error {
	defer s.lockSnapshots(containerID, from)()
	row, err := s.snapshotRow(containerID)
	if err != nil || row.From != from {
		return nil // nothing was taken
	}
	// One that is there still was never moved.
	if _, err := os.Lstat(s.snapshotDir(from)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := s.snapshotRow(from); err != nil {
		return nil // it is nobody's but the new one's
	}
	s.usages.drop(containerID)
	return s.moveSnapshot(containerID, from)
}

// lockSnapshots locks two snapshots, in the order of their names as everybody
// who takes two does.
func (s *Service) lockSnapshots(a, b string) (unlock func()) {
	first, second := s.snapshotLocks.Lock(min(a, b)), func() {}
	if a != b {
		second = s.snapshotLocks.Lock(max(a, b))
	}
	return func() { second(); first() }
}

// inheritRow writes the row unless it is there.
func (s *Service) inheritRow(row meta.Snapshot) error {
	return s.change(func(tx *meta.Tx, st *meta.State) error {
		old, ok := st.Snapshots[row.Container]
		if ok && (old.Image != row.Image || old.From != row.From) {
			return errkind.New(errkind.AlreadyExists, "it has a writable layer already, of image %s", old.Image)
		}
		if !ok {
			tx.PutSnapshot(row)
			st.Snapshots[row.Container] = row
		}
		return nil
	})
}

// moveSnapshot makes the directories of one snapshot another's. One that is
// absent was moved before.
func (s *Service) moveSnapshot(from, to string) error {
	err := os.Rename(s.snapshotDir(from), s.snapshotDir(to))
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Lstat(s.snapshotDir(to))
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(s.snapshotsDir())
}

// takers are the snapshots whose directories became, or are to become,
// another's: they may lack theirs. mu is held, or nothing else runs.
func (s *Service) takers() map[string]bool {
	excused := map[string]bool{}
	for id, row := range s.state.Snapshots {
		if row.From != "" {
			excused[id], excused[row.From] = true, true
		}
	}
	return excused
}
