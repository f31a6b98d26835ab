package imageservice

import (
	"context"
	"io"
	"os"

	"github.com/berth-runtime/berth/imageservice/snapshot"
	"github.com/berth-runtime/berth/imageservice/unpack"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
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

// ApplyDiff makes what WriteDiff wrote the changes of another container of the
// same image, which has changed nothing and is not mounted. The tar is as hostile
// as a layer's, with the same limits; what it left when it fails goes with the
// container.
func (s *Service) ApplyDiff(ctx context.Context, containerID string, r io.Reader) error {
	defer s.snapshotLocks.Lock(containerID)()
	row, err := s.snapshotRow(containerID)
	if err == nil {
		err = s.applyDiff(ctx, snapshot.At(s.snapshotDir(containerID)), r, s.lowers(row))
	}
	if err != nil {
		return kinded(err, "cannot give container %s the changes of another", containerID)
	}
	return nil
}

func (s *Service) applyDiff(ctx context.Context, d snapshot.Dirs, r io.Reader, lowers []string) error {
	if entries, err := os.ReadDir(d.Upper); err != nil {
		return err
	} else if len(entries) > 0 {
		return errkind.New(errkind.FailedPrecondition, "it has changes of its own")
	}
	result, err := unpack.Layer(ctx, r, d.Upper, unpack.DefaultLimits(), nil)
	if err != nil {
		return err
	}
	if result.Opaque {
		return errkind.New(errkind.InvalidArgument, "they hide the image altogether, which those of a container do not")
	}
	if result.Alone() {
		return nil
	}
	_, err = unpack.Settle(ctx, d.Upper, result, lowers)
	return err
}
