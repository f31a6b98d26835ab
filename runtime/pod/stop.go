package pod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/berth-runtime/berth/runtime/steps"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Stop kills the pod's containers and gives its network back. It may be called
// any number of times; a pod that does not exist is success.
func (t *Table) Stop(ctx context.Context, v View, id string) error {
	p, err := t.findPod(v, id)
	if errkind.Is(err, errkind.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return t.detached(ctx, func(ctx context.Context) error {
		t.askStop(ctx, p.members()...)
		return t.stopPod(ctx, p)
	})
}

// detached runs f to its end under the daemon's own context and waits for it
// as long as the caller does.
func (t *Table) detached(ctx context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	if !t.goBackground(ctx, func(ctx context.Context) { done <- f(ctx) }) {
		return ending()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *Table) stopPod(ctx context.Context, p *Pod) error {
	p.verbs.Lock()
	defer p.verbs.Unlock()
	if !t.knows(p.id) {
		return nil // its making was undone while we waited
	}
	return t.stopPodLocked(ctx, p)
}

// stopPodLocked stops the pod; the caller holds p.verbs.
func (t *Table) stopPodLocked(ctx context.Context, p *Pod) error {
	if p.phase() == phaseStopped {
		return nil
	}
	if _, err := t.stopPlan(p).Run(ctx); err != nil {
		err = fmt.Errorf("cannot stop pod %s: %w", p.id, err)
		t.sinkPod(ctx, p, func(r *podRecord) { r.Trouble = newTrouble("stop", err) })
		t.stopLater(p)
		return err
	}
	t.sampler.Forget(p.id)
	t.tellNeighbours(ctx, p)
	t.emit(EventStopped, p.id, p)
	return nil
}

// The pauses after which a stop that failed is tried again: each twice the one
// before it.
const (
	firstPause   = time.Second
	longestPause = 5 * time.Minute
)

// stopLater tries a stop again that failed, without anybody's asking: what a pod
// holds on the network is needed by others, and its client may have given up.
func (t *Table) stopLater(p *Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retrying {
		return
	}
	p.retrying = true
	time.AfterFunc(min(firstPause<<min(p.retries, 20), longestPause), func() {
		p.mu.Lock()
		p.retrying = false
		p.retries++
		p.mu.Unlock()
		t.goBackground(context.Background(), func(ctx context.Context) {
			if t.knows(p.id) && p.phase() == phaseStopping {
				logged(ctx, "Cannot stop a pod; it is tried again", t.stopPod(ctx, p))
			}
		})
	})
}

// stopPlan is the table of StopPodSandbox. It only moves forward: after a
// crash, or a failure, the whole table is done again.
func (t *Table) stopPlan(p *Pod) steps.Plan {
	return steps.Plan{Verb: "pod.stop", Observe: t.cfg.Observe, Board: &t.board, Object: p.id, Steps: []steps.Step{
		{Name: "record", Do: func(ctx context.Context) error {
			t.sinkPod(ctx, p, func(r *podRecord) { r.Phase = phaseStopping })
			return nil
		}},
		{Name: "containers", Do: func(ctx context.Context) error { return t.killContainers(ctx, p) }},
		{Name: "hook", Do: func(ctx context.Context) error { t.tellStop(ctx, p); return nil }},
		{Name: "init", Do: func(ctx context.Context) error { return t.stopInit(ctx, p) }},
		{Name: "network", Do: func(ctx context.Context) error { return t.detach(ctx, p) }},
		{Name: "lease", Do: func(context.Context) error { t.releasePod(p); return nil }},
		{Name: "namespaces", Do: func(context.Context) error { return t.removeNamespaces(p) }},
		{Name: "shm", Do: func(context.Context) error { return t.cfg.Volumes.UnmountShm(t.shmDir(p.id)) }},
		{Name: "commit", Do: func(ctx context.Context) error {
			t.sinkPod(ctx, p, func(r *podRecord) { r.Phase, r.Trouble = phaseStopped, nil })
			return nil
		}},
	}}
}

// killContainers ends all containers of the pod at once, without grace: the
// client has stopped them before if it wanted to be kind.
func (t *Table) killContainers(ctx context.Context, p *Pod) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, c := range p.members() {
		if !c.finished() {
			continue // it waits for the pod's lock and then finds the pod stopped
		}
		wg.Go(func() {
			if err := t.stopContainer(ctx, c, 0); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Remove stops the pod if need be and removes it with its containers. A pod
// that does not exist is success.
func (t *Table) Remove(ctx context.Context, v View, id string) error {
	p, err := t.findPod(v, id)
	if errkind.Is(err, errkind.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return t.detached(ctx, func(ctx context.Context) error { return t.removePod(ctx, p) })
}

func (t *Table) removePod(ctx context.Context, p *Pod) error {
	p.verbs.Lock()
	defer p.verbs.Unlock()
	t.mu.Lock()
	gone := t.pods[p.id] != p
	t.mu.Unlock()
	if gone {
		return nil // another Remove was faster
	}
	if err := t.stopPodLocked(ctx, p); err != nil {
		return err
	}
	defer p.quiet.drop()
	if _, err := t.removePlan(p).Run(ctx); err != nil {
		err = fmt.Errorf("cannot remove pod %s: %w", p.id, err)
		t.sinkPod(ctx, p, func(r *podRecord) { r.Trouble = newTrouble("remove", err) })
		return err
	}
	t.forgetPod(p)
	t.publish()
	t.emit(EventDeleted, p.id, p)
	return nil
}

// removePlan is the table of RemovePodSandbox. The row goes last: whatever is
// still there has one.
func (t *Table) removePlan(p *Pod) steps.Plan {
	return steps.Plan{Verb: "pod.remove", Observe: t.cfg.Observe, Board: &t.board, Object: p.id, Steps: []steps.Step{
		{Name: "containers", Do: func(ctx context.Context) error { return t.removeContainers(ctx, p) }},
		{Name: "hook", Do: func(ctx context.Context) error {
			p.quiet.take(t.cfg.Hooks)
			t.tellPod(ctx, TurnRemove, p)
			return nil
		}},
		{Name: "shim", Do: func(ctx context.Context) error { return t.shims.release(ctx, p) }},
		{Name: "directory", Do: func(context.Context) error { return t.removePodDir(p) }},
		{Name: "logs", Do: func(context.Context) error { return t.removeOwnLogs(p) }},
		{Name: "record", Do: func(context.Context) error { return t.podRows.Delete(p.id) }},
	}}
}

func (t *Table) removeContainers(ctx context.Context, p *Pod) error {
	var errs []error
	for _, c := range p.members() {
		if c.finished() {
			errs = append(errs, t.removeContainer(ctx, c))
		}
	}
	return errors.Join(errs...)
}
