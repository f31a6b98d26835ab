package pod

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// exitSeen takes a report of a shim. By then the exit is on disk and the log
// is drained; what is left is to decide OOM, to publish and to clean up.
func (t *Table) exitSeen(e shimrpc.Exited) {
	t.mu.Lock()
	c, p := t.containers[e.ID], t.pods[e.ID]
	t.mu.Unlock()
	switch {
	case c != nil:
		t.goBackground(context.Background(), func(ctx context.Context) {
			c.op.Lock() // a start under way comes first: RUNNING precedes EXITED
			defer c.op.Unlock()
			t.publishExit(ctx, c, e)
		})
	case p != nil:
		t.goBackground(context.Background(), func(ctx context.Context) { t.initEnded(ctx, p) })
	}
}

// publishExit makes the exit known and then frees what the process used. The
// caller holds c.op.
func (t *Table) publishExit(ctx context.Context, c *container, e shimrpc.Exited) {
	rec := c.record()
	if rec.Phase == phaseExited || rec.Phase == phaseCreating {
		return
	}
	exit := &spec.Exit{Code: e.Code, At: e.At, OOM: t.endedByOOM(c, e.Code)}
	if !e.Known {
		exit.Reason, exit.Message = "Unknown", "the process ended while nobody could read its exit status"
	}
	c.quiet.take(t.cfg.Hooks)
	t.setExited(ctx, c, exit)
	c.quiet.drop()
	t.emit(EventStopped, c.id, c.pod)
	if err := t.freeExited(ctx, c); err != nil {
		t.sinkTrouble(ctx, c, newTrouble("free", err))
		klog.FromContext(ctx).Error(err, "Cannot free what an exited container used; its removal will try again", "container", c.id)
	}
}

// freeExited ends what is left of an exited container but its files: leftover
// processes, the cgroup (so that the kubelet can remove the pod's) and mounts.
func (t *Table) freeExited(ctx context.Context, c *container) error {
	c.release()
	t.sampler.Forget(c.id) // its cgroup goes
	if err := t.deleteFromShim(ctx, c.pod, c.id); err != nil {
		return err
	}
	return t.unmountRoot(c)
}

// initEnded: without its init a shared PID namespace is dead, and the pod too.
func (t *Table) initEnded(ctx context.Context, p *Pod) {
	if p.phase() != phaseReady || p.record().Init.Alive() {
		return
	}
	if err := t.stopPod(ctx, p); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot stop the pod whose init has ended", "pod", p.id)
	}
}

// nudge looks at the kernel for one container that is said to run: if its
// process has gone, the exit is looked for. It does nothing in the usual case
// but read one line of /proc.
func (t *Table) nudge(id string) {
	t.mu.Lock()
	c := t.containers[id]
	t.mu.Unlock()
	if c == nil || closed(c.exited) {
		return
	}
	if rec := c.record(); rec.StartError != "" || rec.Process.Alive() || !c.claimNudge() {
		return
	}
	t.goBackground(context.Background(), func(ctx context.Context) {
		defer c.endNudge()
		// The shim reports within its bounded drain; only then decide alone.
		select {
		case <-c.exited:
			return
		case <-ctx.Done():
			return
		case <-time.After(exitReportTime):
		}
		c.op.Lock()
		defer c.op.Unlock()
		if closed(c.exited) {
			return // it was told meanwhile
		}
		if t.settle(ctx, c); closed(c.exited) {
			t.righted("process")
		}
	})
}

// claimNudge tells whether the caller is the one to look for the exit.
func (c *container) claimNudge() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	mine := !c.nudged
	c.nudged = true
	return mine
}

func (c *container) endNudge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nudged = false
}

// exitReportTime is how long a shim may take from an exit to its report: the
// bounded drain of the log and some scheduling.
const exitReportTime = 3 * time.Second

// settle publishes the exit of a container whose process has gone, from the
// shim's exit file or as unknown. The caller holds c.op.
func (t *Table) settle(ctx context.Context, c *container) {
	rec := c.record()
	if rec.Phase == phaseExited || rec.Phase == phaseCreating || rec.Process.Alive() && rec.BootID == t.cfg.BootID {
		return
	}
	e := shimrpc.Exited{ID: c.id, Code: 255, At: time.Now()}
	if b, err := os.ReadFile(filepath.Join(t.bundle(c.id), shimrpc.ExitFile)); err == nil {
		var onDisk shimrpc.Exited
		if json.Unmarshal(b, &onDisk) == nil && onDisk.ID == c.id {
			e = onDisk
		}
	}
	t.publishExit(ctx, c, e)
}

