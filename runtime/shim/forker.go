package shim

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// forkers are processes of this binary that start execs in the shim's stead.
//
// On cgroup v2 libcontainer clones an exec straight into the container's
// cgroup, and Go's fork is a vfork: where that cgroup is frozen or starved of
// CPU, the whole process that forks stops at its next garbage collection until
// the child has executed. So it must not be the shim, which has the output and
// the ends of all other containers.
//
// A forker has one exec at a time, whose parent it is and whom it reaps, so
// that one that stalls holds up nothing else. It takes the next when that has
// ended. The first is started by the first exec; from then on one is kept when
// it has nothing to do. Beside the exit code that it tells, the shim has a
// pidfd of the exec, from which it learns the end should the forker die.
type forkers struct {
	log    *log.Logger
	starts *starts // of the shim, whose children they are

	mu    sync.Mutex
	spare *forker // guarded by mu; has nothing to do
}

// forker is the shim's end of one.
type forker struct {
	process *os.Process
	conn    *shimrpc.Conn
	answers chan answer // closed when the forker has ended and is reaped
}

type answer struct {
	shimrpc.Response
	files []*os.File
}

const (
	// lookEvery is how often it is looked what holds up an exec's start.
	lookEvery = 5 * time.Second
	// startDeadline bounds the start of an exec that the container itself stops.
	startDeadline = 2 * lookEvery
	// startLimit bounds it where nothing tells so. A node without CPU time to
	// spare may need long, but forkers must not gather for ever.
	startLimit = 2 * time.Minute
	// stallGrace is for a stalled forker whose children were killed: it then
	// reaps them and answers.
	stallGrace = 2 * time.Second
)

// exec does what server.execHere does, in a forker.
func (fs *forkers) exec(conn *shimrpc.Conn, c *container, e *shimrpc.Exec, files []*os.File) (*shimrpc.Exited, error) {
	f, err := fs.ask(shimrpc.Request{Verb: shimrpc.VerbExec, ID: c.ID, Create: &c.Create, Exec: e}, files)
	if err != nil {
		return nil, err
	}
	// The forker has its own; a reader waits for the end of all others.
	closeFiles(files)
	started, err := fs.awaitStart(f, c)
	if err != nil {
		return nil, err
	}
	fd, err := pollable(started.files[0])
	if err != nil {
		f.end()
		shimrpc.CloseAll(started.files[1:])
		return nil, err
	}
	defer func() { _ = fd.Close() }()
	_ = conn.Send(started.Response, started.files[1:]...)
	// The receiver's copy is the only one: the slave's end shows there.
	shimrpc.CloseAll(started.files[1:])
	last, alive := <-f.answers
	if alive {
		fs.giveBack(f)
		shimrpc.CloseAll(last.files)
		return last.Exited, last.Error.Err()
	}
	fs.log.Printf("the forker of process %d of container %s has ended before it", started.Started.Pid, c.ID)
	if err := awaitEnd(fd, pidfd.Process{Pid: started.Started.Pid, StartTime: started.Started.StartTime}); err != nil {
		return nil, err
	}
	exit := strangersStatus(fd)
	exit.ID, exit.At = c.ID, time.Now()
	return &exit, nil
}

// ask sends req to a forker, the spare one if it lives.
func (fs *forkers) ask(req shimrpc.Request, files []*os.File) (*forker, error) {
	fs.mu.Lock()
	f := fs.spare
	fs.spare = nil
	fs.mu.Unlock()
	if f != nil {
		if err := f.conn.Send(req, files...); err == nil {
			return f, nil
		}
		f.end()
	}
	f, err := fs.start()
	if err != nil {
		return nil, fmt.Errorf("cannot start a process to fork from: %w", err)
	}
	if err := f.conn.Send(req, files...); err != nil {
		f.end()
		return nil, err
	}
	return f, nil
}

// giveBack keeps f for the next exec, or ends it if there is one already.
func (fs *forkers) giveBack(f *forker) {
	fs.mu.Lock()
	spare := fs.spare
	fs.spare = f
	fs.mu.Unlock()
	if spare != nil {
		spare.end()
	}
}

// start makes a forker. It is forked into the shim's own cgroup.
func (fs *forkers) start() (*forker, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "forker"), os.NewFile(uintptr(fds[1]), "forker")
	defer func() { _ = theirs.Close() }()
	conn, err := packetConn(mine)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", "--forker") //nolint:forbidigo // ended by the end of its connection
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	fs.starts.begin()
	if err := cmd.Start(); err != nil {
		fs.starts.end()
		_ = conn.Close()
		return nil, err
	}
	fs.starts.done(cmd.Process.Pid)
	// Room for the two answers of an exec that nobody waits for any more.
	f := &forker{process: cmd.Process, conn: conn, answers: make(chan answer, 2)}
	go f.read(fs.starts)
	return f, nil
}

// read takes the forker's answers until it ends, and reaps it.
func (f *forker) read(starts *starts) {
	for {
		var a answer
		var err error
		if a.files, err = f.conn.Recv(&a.Response); err != nil {
			break
		}
		f.answers <- a
	}
	f.end()
	_, _ = f.process.Wait()
	starts.reaped(f.process.Pid)
	close(f.answers)
}

