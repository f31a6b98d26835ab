package admin

import (
	"context"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// Doctor looks at the node.
func (s *Server) Doctor(ctx context.Context, r *api.DoctorRequest) (*api.DoctorResult, error) {
	found, err := s.cfg.Doctor(ctx, r.Registries)
	if err != nil {
		return nil, err
	}
	return &api.DoctorResult{Findings: found}, nil
}

// Config tells the configuration that the daemon runs with.
func (s *Server) Config(context.Context, *api.Empty) (*api.ConfigResult, error) {
	return &api.ConfigResult{Settings: s.cfg.Settings}, nil
}
