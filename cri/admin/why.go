package admin

import (
	"context"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// Work tells what is under way, and what could not be ended.
func (s *Server) Work(context.Context, *api.Empty) (*api.WorkResult, error) {
	out := &api.WorkResult{Works: []api.Work{}, Pulls: []api.RunningPull{}}
	for _, w := range s.cfg.Pods.Works() {
		work := api.Work{
			PodID: w.PodID, ContainerID: w.ContainerID, Namespace: w.Pod.Namespace, Pod: w.Pod.Name, Container: w.Container.Name,
		}
		for _, d := range w.Doing {
			work.Doing = append(work.Doing, api.Doing{Verb: d.Verb, Step: d.Step, Undoing: d.Undoing, Began: d.Began, Since: d.Since, Failure: d.Failure})
		}
		if w.Trouble != nil {
			work.Trouble = &api.Trouble{At: w.Trouble.At, Verb: w.Trouble.Verb, Why: w.Trouble.Why}
		}
		out.Works = append(out.Works, work)
	}
	for _, p := range s.cfg.Images.Pulls() {
		pull := api.RunningPull{Ref: p.Ref, Began: p.Began, Step: string(p.Step), Asking: p.Asking, Moved: p.Moved}
		for _, l := range p.Layers {
			pull.Layers = append(pull.Layers, api.Progress{Layer: l.Layer, Done: l.Done, Total: l.Total, Status: l.Status})
		}
		out.Pulls = append(out.Pulls, pull)
	}
	return out, nil
}
