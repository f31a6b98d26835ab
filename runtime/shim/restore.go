package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// restoring is a restore of a container: while it is under way the end of the
// init that waits for a start is not the container's.
type restoring struct {
	ctx    context.Context // ends CRIU
	cancel context.CancelFunc
	done   chan struct{} // closed when CRIU has ended
	next   *first        // valid once done is closed; nil: it failed
	status func() shimrpc.Exited
	in     chan struct{} // closed when next is the container's first process
}

// restore brings back the processes of a checkpoint in the place of the init
// that waits for a start. The init has made what a restore needs and keeps: the
// cgroup with its limits and devices, the mount points, the FIFOs.
//
// libcontainer's own restore speaks protobuf with CRIU, which the shim does not
// link; all that it does besides is here: CRIU is put into the cgroup, restores
// siblings of itself, so that they are our children, and libcontainer's state
// is written anew with the new init.
func (s *server) restore(id string, r *shimrpc.Restore, files []*os.File) (*shimrpc.Started, error) {
	if r == nil || len(r.Args) == 0 || !filepath.IsAbs(r.PidFile) || r.Timeout <= 0 {
		return nil, errkind.New(errkind.InvalidArgument, "a restore needs a program, an absolute path for its pid and a time")
	}
	unlock := s.ids.Lock(id)
	defer unlock()
	c, err := s.find(id)
	if err != nil {
		return nil, err
	}
	fifo := filepath.Join(c.Root, c.ID, "exec.fifo")
	if _, err := os.Lstat(fifo); errors.Is(err, os.ErrNotExist) {
		return c.restored()
	}
	if c.isDead() {
		return nil, errkind.New(errkind.FailedPrecondition, "its init process has ended")
	}
	re := &restoring{done: make(chan struct{}), in: make(chan struct{})}
	re.ctx, re.cancel = context.WithTimeout(context.Background(), time.Duration(r.Timeout)*time.Second)
	defer re.cancel()
	c.mu.Lock()
	c.restoring = re
	c.mu.Unlock()
	err = s.revive(c, r, files, re)
	close(re.done)
	s.trim.Reset(trimAfter)
	if err != nil {
		return nil, err
	}
	if err := c.current().init.Signal(unix.SIGKILL); err != nil { // the one that has waited
		return nil, err
	}
	select {
	case <-re.in:
	case <-time.After(deadline):
		return nil, errkind.New(errkind.DeadlineExceeded, "the process that waited for the start has not ended %s after it was killed", deadline)
	}
	return &shimrpc.Started{Pid: re.next.init.Pid, StartTime: re.next.init.StartTime}, nil
}

// restored answers a restore of a container that has been started.
func (c *container) restored() (*shimrpc.Started, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.restoring == nil || c.restoring.next == nil {
		return nil, errkind.New(errkind.FailedPrecondition, "it was started before")
	}
	next := c.restoring.next.init
	return &shimrpc.Started{Pid: next.Pid, StartTime: next.StartTime}, nil
}

// succeed puts the process that a restore has brought back in the place of the
// one that has ended, and returns what tells its status; nil: there is none.
func (c *container) succeed() (status func() shimrpc.Exited) {
	c.mu.Lock()
	re := c.restoring
	c.mu.Unlock()
	if re == nil || closed(re.in) {
		return nil
	}
	re.cancel() // the init has been killed before CRIU was done: so is CRIU
	<-re.done
	if re.next == nil {
		return nil
	}
	c.mu.Lock()
	old := c.pidfd
	c.first = *re.next
	c.mu.Unlock()
	_ = old.Close() // nil where there is none
	close(re.in)
	return re.status
}

func closed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// revive runs CRIU and, if it succeeds, makes re.next. Killing what is in the
// cgroup ends it.
func (s *server) revive(c *container, r *shimrpc.Restore, files []*os.File, re *restoring) (err error) {
	s.starts.begin()
	pid := 0
	defer func() { s.starts.done(pid) }()
	if pid, err = runCRIU(re.ctx, c.current().lc, r, files); err != nil {
		return err
	}
	next := &first{}
	if next.init, err = pidfd.Find(pid); err == nil {
		next.pidfd, err = next.init.Open()
	}
	if err == nil {
		next.lc, err = adoptState(c, next.init)
	}
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL) // our child, so the number is still its; the end of its PID namespace takes the others
		if next.pidfd != nil {
			_ = next.pidfd.Close()
		}
		return fmt.Errorf("cannot take the restored process %d: %w", pid, err)
	}
	re.status = func() shimrpc.Exited {
		defer s.starts.reaped(pid)
		return childStatus(pid, next.pidfd)
	}
	re.next = next
	return nil
}

