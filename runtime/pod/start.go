package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/steps"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Start starts a created container. A start that fails leaves the container
// exited with code 128 and reason StartError, for the kubelet to read.
func (t *Table) Start(ctx context.Context, v View, id string) error {
	c, err := t.findContainer(v, id)
	if err != nil {
		return err
	}
	return t.detached(ctx, func(ctx context.Context) error { return t.start(ctx, c) })
}

func (t *Table) start(ctx context.Context, c *container) error {
	c.pod.verbs.RLock()
	defer c.pod.verbs.RUnlock()
	c.op.Lock()
	defer c.op.Unlock()
	if ph := c.record().Phase; ph != phaseCreated {
		return errkind.New(errkind.FailedPrecondition, "cannot start container %s: it is %s, not created", c.id, ph)
	}
	if c.pod.phase() != phaseReady {
		return fmt.Errorf("cannot start container %s: %w", c.id, notReady(c.pod))
	}
	if why := c.record().StartError; why != "" {
		err := errkind.New(errkind.InvalidArgument, "cannot start container %s: %s", c.id, why)
		return errors.Join(err, t.failStart(ctx, c, err))
	}
	c.quiet.take(t.cfg.Hooks)
	defer c.quiet.drop()
	return t.startLocked(ctx, c)
}

// startLocked does the start; the caller holds c.op.
func (t *Table) startLocked(ctx context.Context, c *container) error {
	_, err := t.startPlan(c).Run(ctx)
	if err == nil {
		t.emit(EventStarted, c.id, c.pod)
		t.tellContainer(ctx, TurnStarted, c)
		return nil
	}
	err = fmt.Errorf("cannot start container %s: %w", c.id, err)
	if ctx.Err() != nil {
		return err // the daemon ends: the next one goes on with the start
	}
	return errors.Join(err, t.failStart(ctx, c, err))
}

// failStart ends a container that could not be started. The caller holds c.op.
func (t *Table) failStart(ctx context.Context, c *container, why error) error {
	t.setExited(ctx, c, &spec.Exit{Code: 128, At: time.Now(), Reason: "StartError", Message: why.Error()})
	t.emit(EventStopped, c.id, c.pod)
	return t.freeExited(ctx, c)
}

// startPlan is the table of StartContainer. After a crash the start goes on.
func (t *Table) startPlan(c *container) steps.Plan {
	return steps.Plan{Verb: "container.start", Observe: t.cfg.Observe, Board: &t.board, Object: c.id, Steps: []steps.Step{
		{Name: "record", Do: func(context.Context) error {
			kills := t.neighbourhoodKills(c)
			return t.setContainer(c, func(r *containerRecord) { r.Phase, r.OOMBefore = phaseStarting, kills })
		}},
		{Name: "hook", Do: func(ctx context.Context) error { return t.askContainer(ctx, TurnStart, c) }},
		{Name: "exec", Do: func(ctx context.Context) error { return t.exec(ctx, c) }},
		{Name: "commit", Do: func(ctx context.Context) error { return t.setRunning(ctx, c) }},
	}}
}

// setRunning records that the container runs.
func (t *Table) setRunning(ctx context.Context, c *container) error {
	err := t.setContainer(c, func(r *containerRecord) { r.Phase, r.StartedAt = phaseRunning, latest(time.Now(), r.CreatedAt) })
	if err == nil && c.record().Restore {
		logged(ctx, "Cannot remove a checkpoint that was restored", os.RemoveAll(t.savedDir(c.id)))
	}
	return err
}

// exec lets the container's init execute the process that was asked for, or
// brings back the processes of a checkpoint.
func (t *Table) exec(ctx context.Context, c *container) error {
	if c.record().Restore {
		return t.revive(ctx, c)
	}
	shim, err := t.shims.client(ctx, c.pod)
	if err != nil {
		return err
	}
	return shim.Start(ctx, c.id)
}

