package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/crilog"
	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// container is one container that has been created or adopted.
type container struct {
	shimrpc.Create // as asked for; Console is not used

	cgroup    string // from the root of the hierarchies
	sharedPID bool   // its first process is not the init of a PID namespace

	mu        sync.Mutex
	first                    // guarded by mu once the container is in the table
	restoring *restoring     // guarded by mu; a restore under way, or the last one
	log       *crilog.Writer // guarded by mu; nil: output is discarded, or the log is closed
	stdin     *os.File       // guarded by mu; keeps the stdin FIFO open for writing
	tty       *os.File       // guarded by mu; the pty's master, nil when it ended
	streams   []*stream      // set before the container is in the table

	ended chan struct{}  // closed when exit is set
	exit  shimrpc.Exited // valid when ended is closed
}

// first is a container's first process, with libcontainer's view of it. A
// restore puts another in its place.
type first struct {
	lc    *libcontainer.Container
	init  pidfd.Process
	pidfd *os.File // of init; non-blocking, in the poller; nil if it had ended before anyone could open it
}

// current is the first process that there is now.
func (c *container) current() first {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first
}

// reopenLog follows a rotation of the log.
func (s *server) reopenLog(id string) error {
	c, err := s.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	w := c.log
	c.mu.Unlock()
	switch {
	case c.LogPath == "":
		return nil
	case w == nil:
		// A new file would be left behind by the kubelet, which removes the
		// logs of a container that has ended only with the container.
		return errkind.New(errkind.FailedPrecondition, "it has ended")
	}
	// Not under the lock: a disk that takes nothing would hold up the rest.
	return w.Reopen()
}

// endStdin gives up the shim's end of the stdin FIFO. Its absence from the
// bundle tells a later shim that there is nothing to keep open.
func (s *server) endStdin(id string) error {
	c, err := s.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stdin == nil {
		return nil
	}
	err = os.Remove(filepath.Join(c.Bundle, shimrpc.StdinFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot end stdin of container %s: %w", id, err)
	}
	_ = c.stdin.Close()
	c.stdin = nil
	return nil
}

// console returns a descriptor of the pty's master that the caller closes.
func (s *server) console(id string) (*os.File, error) {
	c, err := s.find(id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tty == nil {
		return nil, errkind.New(errkind.FailedPrecondition, "it has no terminal")
	}
	return duplicate(c.tty)
}

// isEnded tells whether the exit has been published.
func (c *container) isEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// isDead tells whether init has ended, whoever knows it already. A pidfd alone
// does not tell: see awaitEnd.
func (c *container) isDead() bool {
	f := c.current()
	if f.pidfd == nil {
		return true
	}
	dead, err := readable(f.pidfd)
	return err == nil && dead && !f.init.Alive()
}

// isEnding tells whether init has ended or is about to: it gives up its namespaces
// and then kills and awaits all others of its PID namespace, before its pidfd
// tells of the end. Nothing can enter it then.
func (c *container) isEnding() bool {
	if c.isDead() {
		return true
	}
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", c.current().init.Pid))
	return errors.Is(err, os.ErrNotExist)
}

// deadline bounds how long delete waits for killed processes, and for the
// exit to be published after that.
const deadline = 15 * time.Second

// delete kills what is left of the container and removes what libcontainer
// and the shim hold of it. The bundle is the caller's, exit.json included.
func (s *server) delete(id string) error {
	unlock := s.ids.Lock(id)
	defer unlock()
	c, err := s.find(id)
	if err != nil {
		return s.deleteUnknown(id)
	}
	f := c.current()
	if f.pidfd != nil {
		if err := f.init.Signal(unix.SIGKILL); err != nil {
			return err
		}
	}
	if err := cgroup.Kill(c.cgroup, unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-c.ended:
	case <-time.After(deadline):
		return errkind.New(errkind.DeadlineExceeded, "process %d has not ended %s after it was killed", f.init.Pid, deadline)
	}
	if err := s.destroy(c.Root, f.lc); err != nil {
		return err
	}
	c.release()
	s.mu.Lock()
	delete(s.containers, id)
	s.mu.Unlock()
	return nil
}

// destroy lets libcontainer forget a container of root, which runs the hooks
// after its end. They are children that nobody else may wait for.
func (s *server) destroy(root string, lc *libcontainer.Container) error {
	s.starts.begin()
	defer s.starts.end()
	err := lc.Destroy()
	if err == nil {
		return nil
	}
	// The hooks come after everything else. By OCI's rule one that fails is
	// told and does not matter; otherwise the container would stay for ever.
	if _, lerr := os.Lstat(filepath.Join(root, lc.ID())); errors.Is(lerr, os.ErrNotExist) {
		s.log.Printf("a hook after the end of container %s failed: %v", lc.ID(), err)
		return nil
	}
	return err
}

// deleteUnknown removes what an earlier shim left of a container that nobody
// adopted.
func (s *server) deleteUnknown(id string) error {
	if s.root == "" || filepath.Base(id) != id || id == "." || id == ".." {
		return nil
	}
	dir := filepath.Join(s.root, id)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lc, err := libcontainer.Load(s.root, id)
	if err != nil {
		// Killed between making the directory and writing the state: the
		// cgroup has a name that the daemon knows, the directory only this.
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		return nil
	}
	group, err := cgroupOf(lc)
	if err == nil {
		err = cgroup.Kill(group, unix.SIGKILL)
	}
	if err == nil {
		err = awaitKilled(lc)
	}
	if err == nil {
		err = s.destroy(s.root, lc)
	}
	return err
}

// awaitKilled waits for the end of an init that was killed. Its cgroup does
// not list it any more while it ends what else is in its PID namespace, and
// libcontainer destroys nothing that still runs.
func awaitKilled(lc *libcontainer.Container) error {
	st, err := lc.State()
	if err != nil {
		return err
	}
	init := pidfd.Process{Pid: st.InitProcessPid, StartTime: st.InitProcessStartTime}
	f, err := init.Open()
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	ended, err := pidfd.Wait(f, deadline)
	if err == nil && !ended {
		err = errkind.New(errkind.DeadlineExceeded, "process %d has not ended %s after it was killed", init.Pid, deadline)
	}
	return err
}

// release closes and removes what the shim itself made for the container.
func (c *container) release() {
	_ = c.closeStdio() // done when its exit was published
	if fd := c.current().pidfd; fd != nil {
		_ = fd.Close()
	}
	for _, name := range []string{shimrpc.StdinFile, shimrpc.StdoutFile, shimrpc.StderrFile} {
		_ = os.Remove(filepath.Join(c.Bundle, name))
	}
}

// closeStdio closes the descriptors of stdio and the log. The error tells of
// output that the log has lost.
func (c *container) closeStdio() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, st := range c.streams {
		_ = st.f.Close()
	}
	if c.stdin != nil {
		_ = c.stdin.Close()
		c.stdin = nil
	}
	c.tty = nil // it is the stream's file, which is closed
	if c.log == nil {
		return nil
	}
	err := c.log.Close()
	c.log = nil
	return err
}
