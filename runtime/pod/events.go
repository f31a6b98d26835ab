package pod

import (
	"context"
	"sync"
	"time"
)

// broker hands events to whoever listens. A slow listener loses events and
// never holds up the others; lists are the truth, events only a hint.
type broker struct {
	mu   sync.Mutex
	subs map[chan Event]struct{} // guarded by mu
}

// eventBuffer is how many events a listener may fall behind.
const eventBuffer = 256

// Subscribe returns a channel of all events from now on; it is closed when
// ctx ends.
func (t *Table) Subscribe(ctx context.Context) <-chan Event {
	ch := make(chan Event, eventBuffer)
	b := &t.events
	b.mu.Lock()
	if b.subs == nil {
		b.subs = map[chan Event]struct{}{}
	}
	b.subs[ch] = struct{}{}
	b.mu.Unlock()
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subs, ch)
		close(ch)
	})
	return ch
}

// emit tells of a change of the pod or of one of its containers.
func (t *Table) emit(kind EventKind, id string, p *Pod) {
	t.events.mu.Lock()
	defer t.events.mu.Unlock()
	if len(t.events.subs) == 0 {
		return
	}
	e := Event{Kind: kind, ContainerID: id, At: time.Now(), Pod: t.podStatus(p)}
	for _, c := range p.members() {
		if c.finished() {
			e.Containers = append(e.Containers, t.containerStatus(c))
		}
	}
	for ch := range t.events.subs {
		select {
		case ch <- e:
		default:
		}
	}
}
