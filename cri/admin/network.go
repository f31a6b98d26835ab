package admin

import (
	"context"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// Networks lists the networks that pods can be on.
func (s *Server) Networks(ctx context.Context, _ *api.Empty) (*api.NetworkList, error) {
	return &api.NetworkList{Networks: s.cfg.Networks.List(ctx), DNS: s.cfg.Networks.DNS()}, nil
}

// CreateNetwork makes a network.
func (s *Server) CreateNetwork(_ context.Context, r *api.CreateNetworkRequest) (*api.Network, error) {
	return s.cfg.Networks.Create(r)
}

// RemoveNetwork ends a network that no pod is on.
func (s *Server) RemoveNetwork(_ context.Context, r *api.NetworkRequest) (*api.Empty, error) {
	return &api.Empty{}, s.cfg.Networks.Remove(r.Name)
}

// ExamineNetwork looks at what of the host is in the pods' way.
func (s *Server) ExamineNetwork(ctx context.Context, _ *api.Empty) (*api.DoctorResult, error) {
	return &api.DoctorResult{Findings: s.cfg.Networks.Examine(ctx)}, nil
}