// StopContainer sends the stop signal, waits for grace and kills. It may be
// called any number of times, with a shorter grace too; a container that does
// not exist is success.
func (t *Table) StopContainer(ctx context.Context, v View, id string, grace time.Duration) error {
	c, err := t.findContainer(v, id)
	if errkind.Is(err, errkind.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return t.detached(ctx, func(ctx context.Context) error {
		t.askStop(ctx, c)
		// Nobody hears a signal while he stands still. No lock: whoever holds it
		// may wait for the container.
		logged(ctx, "Cannot let a paused container go on to its end", t.unpause(c))
		return t.stopContainer(ctx, c, grace)
	})
}

// killTime bounds the wait for a process that has been sent SIGKILL. One in
// an uninterruptible sleep may take longer; the client tries again.
const killTime = 15 * time.Second

// killPause is how often a killed process is looked at until its exit is told,
// which is usually sooner.
const killPause = 100 * time.Millisecond

func (t *Table) stopContainer(ctx context.Context, c *container, grace time.Duration) error {
	if closed(c.exited) {
		return nil
	}
	rec := c.record()
	if rec.StartError != "" { // there is nothing to kill
		c.op.Lock()
		defer c.op.Unlock()
		t.publishExit(ctx, c, shimrpc.Exited{ID: c.id, Code: killedCode, Known: true, At: time.Now()})
		return nil
	}
	shown := t.board.Begin("container.stop", c.id)
	defer shown.End()
	if grace > 0 && rec.Phase == phaseRunning {
		shown.At("grace")
		if err := c.signalOnce(rec); err != nil {
			return err
		}
		if ended, err := c.await(ctx, grace); ended || err != nil {
			return err
		}
	}
	shown.At("kill")
	if err := c.kill(rec); err != nil {
		return err
	}
	_, group := t.cgroup(c.pod.config.CgroupParent, c.id)
	for end := time.Now().Add(killTime); rec.Process.Alive(); {
		if ended, err := c.await(ctx, killPause); ended || err != nil {
			return err
		}
		if err := cgroup.Thaw(group); err != nil {
			return err
		}
		if time.Now().After(end) {
			return errkind.New(errkind.DeadlineExceeded, "container %s was killed but its process %d has not ended in %v; it may hang in the kernel", c.id, rec.Process.Pid, killTime)
		}
	}
	// It has ended. Whose shim tells nothing is decided for here.
	shown.At("publish")
	if ended, err := c.await(ctx, exitReportTime); ended || err != nil {
		return err
	}
	// Publishing is quick; the freeing after it may wait for a hung shim.
	t.goBackground(ctx, func(ctx context.Context) {
		c.op.Lock()
		defer c.op.Unlock()
		t.settle(ctx, c)
	})
	if ended, err := c.await(ctx, killTime); ended || err != nil {
		return err
	}
	return errkind.New(errkind.DeadlineExceeded, "container %s has ended but its end could not be published in %v: another operation on it hangs", c.id, killTime)
}

// signalOnce sends the stop signal, once however often stop is called.
func (c *container) signalOnce(rec containerRecord) error {
	c.mu.Lock()
	sent := c.stopSent
	c.stopSent = true
	c.mu.Unlock()
	if sent {
		return nil
	}
	sig, err := parseSignal(rec.StopSignal)
	if err != nil {
		return err
	}
	return rec.Process.Signal(sig)
}

// kill sends SIGKILL, and remembers that it was not the kernel's OOM killer.
func (c *container) kill(rec containerRecord) error {
	if rec.Process.Alive() {
		c.mu.Lock()
		c.killed = true
		c.mu.Unlock()
	}
	return rec.Process.Signal(unix.SIGKILL)
}

// await waits for the exit to be published.
func (c *container) await(ctx context.Context, d time.Duration) (bool, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.exited:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Signal sends a signal by name to the first process of a running container.
func (t *Table) Signal(ctx context.Context, v View, id, signal string) error {
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	c, err := t.findContainer(v, id)
	if err != nil {
		return err
	}
	rec := c.record()
	if rec.Phase != phaseRunning {
		return errkind.New(errkind.FailedPrecondition, "container %s is %s, not running", c.id, rec.Phase)
	}
	if stop, err := parseSignal(rec.StopSignal); sig == unix.SIGKILL || err == nil && sig == stop {
		t.askStop(ctx, c)
	}
	if sig == unix.SIGKILL {
		return c.kill(rec)
	}
	return rec.Process.Signal(sig)
}
