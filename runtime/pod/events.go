package pod

import (
	"context"
	"sync"
	"time"
)

// broker hands events to whoever listens: every event, in order, to each.
// Nobody who tells of an event waits for a listener. One that falls behind by
// more than maxBehind events is cut off, which it notices; nobody loses events
// without noticing.
type broker struct {
	mu   sync.Mutex
	subs map[*listener]struct{} // guarded by mu
}

// listener is what one subscriber has still to be told.
type listener struct {
	mu    sync.Mutex
	queue []Event       // guarded by mu
	cut   bool          // guarded by mu; it fell behind and gets nothing more
	wake  chan struct{} // has room for one
}

// maxBehind is how many events a listener may fall behind. Some thousand pods
// can be made and removed meanwhile.
const maxBehind = 8192

// Subscribe returns a channel of all events from now on. It is closed when
// ctx ends, or before if the listener falls too far behind: it then looks at
// the lists and subscribes anew.
func (t *Table) Subscribe(ctx context.Context) <-chan Event { return t.events.subscribe(ctx) }

func (b *broker) subscribe(ctx context.Context) <-chan Event {
	l := &listener{wake: make(chan struct{}, 1)}
	b.mu.Lock()
	if b.subs == nil {
		b.subs = map[*listener]struct{}{}
	}
	b.subs[l] = struct{}{}
	b.mu.Unlock()
	out := make(chan Event)
	go func() {
		defer close(out)
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.subs, l)
		}()
		l.pass(ctx, out)
	}()
	return out
}

// pass hands events on until ctx ends or the listener is cut off.
func (l *listener) pass(ctx context.Context, out chan<- Event) {
	for {
		l.mu.Lock()
		queue, cut := l.queue, l.cut
		l.queue = nil
		l.mu.Unlock()
		if cut {
			return
		}
		for _, e := range queue {
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (l *listener) add(e Event) {
	l.mu.Lock()
	if l.cut = l.cut || len(l.queue) >= maxBehind; l.cut {
		l.queue = nil
	} else {
		l.queue = append(l.queue, e)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// emit tells of a change of the pod or of one of its containers.
func (t *Table) emit(kind EventKind, id string, p *Pod) {
	t.events.send(func() Event {
		e := Event{Kind: kind, ContainerID: id, At: time.Now(), Pod: t.podStatus(p)}
		for _, c := range p.members() {
			if c.finished() {
				e.Containers = append(e.Containers, t.containerStatus(c))
			}
		}
		return e
	})
}

// send makes the event if anybody listens. All listeners see all events in one
// order.
func (b *broker) send(event func() Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.subs) == 0 {
		return
	}
	e := event()
	for l := range b.subs {
		l.add(e)
	}
}
