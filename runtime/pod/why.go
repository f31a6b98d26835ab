package pod

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/steps"
)

// Trouble is why a verb that should end something could not. It is part of the
// record, since who comes to look comes late, and goes when the verb succeeds.
type Trouble struct {
	At   time.Time `json:"at"`
	Verb string    `json:"verb"` // run (which could not be undone), stop, free (what an exited container used) or remove
	Why  string    `json:"why"`
}

func newTrouble(verb string, err error) *Trouble {
	return &Trouble{At: time.Now(), Verb: verb, Why: err.Error()}
}

// sinkTrouble records why something of the container could not be ended. What
// cannot be written is logged: the verb has failed already.
func (t *Table) sinkTrouble(ctx context.Context, c *container, why *Trouble) {
	if err := t.setContainer(c, func(r *containerRecord) { r.Trouble = why }); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot record why a container could not be ended", "container", c.id)
	}
}

// Work is what is under way on a pod or a container, or went wrong with it and
// is still to be done. Pods and containers that are being made, which no list
// shows, are here.
type Work struct {
	PodID       string
	ContainerID string // empty: the pod itself
	Pod         spec.PodMetadata
	Container   spec.ContainerMetadata
	Doing       []steps.Doing
	Trouble     *Trouble
}

// Works lists the pods and containers that have any work.
func (t *Table) Works() []Work {
	doing := map[string][]steps.Doing{}
	for _, d := range t.board.List() {
		doing[d.Object] = append(doing[d.Object], d)
	}
	t.mu.Lock()
	pods := make([]*Pod, 0, len(t.pods))
	for _, p := range t.pods {
		pods = append(pods, p)
	}
	containers := make([]*container, 0, len(t.containers))
	for _, c := range t.containers {
		containers = append(containers, c)
	}
	t.mu.Unlock()
	var out []Work
	for _, p := range pods {
		if rec := p.record(); rec.Trouble != nil || doing[p.id] != nil {
			out = append(out, Work{PodID: p.id, Pod: p.config.Metadata, Doing: doing[p.id], Trouble: rec.Trouble})
		}
	}
	for _, c := range containers {
		if rec := c.record(); rec.Trouble != nil || doing[c.id] != nil {
			out = append(out, Work{PodID: c.pod.id, ContainerID: c.id, Pod: c.pod.config.Metadata, Container: rec.Config.Metadata,
				Doing: doing[c.id], Trouble: rec.Trouble})
		}
	}
	return out
}