// end makes the forker end; read reaps it.
func (f *forker) end() {
	_ = f.process.Kill()
	_ = f.conn.Close()
}

// awaitStart waits for f to have started its process, whose pidfd is the first
// of the files. On failure f is back or ended.
func (fs *forkers) awaitStart(f *forker, c *container) (answer, error) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var before uint64
	for waited := lookEvery; ; waited += lookEvery {
		select {
		case a, alive := <-f.answers:
			return fs.answered(f, a, alive)
		case <-look.C:
		}
		held := c.heldBack()
		if err := c.stalled(waited, held > before); err != nil {
			fs.log.Printf("an exec in container %s has not started in %s, and its processes are killed: %v", c.ID, waited, err)
			go f.unstick()
			return answer{}, err
		}
		before = held
	}
}

// answered is a forker's first answer, or its end.
func (fs *forkers) answered(f *forker, a answer, alive bool) (answer, error) {
	switch {
	case !alive:
		return answer{}, errkind.New(errkind.Unavailable, "the process that was to fork it has ended")
	case a.Error != nil:
		fs.giveBack(f)
		return answer{}, a.Error.Err()
	case a.Started == nil || len(a.files) == 0:
		f.end()
		shimrpc.CloseAll(a.files)
		return answer{}, errkind.New(errkind.Unavailable, "the process that was to fork it gave an answer of another kind")
	}
	return a, nil
}

// stalled tells why an exec that has not started in that time is given up, if
// it is. The container has been held back if its limits made it wait of late.
func (c *container) stalled(waited time.Duration, heldBack bool) error {
	switch {
	case waited < startDeadline:
		return nil
	case c.frozen():
		return errkind.New(errkind.FailedPrecondition, "it is frozen")
	case heldBack:
		return errkind.New(errkind.DeadlineExceeded, "the process has not started in %s: the container is starved of CPU or memory by its limits", waited)
	case waited >= startLimit:
		return errkind.New(errkind.DeadlineExceeded, "the process has not started in %s, though no limit holds the container back", waited)
	}
	return nil
}

// heldBack counts how often limits have made the container wait: see frozen for
// the groups.
func (c *container) heldBack() uint64 {
	n := cgroup.HeldBack(c.cgroup)
	if group, err := cgroup.Of(c.current().init.Pid); err == nil {
		n = max(n, cgroup.HeldBack(group))
	}
	return n
}

// frozen tells whether an exec could not run. libcontainer puts it into the
// container's cgroup, or into that of init where the kernel wants the former
// to have groups below it only.
func (c *container) frozen() bool {
	if cgroup.Frozen(c.cgroup) {
		return true
	}
	group, err := cgroup.Of(c.current().init.Pid)
	return err == nil && cgroup.Frozen(group)
}

// unstick ends a forker that stalled. What it has forked is killed first, as a
// frozen cgroup of v2 lets it be, and is reaped by the forker then.
func (f *forker) unstick() {
	for _, pid := range childrenOf(f.process.Pid) {
		if p, err := pidfd.Find(pid); err == nil {
			_ = p.Signal(unix.SIGKILL)
		}
	}
	grace := time.NewTimer(stallGrace)
	defer grace.Stop()
	select {
	case a := <-f.answers:
		shimrpc.CloseAll(a.files)
	case <-grace.C:
	}
	f.end()
	for a := range f.answers {
		shimrpc.CloseAll(a.files)
	}
}

// forkerFd is where a forker finds its connection.
const forkerFd = 3

// runForker is the forker's side. It ends with its connection, that is with
// the shim.
func runForker(l *log.Logger) error {
	conn, err := packetConn(os.NewFile(forkerFd, "shim"))
	if err != nil {
		return fmt.Errorf("cannot serve as a forker: %w", err)
	}
	// They may be sent to the shim's whole group, and the shim decides.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	s := newServer("", l, nil)
	s.isForker = true
	for {
		var req shimrpc.Request
		files, err := conn.Recv(&req)
		if err != nil {
			return nil
		}
		// This goroutine goes on to wait for the shim's end.
		go func() {
			var resp shimrpc.Response
			if resp.Exited, err = s.execFor(conn, req, files); err != nil {
				resp = shimrpc.Response{Error: shimrpc.WireError(err)}
			}
			closeFiles(files)
			_ = conn.Send(resp)
		}()
	}
}

// execFor carries out the shim's request in a container that this process
// knows only from its state on disk.
func (s *server) execFor(conn *shimrpc.Conn, req shimrpc.Request, files []*os.File) (*shimrpc.Exited, error) {
	if req.Create == nil || req.Exec == nil {
		return nil, errkind.New(errkind.InvalidArgument, "no process was named")
	}
	c := &container{Create: *req.Create}
	var err error
	c.lc, err = libcontainer.Load(c.Root, c.ID)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return nil, errkind.New(errkind.NotFound, "libcontainer has no state of it in %s", c.Root)
	}
	if err != nil {
		return nil, err
	}
	return s.execHere(conn, c, req.Exec, files)
}

// packetConn makes a connection of one end of a socketpair, which it consumes.
func packetConn(f *os.File) (*shimrpc.Conn, error) {
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, &os.PathError{Op: "open", Path: f.Name(), Err: syscall.ENOTSOCK}
	}
	return shimrpc.NewConn(uc), nil
}
