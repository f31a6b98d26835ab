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
	Apply(ctx context.Context, manifest []byte, dry bool) ([]local.Applied, error)
	Delete(ctx context.Context, manifest []byte) ([]local.Applied, error)
	Manifest(pod string) (text string, lost []string, err error)
}

// Apply makes the pods of a manifest.
func (s *Server) Apply(ctx context.Context, r *api.ManifestRequest) (*api.ManifestResult, error) {
	pods, err := s.cfg.Local.Apply(ctx, []byte(r.Text), r.DryRun)
	return manifestResult(pods), err
}

// Delete ends and removes the pods of a manifest.
func (s *Server) Delete(ctx context.Context, r *api.ManifestRequest) (*api.ManifestResult, error) {
	pods, err := s.cfg.Local.Delete(ctx, []byte(r.Text))
	return manifestResult(pods), err
}

func manifestResult(pods []local.Applied) *api.ManifestResult {
	out := &api.ManifestResult{Pods: []api.ManifestPod{}}
	for _, p := range pods {
		one := api.ManifestPod{Namespace: p.Namespace, Name: p.Name, ID: p.Pod, Change: string(p.Change), Differs: p.Differs}
		for _, i := range p.Images {
			one.Images = append(one.Images, api.ManifestImage{Ref: i.Ref, PullPolicy: i.Policy})
		}
		out.Pods = append(out.Pods, one)
	}
	return out
}

// Manifest gives a manifest of a pod.
func (s *Server) Manifest(_ context.Context, r *api.PodRequest) (*api.PodManifest, error) {
	text, lost, err := s.cfg.Local.Manifest(r.Pod)
	if err != nil {
		return nil, err
	}
	return &api.PodManifest{Text: text, Lost: lost}, nil
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