// RemoveContainer removes a container, killing it if it runs. One that does
// not exist is success.
func (t *Table) RemoveContainer(ctx context.Context, v View, id string) error {
	c, err := t.findContainer(v, id)
	if errkind.Is(err, errkind.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return t.detached(ctx, func(ctx context.Context) error { return t.removeContainer(ctx, c) })
}

func (t *Table) removeContainer(ctx context.Context, c *container) error {
	if err := t.stopContainer(ctx, c, 0); err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	t.mu.Lock()
	gone := t.containers[c.id] != c
	t.mu.Unlock()
	if gone {
		return nil
	}
	defer c.quiet.drop()
	if _, err := t.removeContainerPlan(c).Run(ctx); err != nil {
		err = fmt.Errorf("cannot remove container %s: %w", c.id, err)
		t.sinkTrouble(ctx, c, newTrouble("remove", err))
		return err
	}
	t.forgetContainer(c)
	t.publish()
	t.emit(EventDeleted, c.id, c.pod)
	return nil
}

// removeContainerPlan is the table of RemoveContainer; the row goes last.
func (t *Table) removeContainerPlan(c *container) steps.Plan {
	return steps.Plan{Verb: "container.remove", Observe: t.cfg.Observe, Board: &t.board, Object: c.id, Steps: []steps.Step{
		{Name: "hook", Do: func(ctx context.Context) error {
			c.quiet.take(t.cfg.Hooks)
			t.tellContainer(ctx, TurnRemove, c)
			return nil
		}},
		{Name: "shim", Do: func(ctx context.Context) error { return t.deleteFromShim(ctx, c.pod, c.id) }},
		{Name: "rootfs", Do: func(context.Context) error { return t.unmountRoot(c) }},
		{Name: "bundle", Do: func(context.Context) error { return t.removeBundle(c) }},
		{Name: "volumes", Do: func(context.Context) error { return os.RemoveAll(t.volumeDir(c.id)) }},
		{Name: "snapshot", Do: func(ctx context.Context) error { return t.discardSnapshots(ctx, c) }},
		{Name: "record", Do: func(context.Context) error { return t.containerRows.Delete(c.id) }},
	}}
}

// ReopenLog makes the shim open the log file anew, after a rotation.
func (t *Table) ReopenLog(ctx context.Context, v View, id string) error {
	c, err := t.findContainer(v, id)
	if err != nil {
		return err
	}
	if rec := c.record(); rec.Phase != phaseRunning {
		return errkind.New(errkind.FailedPrecondition, "cannot reopen the log of container %s: it is %s, not running", c.id, rec.Phase)
	}
	shim, err := t.shims.client(ctx, c.pod)
	if err != nil {
		return err
	}
	if err := shim.ReopenLog(ctx, c.id); err != nil {
		return fmt.Errorf("cannot reopen the log of container %s: %w", c.id, err)
	}
	return nil
}

// adoptee is a process that a new shim is to take over.
type adoptee struct {
	create shimrpc.Create
	pidfd  *os.File // held by the container; nil if there is none
}

// adoptable lists the containers and inits, of the pods that in admits, that
// have been started and not been seen to end.
func (t *Table) adoptable(in func(*Pod) bool) []adoptee {
	t.mu.Lock()
	var cs []*container
	var ps []*Pod
	for _, c := range t.containers {
		if in(c.pod) {
			cs = append(cs, c)
		}
	}
	for _, p := range t.pods {
		if in(p) {
			ps = append(ps, p)
		}
	}
	t.mu.Unlock()

	var out []adoptee
	for _, c := range cs {
		rec := c.record()
		if rec.Phase != phaseCreated && rec.Phase != phaseStarting && rec.Phase != phaseRunning || rec.BootID != t.cfg.BootID || rec.StartError != "" {
			continue
		}
		a := adoptee{create: t.shimCreate(c)}
		a.create.Pid, a.create.StartTime = rec.Process.Pid, rec.Process.StartTime
		c.mu.Lock()
		a.pidfd, a.create.Console = c.pidfd, c.console
		c.mu.Unlock()
		out = append(out, a)
	}
	for _, p := range ps {
		if rec := p.record(); rec.Phase == phaseReady && sharesPIDs(&rec.Config) && rec.BootID == t.cfg.BootID {
			a := adoptee{create: t.initCreate(p)}
			a.create.Pid, a.create.StartTime = rec.Init.Pid, rec.Init.StartTime
			out = append(out, a)
		}
	}
	return out
}

// groupInUse tells whether a group has anything that needs a shim.
func (t *Table) groupInUse(in func(*Pod) bool) bool { return len(t.adoptable(in)) > 0 }

// logged ends a clean-up that nobody waits for: what it could not do is logged.
func logged(ctx context.Context, what string, err error) {
	if err != nil {
		klog.FromContext(ctx).Error(err, what)
	}
}
