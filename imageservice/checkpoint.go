package imageservice

import (
	"context"
	"io"

	"github.com/berth-runtime/berth/imageservice/snapshot"
)

// WriteDiff writes what a container has changed in its root file system as a
// tar, as one more layer on its image. It must not change anything meanwhile.
func (s *Service) WriteDiff(ctx context.Context, containerID string, w io.Writer) error {
	return s.writeDiff(ctx, containerID, snapshot.DiffOptions{}, w)
}

func (s *Service) writeDiff(ctx context.Context, containerID string, how snapshot.DiffOptions, w io.Writer) error {
	defer s.snapshotLocks.Lock(containerID)()
	_, err := s.snapshotRow(containerID)
	if err == nil {
		err = snapshot.At(s.snapshotDir(containerID)).Diff(ctx, how, w)
	}
	if err != nil {
		return kinded(err, "cannot write what container %s has changed", containerID)
	}
	return nil
}
