package imageservice

import (
	"context"
	"io"
)

type Service struct{}

func Open(ctx context.Context, cfg Config) (*Service, error)              { panic("stub") }
func (s *Service) Close() error                                           { panic("stub") }
func (s *Service) Pull(ctx context.Context, r PullRequest) (Image, error) { panic("stub") }
func (s *Service) Status(ctx context.Context, ref string) (Image, error)  { panic("stub") }
func (s *Service) List(ctx context.Context) ([]Image, error)              { panic("stub") }
func (s *Service) Remove(ctx context.Context, ref string) error           { panic("stub") }
func (s *Service) Untag(ctx context.Context, ref string) error            { panic("stub") }
func (s *Service) Tag(ctx context.Context, src, dst string) error         { panic("stub") }
func (s *Service) Usage(ctx context.Context) (Usage, error)               { panic("stub") }
func (s *Service) Load(ctx context.Context, r io.Reader, progress func(Progress)) ([]Image, error) {
	panic("stub")
}
func (s *Service) LoadDir(ctx context.Context, path string) ([]Image, error)      { panic("stub") }
func (s *Service) Prepare(ctx context.Context, containerID, imageID string) error { panic("stub") }
func (s *Service) Mount(ctx context.Context, containerID, target string) error    { panic("stub") }
func (s *Service) Unmount(ctx context.Context, target string) error               { panic("stub") }
func (s *Service) Discard(ctx context.Context, containerID string) error          { panic("stub") }
func (s *Service) SnapshotUsage(ctx context.Context, containerID string) (bytes, inodes uint64, err error) {
	panic("stub")
}
func (s *Service) Snapshots(ctx context.Context) []string      { panic("stub") }
func (s *Service) Check(ctx context.Context) ([]string, error) { panic("stub") }
