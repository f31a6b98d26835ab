package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Stdio says which streams of a process a caller wants to hold. A terminal has
// one output, which comes as stdout whether it is asked for or not.
type Stdio struct {
	TTY                   bool
	Stdin, Stdout, Stderr bool
}

// Session is a process with the near ends of its stdio. Its methods may be
// called concurrently.
//
// Whoever holds a session reads its outputs to their end, or closes them: a
// process that nobody reads from stops at a full pipe.
type Session interface {
	// Stdin, Stdout and Stderr are nil where the process has no such stream
	// for the caller. Closing stdin ends it for a process without a terminal.
	Stdin() io.WriteCloser
	Stdout() io.ReadCloser
	Stderr() io.ReadCloser
	// Resize sets the size of the terminal; without one it does nothing.
	Resize(columns, rows uint16) error
	// Wait returns when the process has ended, or ctx. The outputs end then
	// too, after what the process left in them, even if a child of it keeps
	// them open. It is called once.
	Wait(ctx context.Context) (code int32, err error)
	// Close gives the streams up and hears no more of the process, which goes
	// on: it meets the end of its stdin, a broken pipe, or a hung up terminal.
	Close()
}

// ExecStream starts a command in a running container.
func (t *Table) ExecStream(ctx context.Context, v View, id string, args []string, want Stdio) (Session, error) {
	return t.ExecCommand(ctx, v, id, Command{Args: args}, want)
}

// Command is a further process of a container. What is not set is as for the
// container's first process.
type Command struct {
	Args []string
	Env  []string // NAME=VALUE, over the variables of the first process
	Dir  string   // absolute
	User string   // UID[:GID], or names of the image's accounts
}

// ExecCommand starts a command in a running container.
func (t *Table) ExecCommand(ctx context.Context, v View, id string, cmd Command, want Stdio) (Session, error) {
	if len(cmd.Args) == 0 {
		return nil, errkind.New(errkind.InvalidArgument, "cannot run in container %s: no command is given", id)
	}
	c, shim, err := t.streamable(ctx, v, id, phaseRunning)
	if err != nil {
		return nil, err
	}
	s := &execSession{}
	var theirs []*os.File
	e, err := t.execRequest(c, cmd)
	if err != nil {
		return nil, fmt.Errorf("cannot run %s in container %s: %w", cmd.Args[0], c.id, err)
	}
	e.TTY = want.TTY
	if !want.TTY {
		e.Stdin, e.Stdout, e.Stderr = want.Stdin, want.Stdout, want.Stderr
		theirs, err = s.pipes(want)
	}
	if err == nil {
		s.proc, err = shim.Exec(ctx, c.id, e, theirs)
	}
	shimrpc.CloseAll(theirs)
	if err == nil && want.TTY {
		err = s.terminal(s.proc.Console, want.Stdin, true)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("cannot run %s in container %s: %w", cmd.Args[0], c.id, err)
	}
	return s, nil
}

// execRequest is the command as the shim wants it, but for its stdio. Names of
// users are looked up in the container's own files, as they are now.
func (t *Table) execRequest(c *container, cmd Command) (shimrpc.Exec, error) {
	e := shimrpc.Exec{Args: cmd.Args, Cwd: cmd.Dir}
	if cmd.Dir != "" && !filepath.IsAbs(cmd.Dir) {
		return e, errkind.New(errkind.InvalidArgument, "the working directory %q is not absolute", cmd.Dir)
	}
	if cmd.User != "" {
		sec := c.record().Config.Security
		sec.RunAsUser, sec.RunAsUsername, sec.RunAsGroup = nil, "", nil
		u, err := t.lookUpUser(c, &sec, cmd.User)
		if err != nil {
			return e, err
		}
		e.User = &shimrpc.User{UID: u.UID, GID: u.GID, Groups: u.Groups}
		e.Env = append(e.Env, "HOME="+u.Home)
	}
	for _, variable := range cmd.Env {
		if name, _, ok := strings.Cut(variable, "="); !ok || name == "" || strings.ContainsRune(variable, 0) {
			return e, errkind.New(errkind.InvalidArgument, "%q is not a variable of an environment", name)
		}
		e.Env = append(e.Env, variable)
	}
	return e, nil
}

