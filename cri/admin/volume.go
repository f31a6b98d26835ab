package admin

import (
	"context"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/volumes/named"
)

// Named is what the server needs of the named volumes; *named.Store has it.
type Named interface {
	Create(ctx context.Context, name string, labels map[string]string) (v named.Volume, made bool, err error)
	List() []named.Volume
	Remove(ctx context.Context, name string, users func(path string) []string) error
	Usage(ctx context.Context, name string) (bytes uint64, err error)
	Check() ([]string, error)
}

// Rename gives a local container another name.
func (s *Server) Rename(ctx context.Context, r *api.RenameRequest) (*api.Empty, error) {
	return &api.Empty{}, s.cfg.Pods.Rename(ctx, pod.ViewAll, r.Container, r.Name)
}

// CreateVolume makes a named volume, or gives the one that is there.
func (s *Server) CreateVolume(ctx context.Context, r *api.CreateVolumeRequest) (*api.Volume, error) {
	v, _, err := s.cfg.Named.Create(ctx, r.Name, r.Labels)
	if err != nil {
		return nil, err
	}
	out := s.volume(v)
	return &out, nil
}

// Volumes tells of all named volumes.
func (s *Server) Volumes(ctx context.Context, r *api.VolumesRequest) (*api.VolumeList, error) {
	out := &api.VolumeList{Volumes: []api.Volume{}}
	for _, v := range s.cfg.Named.List() {
		one := s.volume(v)
		if r.Usage {
			n, err := s.cfg.Named.Usage(ctx, v.Name)
			if err != nil {
				return nil, err
			}
			one.Bytes = &n
		}
		out.Volumes = append(out.Volumes, one)
	}
	return out, nil
}

func (s *Server) volume(v named.Volume) api.Volume {
	return api.Volume{Name: v.Name, Path: v.Path, Created: v.Created, Labels: v.Labels, Users: s.cfg.Pods.MountersOf(v.Path)}
}

// RemoveVolume removes a named volume with what it holds.
func (s *Server) RemoveVolume(ctx context.Context, r *api.VolumeRequest) (*api.Empty, error) {
	return &api.Empty{}, s.cfg.Named.Remove(ctx, r.Name, s.cfg.Pods.MountersOf)
}