// runCRIU runs the program of r in the container's cgroup, to its end, and
// returns the pid that it tells. CRIU 3.17 forgets no_new_privs, which its
// children inherit from it.
func runCRIU(ctx context.Context, lc *libcontainer.Container, r *shimrpc.Restore, files []*os.File) (int, error) {
	st, err := lc.State()
	if err != nil {
		return 0, err
	}
	args := []string{"-enter", strings.Join(slices.Sorted(mapValues(st.CgroupPaths)), ",")}
	if st.Config.Namespaces.Contains(configs.NEWCGROUP) {
		args[1] += "," + ownNamespace
	}
	if st.Config.NoNewPrivileges {
		args[1] += "," + noPrivs
	}
	// Like the daemon's: the kernel means the thread that forked by the parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append(append(args, "--"), r.Args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	// The restored processes may have the pipe that we read.
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return 0, errkind.New(errkind.DeadlineExceeded, "CRIU took more than %d s and was ended", r.Timeout)
		case ctx.Err() != nil:
			return 0, errkind.New(errkind.FailedPrecondition, "the container was killed while CRIU restored it")
		}
		return 0, fmt.Errorf("CRIU cannot restore it: %w: %s", err, strings.TrimSpace(string(out.b)))
	}
	b, err := os.ReadFile(r.PidFile)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("CRIU tells %q for the pid of what it restored", b)
	}
	return pid, nil
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const keep = 1 << 10
	t.b = append(t.b, p...)
	if over := len(t.b) - keep; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// adoptState makes init the first process in libcontainer's state of c, which
// has been waiting for a start until now, and loads it.
func adoptState(c *container, init pidfd.Process) (*libcontainer.Container, error) {
	st, err := c.current().lc.State()
	if err != nil {
		return nil, err
	}
	st.InitProcessPid, st.InitProcessStartTime, st.Created = init.Pid, init.StartTime, time.Now().UTC()
	// CRIU may have put the processes into a time namespace, so that their
	// clocks go on from where they were; execs are to see the same.
	if own, err := namespaceOf(init.Pid, "time"); err == nil {
		if ours, err := namespaceOf(os.Getpid(), "time"); err == nil && own != ours && !st.Config.Namespaces.Contains(configs.NEWTIME) {
			st.Config.Namespaces = append(st.Config.Namespaces, configs.Namespace{Type: configs.NEWTIME})
		}
	}
	st.NamespacePaths = make(map[configs.NamespaceType]string)
	for _, ns := range st.Config.Namespaces {
		st.NamespacePaths[ns.Type] = ns.GetPath(init.Pid)
	}
	b, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(c.Root, c.ID)
	if err := atomicfile.WriteVolatile(filepath.Join(dir, "state.json"), b, 0o600); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(dir, "exec.fifo")); err != nil {
		return nil, err
	}
	return libcontainer.Load(c.Root, c.ID)
}

func namespaceOf(pid int, kind string) (string, error) {
	return os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
}

// childStatus waits for a child that has ended; fd tells of one that was none.
func childStatus(pid int, fd *os.File) shimrpc.Exited {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return strangersStatus(fd)
		}
		return exited(pidfd.Code(ws), true)
	}
}

// What may be among the paths of cgroups to enter.
const (
	ownNamespace = "namespace" // asks for a cgroup namespace
	noPrivs      = "no-new-privs"
)

// enterAndExecute moves this process into cgroups and becomes another program.
// It is a process of its own because a fork of the shim must not be in a
// container's cgroup; see forkers.
func enterAndExecute(paths string, args []string) error {
	if len(args) == 0 {
		return errors.New("there is no program to execute")
	}
	runtime.LockOSThread() // the thread that executes is the process
	for dir := range strings.SplitSeq(paths, ",") {
		switch dir {
		case ownNamespace:
			if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
				return fmt.Errorf("cannot make a cgroup namespace: %w", err)
			}
			continue
		case noPrivs:
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				return fmt.Errorf("cannot give up new privileges: %w", err)
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("cannot enter the container's cgroup: %w", err)
		}
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("cannot execute %s: %w", program, unix.Exec(program, args, os.Environ()))
}