// AttachStream joins the first process of a container that runs, or is about
// to: what it prints from now on, and its stdin if it has one. Whether there is
// a terminal is the container's affair, not the caller's.
func (t *Table) AttachStream(ctx context.Context, v View, id string, want Stdio) (Session, error) {
	c, shim, err := t.streamable(ctx, v, id, phaseCreated, phaseStarting, phaseRunning)
	if err != nil {
		return nil, err
	}
	cfg := c.record().Config
	want.Stdin = want.Stdin && cfg.Stdin
	want.Stderr = want.Stderr && !cfg.TTY
	s := &attachSession{ended: make(chan struct{})}
	theirs, err := s.pipes(Stdio{Stdout: want.Stdout, Stderr: want.Stderr})
	if err == nil {
		err = t.attachInput(ctx, s, shim, c, want.Stdin)
	}
	if err == nil {
		err = s.begin(ctx, shim, c.id, want, theirs)
	}
	shimrpc.CloseAll(theirs)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("cannot attach to container %s: %w", c.id, err)
	}
	return s, nil
}

// PortForward connects to a port on the pod's loopback, IPv4 first. The
// caller closes the connection, which is a *net.TCPConn.
func (t *Table) PortForward(ctx context.Context, v View, podID string, port uint16) (net.Conn, error) {
	p, err := t.findPod(v, podID)
	if err != nil {
		return nil, err
	}
	rec := p.record()
	if rec.Phase != phaseReady {
		return nil, errkind.New(errkind.FailedPrecondition, "cannot forward port %d of pod %s: it is %s, not ready", port, p.id, rec.Phase)
	}
	var conn net.Conn
	dial := func() error {
		conn, err = dialLoopback(ctx, port)
		return err
	}
	if hasNetns(&rec.Config) {
		err = netns.Do(t.netns(p.id), dial)
	} else {
		err = dial()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot forward port %d of pod %s: %w", port, p.id, err)
	}
	return conn, nil
}

// dialLoopback tries one family after the other on the calling thread: a
// socket belongs to the namespace of the thread that makes it, and a dialer
// that is given two addresses at once makes goroutines.
func dialLoopback(ctx context.Context, port uint16) (net.Conn, error) {
	var (
		dialer net.Dialer
		errs   []error
	)
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// streamable finds a container in one of the phases, and its shim.
func (t *Table) streamable(ctx context.Context, v View, id string, in ...phase) (*container, *shimrpc.Client, error) {
	c, err := t.findContainer(v, id)
	if err != nil {
		return nil, nil, err
	}
	if ph := c.record().Phase; !slices.Contains(in, ph) {
		return nil, nil, errkind.New(errkind.FailedPrecondition, "cannot reach into container %s: it is %s, not running", c.id, ph)
	}
	shim, err := t.shims.client(ctx, c.pod)
	return c, shim, err
}

// attachInput opens the way that typed bytes take: the terminal, or the FIFO
// of stdin.
func (t *Table) attachInput(ctx context.Context, s *attachSession, shim *shimrpc.Client, c *container, stdin bool) error {
	cfg := c.record().Config
	if cfg.TTY {
		console, err := shim.Console(ctx, c.id)
		if err != nil {
			return err
		}
		return s.terminal(console, stdin, false)
	}
	if !stdin {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(t.bundle(c.id), shimrpc.StdinFile), os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return nil // a stdin of one use was used, or its reader has closed it
	}
	if err != nil {
		return err
	}
	in := &input{File: f}
	if cfg.StdinOnce {
		ctx := context.WithoutCancel(ctx)
		in.after = func() error { return c.endStdin(ctx, shim) }
	}
	s.in = in
	return nil
}

// ends are the near ends of a process' stdio.
type ends struct {
	in       io.WriteCloser // the interfaces are nil, not of a nil pointer
	out, err io.ReadCloser
	console  *os.File
}

func (e *ends) Stdin() io.WriteCloser { return e.in }
func (e *ends) Stdout() io.ReadCloser { return e.out }
func (e *ends) Stderr() io.ReadCloser { return e.err }

func (e *ends) Resize(columns, rows uint16) error {
	if e.console == nil {
		return nil
	}
	var err error
	rc, cerr := e.console.SyscallConn()
	if cerr == nil {
		cerr = rc.Control(func(fd uintptr) {
			err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
		})
	}
	return errors.Join(cerr, err)
}

// pipes makes a pipe for each stream wanted and returns the process' ends, in
// the order of their numbers; they are the caller's even on failure.
func (e *ends) pipes(want Stdio) (theirs []*os.File, err error) {
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	if want.Stdin {
		if r, w := pipe(); err == nil {
			e.in, theirs = &input{File: w}, append(theirs, r)
		}
	}
	if want.Stdout {
		if r, w := pipe(); err == nil {
			e.out, theirs = &output{File: r}, append(theirs, w)
		}
	}
	if want.Stderr {
		if r, w := pipe(); err == nil {
			e.err, theirs = &output{File: r}, append(theirs, w)
		}
	}
	return theirs, err
}

// terminal makes console, which it consumes, the way in and out.
func (e *ends) terminal(console *os.File, in, out bool) error {
	f, err := inPoller(console)
	if err != nil {
		return err
	}
	e.console = f
	if in {
		e.in = typist{f}
	}
	if out {
		e.out = &output{File: f}
	}
	return nil
}

// finish lets the outputs end although something else may hold them open.
func (e *ends) finish() {
	for _, r := range []io.ReadCloser{e.out, e.err} {
		if o, ok := r.(*output); ok {
			o.finish()
		}
	}
}

func (e *ends) close() {
	if e.in != nil {
		_ = e.in.Close()
	}
	for _, r := range []io.ReadCloser{e.out, e.err} {
		if r != nil {
			_ = r.Close()
		}
	}
	if e.console != nil {
		_ = e.console.Close()
	}
}

// execSession is a process that ExecStream started.
type execSession struct {
	ends
	proc *shimrpc.Process
}

func (s *execSession) Wait(ctx context.Context) (int32, error) {
	exit, err := s.proc.Wait(ctx)
	s.finish()
	return exit.Code, err
}

func (s *execSession) Close() {
	s.close()
	if s.proc != nil {
		_ = s.proc.Close()
	}
}

// attachSession is a container's first process, seen by AttachStream.
type attachSession struct {
	ends
	cancel context.CancelFunc
	ended  chan struct{} // closed when the shim's call has returned
	failed error         // of the call; valid once ended is closed
}

// begin returns when nothing that the container prints will be missed.
func (s *attachSession) begin(ctx context.Context, shim *shimrpc.Client, id string, want Stdio, theirs []*os.File) error {
	var stdout, stderr *os.File
	rest := theirs
	if want.Stdout {
		stdout, rest = rest[0], rest[1:]
	}
	if want.Stderr {
		stderr = rest[0]
	}
	attached := make(chan struct{})
	var calling context.Context
	calling, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(s.ended)
		s.failed = shim.Attach(calling, id, stdout, stderr, func() { close(attached) })
	}()
	select {
	case <-attached:
		return nil
	case <-s.ended:
		return s.failed
	case <-ctx.Done():
		s.cancel()
		<-s.ended // it may be using theirs
		return ctx.Err()
	}
}

