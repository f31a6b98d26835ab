package pod

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// drainTime bounds how long the output is read on after the process has
// ended: a background child that inherited the pipe must not hold up the call.
const drainTime = 2 * time.Second

// ExecSync runs a command in a running container and captures its output. A
// timeout of 0 is none; when it has passed, the command and what it started
// is killed and the error is errkind.DeadlineExceeded.
func (t *Table) ExecSync(ctx context.Context, v View, id string, args []string, timeout time.Duration) (ExecResult, error) {
	c, err := t.findContainer(v, id)
	if err != nil {
		return ExecResult{}, err
	}
	if len(args) == 0 {
		return ExecResult{}, errkind.New(errkind.InvalidArgument, "cannot run in container %s: no command is given", c.id)
	}
	rec := c.record()
	if rec.Phase != phaseRunning {
		return ExecResult{}, errkind.New(errkind.FailedPrecondition, "cannot run %s in container %s: it is %s, not running", args[0], c.id, rec.Phase)
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, errkind.New(errkind.DeadlineExceeded, "command %q timed out after %v in container %s", strings.Join(args, " "), timeout, c.id))
		defer cancel()
	}
	res, err := t.execSync(ctx, c, args)
	if err != nil && ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	return res, err
}

func (t *Table) execSync(ctx context.Context, c *container, args []string) (ExecResult, error) {
	shim, err := t.shims.client(ctx, c.pod)
	if err != nil {
		return ExecResult{}, err
	}
	var out, errOut capture
	stdout, err := out.open()
	if err != nil {
		return ExecResult{}, err
	}
	defer out.close()
	stderr, err := errOut.open()
	if err != nil {
		_ = stdout.Close()
		return ExecResult{}, err
	}
	defer errOut.close()
	proc, err := t.startExec(ctx, shim, c, args, stdout, stderr)
	if err != nil {
		return ExecResult{}, fmt.Errorf("cannot run %s in container %s: %w", args[0], c.id, err)
	}
	defer func() { _ = proc.Close() }()
	exit, err := proc.Wait(ctx)
	if err != nil {
		t.killExec(c, pidfd.Process{Pid: proc.Pid, StartTime: proc.StartTime})
		return ExecResult{}, err
	}
	deadline := time.Now().Add(drainTime)
	return ExecResult{Stdout: out.result(deadline), Stderr: errOut.result(deadline), Code: exit.Code}, nil
}

// startExec starts the command; it consumes the files. A start cannot be
// called back once it is asked for, so one whose caller has gone is waited for
// and then killed.
func (t *Table) startExec(ctx context.Context, shim *shimrpc.Client, c *container, args []string, stdout, stderr *os.File) (*shimrpc.Process, error) {
	type result struct {
		proc *shimrpc.Process
		err  error
	}
	started := make(chan result)
	begun := t.goBackground(ctx, func(bg context.Context) {
		proc, err := shim.Exec(bg, c.id, shimrpc.Exec{Args: args, Stdout: true, Stderr: true}, []*os.File{stdout, stderr})
		_, _ = stdout.Close(), stderr.Close()
		select {
		case started <- result{proc, err}:
		case <-ctx.Done():
			if err == nil {
				t.killExec(c, pidfd.Process{Pid: proc.Pid, StartTime: proc.StartTime})
				_ = proc.Close()
			}
		}
	})
	if !begun {
		_, _ = stdout.Close(), stderr.Close()
		return nil, ending()
	}
	select {
	case r := <-started:
		return r.proc, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// killExec kills an exec and what it started: libcontainer makes every exec
// the leader of a session, so its session within the container's cgroup is
// what belongs to it.
func (t *Table) killExec(c *container, leader pidfd.Process) {
	_ = leader.Signal(unix.SIGKILL) // the caller's error is the timeout
	_, path := t.cgroup(c.pod.config.CgroupParent, c.id)
	pids, _ := cgroup.Procs(path) // no cgroup, no processes
	for _, pid := range pids {
		p, err := pidfd.Find(pid)
		if err != nil {
			continue // it has ended
		}
		if sid, err := pidfd.Session(pid); err == nil && sid == leader.Pid {
			_ = p.Signal(unix.SIGKILL)
		}
	}
}

// capture reads one stream of a process into memory, up to MaxExecOutput; the
// rest is read and thrown away so that the process never blocks on it.
type capture struct {
	r    *os.File
	done chan struct{}
	mu   sync.Mutex
	buf  []byte // guarded by mu
}

// open starts the reading and returns the end that the process writes to; the
// caller closes it.
func (c *capture) open() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.r, c.done = r, make(chan struct{})
	go func() {
		defer close(c.done)
		_, _ = io.Copy(c, c.r) // ends with the last writer, or with close
	}()
	return w, nil
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if room := MaxExecOutput - len(c.buf); room > 0 {
		c.buf = append(c.buf, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// result waits for the end of the stream, until the deadline at most.
func (c *capture) result(deadline time.Time) []byte {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	}
	c.close()
	<-c.done
	return c.buf
}

func (c *capture) close() {
	if c.r != nil {
		_ = c.r.Close()
	}
}
