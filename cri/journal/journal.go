// Package journal remembers what happened on the node lately: to pods,
// containers and images, as one stream for whoever asks.
//
// Model. A Journal is a ring of the last events. Each reader has a place of its
// own in it. It lives in memory: a restart of the daemon begins a new one.
//
// Law. Who tells of an event never waits for a reader. A reader that falls
// behind by more than the ring holds is told how many it has missed, and goes on.
package journal

import (
	"context"
	"sync"
	"time"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
)

// Size is how many events are kept.
const Size = 1024

// Journal is the last Size events. New makes one.
type Journal struct {
	mu    sync.Mutex
	ring  []api.Event          // grows to Size; guarded by mu
	next  uint64               // number of the next event; guarded by mu
	wake  chan struct{}        // closed at the next event; guarded by mu
	names map[string]api.Event // whose id is whose, while they exist; guarded by mu
}

// New makes an empty Journal.
func New() *Journal {
	return &Journal{wake: make(chan struct{}), names: map[string]api.Event{}}
}

// Add tells of an event.
func (j *Journal) Add(e api.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.addLocked(e)
}

func (j *Journal) addLocked(e api.Event) {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if len(j.ring) < Size {
		j.ring = append(j.ring, e)
	} else {
		j.ring[j.next%Size] = e
	}
	j.next++
	close(j.wake)
	j.wake = make(chan struct{})
}

// Read emits the events that are kept, from since on, and with follow those to
// come, until ctx ends. An error of emit ends it and is returned.
func (j *Journal) Read(ctx context.Context, since time.Time, follow bool, emit func(*api.Event) error) error {
	var at uint64
	for {
		e, missed, wake := j.get(&at)
		switch {
		case missed > 0:
			if err := emit(&api.Event{At: time.Now(), Type: api.EventJournal, Action: "missed", Missed: missed}); err != nil {
				return err
			}
		case e != nil:
			if e.At.Before(since) {
				continue
			}
			if err := emit(e); err != nil {
				return err
			}
		case !follow:
			return nil
		default:
			select {
			case <-wake:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// get gives the event at, and moves on; or how many were missed since the
// reader had its last one; or what tells of the next one.
func (j *Journal) get(at *uint64) (e *api.Event, missed uint64, wake <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if oldest := j.next - min(j.next, Size); *at < oldest {
		// A reader that comes has missed nothing of what it asks for: what is kept.
		if missed = oldest - *at; *at == 0 {
			missed = 0
		}
		*at = oldest
		if missed > 0 {
			return nil, missed, nil
		}
	}
	if *at == j.next {
		return nil, 0, j.wake
	}
	copied := j.ring[*at%Size]
	*at++
	return &copied, 0, nil
}

// Follow adds what happens to pods and containers, until ctx ends. subscribe
// is that of pod.Table.
func (j *Journal) Follow(ctx context.Context, subscribe func(context.Context) <-chan pod.Event) {
	for {
		for e := range subscribe(ctx) {
			j.pod(e)
		}
		if ctx.Err() != nil {
			return
		}
		j.Add(api.Event{Type: api.EventJournal, Action: "missed"})
	}
}

// pod adds an event of a pod or of one of its containers. A container that the
// kernel killed for memory has two: oom, then stopped.
func (j *Journal) pod(e pod.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Pod == nil {
		return
	}
	whose := api.Event{PodID: e.Pod.ID, Namespace: e.Pod.Config.Metadata.Namespace, Pod: e.Pod.Config.Metadata.Name}
	var ended *pod.ContainerStatus
	for _, c := range e.Containers {
		named := whose
		named.Type, named.ID, named.Container, named.Image = api.EventContainer, c.ID, c.Config.Metadata.Name, c.Config.Image
		j.names[c.ID] = named
		if c.ID == e.ContainerID && c.State == pod.StateExited {
			ended = c
		}
	}
	out, ok := j.names[e.ContainerID]
	if !ok || e.ContainerID == e.Pod.ID {
		out = whose
		out.Type, out.ID = api.EventContainer, e.ContainerID
		if e.ContainerID == e.Pod.ID {
			out.Type = api.EventPod
		}
	}
	out.At, out.Action = e.At, string(e.Kind)
	if ended != nil && e.Kind == pod.EventStopped {
		code := ended.ExitCode
		out.ExitCode = &code
		if ended.Reason == "OOMKilled" {
			oom := out
			oom.Action = "oom"
			j.addLocked(oom)
		}
	}
	if e.Kind == pod.EventDeleted {
		delete(j.names, e.ContainerID)
	}
	j.addLocked(out)
}

// Image adds what happened to an image.
func (j *Journal) Image(e imageservice.Event) {
	out := api.Event{Type: api.EventImage, Action: string(e.Kind), ID: e.ID, Image: e.Ref, Layer: e.Layer}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	j.Add(out)
}
