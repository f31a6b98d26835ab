package imageservice

import (
	"context"
	"sync"
	"time"

	"github.com/berth-runtime/berth/imageservice/snapshot"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// How old the usage of a writable layer may be when it is asked for before the
// layer is walked again: the kubelet asks for all every ten seconds. A walk
// that takes long waits longer for the next, so that walks never use more than
// a twentieth of a CPU.
const (
	usageAge   = 5 * time.Second
	usageShare = 20
)

// usages are what writable layers take, as they were last walked. Who asks gets
// what is known; one goroutine walks, one layer after the other, those that
// were asked for. So a request waits for a walk only for a layer that was never
// walked, and then the walk has begun when the store was opened, or the layer
// is as new as its container.
type usages struct {
	mu    sync.Mutex
	known map[string]*usage // by container; guarded by mu, with all below
	queue []string          // to be walked
	wake  chan struct{}     // holds one if there may be something in the queue
	ended bool              // nobody walks any more
}

type usage struct {
	walked        time.Time     // when the last walk ended; zero: there was none
	took          time.Duration // the last walk
	bytes, inodes uint64
	err           error
	done          chan struct{} // closed at the end of the walk that is queued or under way; nil: there is none
}

func newUsages() usages { return usages{known: map[string]*usage{}, wake: make(chan struct{}, 1)} }

// ask gives what is known of a layer, and has it walked if that is old.
func (u *usages) ask(id string) usage {
	u.mu.Lock()
	defer u.mu.Unlock()
	k := u.known[id]
	if k == nil {
		k = new(usage)
		u.known[id] = k
	}
	if k.done == nil && !u.ended && (k.walked.IsZero() || time.Since(k.walked) > max(usageAge, usageShare*k.took)) {
		k.done = make(chan struct{})
		u.queue = append(u.queue, id)
		select {
		case u.wake <- struct{}{}:
		default:
		}
	}
	return *k
}

// next takes the next layer to be walked.
func (u *usages) next() (id string, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.queue) == 0 {
		u.queue = nil
		return "", false
	}
	id, u.queue = u.queue[0], u.queue[1:]
	return id, true
}

// put takes the result of a walk, unless the layer is gone.
func (u *usages) put(id string, walked usage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if k := u.known[id]; k != nil && k.done != nil {
		close(k.done)
		*k = walked
	}
}

// drop forgets a layer that is gone.
func (u *usages) drop(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if k := u.known[id]; k != nil && k.done != nil {
		close(k.done)
	}
	delete(u.known, id)
}

// end lets those go that wait for a walk that will not be.
func (u *usages) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	for _, k := range u.known {
		if k.done != nil {
			close(k.done)
			k.done = nil
		}
	}
}

// walkLayers walks the layers that are there, and then those that are asked
// for, until ctx ends.
func (s *Service) walkLayers(ctx context.Context) {
	defer s.usages.end()
	for _, id := range s.Snapshots(ctx) {
		s.usages.ask(id)
	}
	for ctx.Err() == nil {
		id, ok := s.usages.next()
		if !ok {
			select {
			case <-s.usages.wake:
			case <-ctx.Done():
			}
			continue
		}
		begin := time.Now()
		var w usage
		w.bytes, w.inodes, w.err = snapshot.At(s.snapshotDir(id)).Usage(ctx)
		w.walked, w.took = time.Now(), time.Since(begin)
		s.usages.put(id, w)
	}
}

// SnapshotUsage gives what a container had written when its layer was last
// walked, some seconds before it was last asked for. It walks nothing itself.
func (s *Service) SnapshotUsage(ctx context.Context, containerID string) (bytes, inodes uint64, err error) {
	if _, err := s.snapshotRow(containerID); err != nil {
		return 0, 0, err
	}
	u := s.usages.ask(containerID)
	if u.walked.IsZero() && u.done != nil {
		select {
		case <-u.done:
		case <-ctx.Done():
			return 0, 0, kinded(ctx.Err(), "cannot wait until snapshot of container %s is measured", containerID)
		}
		if _, err := s.snapshotRow(containerID); err != nil {
			return 0, 0, err // discarded meanwhile
		}
		u = s.usages.ask(containerID)
	}
	if u.walked.IsZero() {
		return 0, 0, errkind.New(errkind.Unavailable, "cannot measure snapshot of container %s: the store is closed", containerID)
	}
	if u.err != nil {
		return 0, 0, kinded(u.err, "cannot measure snapshot of container %s", containerID)
	}
	return u.bytes, u.inodes, nil
}