// Wait has no code to give: the container's is in its status.
func (s *attachSession) Wait(ctx context.Context) (int32, error) {
	select {
	case <-s.ended:
		return 0, s.failed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (s *attachSession) Close() {
	s.close()
	if s.cancel != nil {
		s.cancel()
		<-s.ended
	}
}

// input is the end that a process reads its stdin from the other side of.
type input struct {
	*os.File
	once  sync.Once
	after func() error // nil: nothing more to do
	err   error        // of the first Close
}

// Close ends the stream. Later calls do nothing.
func (i *input) Close() error {
	i.once.Do(func() {
		i.err = i.File.Close()
		if i.after != nil {
			i.err = errors.Join(i.err, i.after())
		}
	})
	return i.err
}

// typist writes to a terminal, which does not end with what is typed.
type typist struct{ io.Writer }

// Close does nothing.
func (typist) Close() error { return nil }

// leftover is the most that a process can have left in a pipe or a terminal.
const leftover = 64 << 10

// output is the end that a process writes to the other side of.
type output struct {
	*os.File
	taken int // of what was left, after the deadline; only Read uses it
}

// finish makes Read end after drainTime: a background child may hold the
// stream open for as long as it likes.
func (o *output) finish() { _ = o.SetReadDeadline(time.Now().Add(drainTime)) }

// Read gives io.EOF when the last writer has closed, and some time after
// finish in any case; but never before all that was left then.
func (o *output) Read(p []byte) (int, error) {
	n, err := o.File.Read(p)
	switch {
	case errors.Is(err, unix.EIO): // what a terminal's master says for an end
		return n, io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return o.readLeft(p)
	}
	return n, err
}

func (o *output) readLeft(p []byte) (n int, err error) {
	rc, err := o.SyscallConn()
	if err != nil {
		return 0, err
	}
	p = p[:min(len(p), leftover-o.taken)]
	cerr := rc.Control(func(fd uintptr) { n, err = unix.Read(int(fd), p) })
	if cerr != nil || err != nil || n <= 0 {
		return 0, io.EOF
	}
	o.taken += n
	return n, nil
}

// WriteTo hides that of os.File, which would not come through Read.
func (o *output) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{o})
}

// inPoller returns f's description as a file whose reads Close ends. It
// consumes f.
func inPoller(f *os.File) (*os.File, error) {
	defer func() { _ = f.Close() }()
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	cerr := rc.Control(func(n uintptr) {
		if fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("cannot watch %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
