package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// exec starts a further process in the container, tells conn that it runs,
// and returns when it has ended. It is reaped whether anyone hears of it or
// not.
func (s *server) exec(conn *shimrpc.Conn, id string, e *shimrpc.Exec, files []*os.File) (*shimrpc.Exited, error) {
	c, err := s.find(id)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, errkind.New(errkind.InvalidArgument, "no process was named")
	}
	// libcontainer's Start on a container whose init is dead leaks.
	if c.isDead() {
		return nil, errkind.New(errkind.FailedPrecondition, "it is not running")
	}
	ended, err := s.execAnywhere(conn, c, e, files)
	if err != nil && c.isEnding() {
		// A probe at the moment of the end is no failure of ours, and what
		// libcontainer says of it would send people to look for one.
		return nil, errkind.New(errkind.FailedPrecondition, "it has ended meanwhile")
	}
	return ended, err
}

func (s *server) execAnywhere(conn *shimrpc.Conn, c *container, e *shimrpc.Exec, files []*os.File) (*shimrpc.Exited, error) {
	if s.forkers != nil {
		return s.forkers.exec(conn, c, e, files)
	}
	return s.execHere(conn, c, e, files)
}

// execHere is exec with this process for the parent.
func (s *server) execHere(conn *shimrpc.Conn, c *container, e *shimrpc.Exec, files []*os.File) (*shimrpc.Exited, error) {
	defer s.trim.Reset(trimAfter)
	p, tty, err := s.execStart(c, e, files)
	if err != nil {
		return nil, classify(err)
	}
	// The process has its own; a reader waits for the end of all others.
	closeFiles(files)
	return s.execWait(conn, c.ID, p, tty)
}

// closeFiles closes files before their owner does, who then finds none.
func closeFiles(files []*os.File) {
	shimrpc.CloseAll(files)
	clear(files)
}

// execStart starts the process with the files of the request for stdio. It
// returns the pty's master if the request wants one.
func (s *server) execStart(c *container, e *shimrpc.Exec, files []*os.File) (_ *libcontainer.Process, tty *os.File, err error) {
	p, err := execProcess(c.Bundle, e)
	if err != nil {
		return nil, nil, err
	}
	if e.TTY {
		mine, child, err := socketpair()
		if err != nil {
			return nil, nil, err
		}
		p.ConsoleSocket = child
		err = s.spawn(c, p)
		_ = child.Close()
		if err != nil {
			_ = mine.Close()
			return nil, nil, err
		}
		if tty, err = receiveMaster(mine); err != nil {
			s.abort(p)
			return nil, nil, err
		}
		return p, tty, nil
	}
	if err := execStdio(p, e, files); err != nil {
		return nil, nil, err
	}
	return p, nil, s.spawn(c, p)
}

// execProcess is the process of the bundle's specification, with what e says
// instead. It is read again for each exec rather than kept in memory.
func execProcess(bundle string, e *shimrpc.Exec) (*libcontainer.Process, error) {
	var sp struct {
		Process specs.Process `json:"process"`
	}
	if err := readJSON(filepath.Join(bundle, "config.json"), &sp); err != nil {
		return nil, err
	}
	sp.Process.Args = e.Args
	for _, variable := range e.Env {
		sp.Process.Env = setVariable(sp.Process.Env, variable)
	}
	if e.Cwd != "" {
		sp.Process.Cwd = e.Cwd
	}
	if u := e.User; u != nil {
		sp.Process.User = specs.User{UID: u.UID, GID: u.GID, AdditionalGids: u.Groups}
	}
	return newProcess(&sp.Process)
}

// setVariable puts NAME=VALUE in the place of the variable that env has.
func setVariable(env []string, variable string) []string {
	name, _, _ := strings.Cut(variable, "=")
	for i, v := range env {
		if strings.HasPrefix(v, name+"=") {
			env[i] = variable
			return env
		}
	}
	return append(env, variable)
}

func execStdio(p *libcontainer.Process, e *shimrpc.Exec, files []*os.File) error {
	next := func(want bool) (f *os.File, err error) {
		if !want {
			return nil, nil
		}
		if len(files) == 0 {
			return nil, errkind.New(errkind.InvalidArgument, "a descriptor of its stdio is missing")
		}
		f, files = files[0], files[1:]
		// The flag is the description's, and programs do not expect it.
		return f, setNonblock(f, false)
	}
	in, err := next(e.Stdin)
	if err != nil {
		return err
	}
	out, err := next(e.Stdout)
	if err != nil {
		return err
	}
	errf, err := next(e.Stderr)
	if err != nil {
		return err
	}
	// An interface that holds a nil *os.File is not nil.
	if in != nil {
		p.Stdin = in
	}
	if out != nil {
		p.Stdout = out
	}
	if errf != nil {
		p.Stderr = errf
	}
	return nil
}

// execWait tells conn of the process and waits for it.
func (s *server) execWait(conn *shimrpc.Conn, id string, p *libcontainer.Process, tty *os.File) (*shimrpc.Exited, error) {
	if tty != nil {
		defer func() { _ = tty.Close() }()
	}
	pid, err := p.Pid()
	if err != nil {
		return nil, err
	}
	proc, err := pidfd.Find(pid)
	if err != nil {
		s.abort(p)
		return nil, fmt.Errorf("cannot find process %d of container %s: %w", pid, id, err)
	}
	fd, err := proc.Open()
	if err != nil {
		s.abort(p)
		return nil, fmt.Errorf("cannot open process %d of container %s: %w", pid, id, err)
	}
	defer func() { _ = fd.Close() }()
	started := shimrpc.Response{Started: &shimrpc.Started{Pid: pid, StartTime: proc.StartTime}}
	var back []*os.File
	if s.isForker {
		back = append(back, fd)
	}
	if tty != nil {
		back = append(back, tty)
	}
	_ = conn.Send(started, back...)
	if tty != nil {
		// The receiver's copy is the only one: the slave's end shows there.
		_ = tty.Close()
	}
	if err := awaitEnd(fd, proc); err != nil {
		s.log.Printf("cannot wait in the poller for process %d of container %s: %v", pid, id, err)
	}
	exit := waitStatus(p)
	s.starts.reaped(pid)
	exit.ID, exit.At = id, time.Now()
	return &exit, nil
}

// abort ends a process that was started and that nobody will hear of.
func (s *server) abort(p *libcontainer.Process) {
	_ = p.Signal(unix.SIGKILL)
	_, _ = p.Wait()
	if pid, err := p.Pid(); err == nil {
		s.starts.reaped(pid)
	}
}
