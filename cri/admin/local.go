package admin

import (
	"context"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/local"
)

// Local is what the server needs of what looks after local pods; *local.Service
// has it.
type Local interface {
	Again(ctx context.Context, id string, how local.Again) (string, error)
	States() map[string]local.State
}

// Again makes a new attempt of a container.
func (s *Server) Again(ctx context.Context, r *api.AgainRequest) (*api.AgainResult, error) {
	id, err := s.cfg.Local.Again(ctx, r.Container, local.Again{Keep: r.Keep, Restart: r.Restart, Grace: r.Grace, NoStart: r.NoStart})
	if err != nil {
		return nil, err
	}
	return &api.AgainResult{Container: id}, nil
}

// Local tells what is known of local containers beyond their status.
func (s *Server) Local(context.Context, *api.Empty) (*api.LocalResult, error) {
	out := &api.LocalResult{Containers: map[string]api.Local{}}
	for id, st := range s.cfg.Local.States() {
		l := api.Local{Restarting: st.Restarting, Next: st.Next, Restarts: st.Restarts, Why: st.Why, Paused: st.Paused}
		if h := st.Health; h != nil {
			l.Health = &api.Health{Status: h.Status, FailingStreak: h.Streak}
			for _, p := range h.Log {
				l.Health.Log = append(l.Health.Log, api.HealthProbe(p))
			}
		}
		out.Containers[id] = l
	}
	return out, nil
}
