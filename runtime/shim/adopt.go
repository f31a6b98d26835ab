package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/crilog"
	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// adopt takes over a container whose shim has died. Its processes are now
// somebody else's children, so its end is seen through a pidfd.
func (s *server) adopt(req shimrpc.Request, files []*os.File) error {
	cr := req.Create
	if cr == nil || cr.ID == "" || !filepath.IsAbs(cr.Bundle) || !filepath.IsAbs(cr.Root) {
		return errkind.New(errkind.InvalidArgument, "cannot adopt a container: it needs an id, and a bundle and a root with absolute paths")
	}
	unlock := s.ids.Lock(cr.ID)
	defer unlock()
	if _, err := s.find(cr.ID); err == nil {
		return nil
	}
	c := &container{Create: *cr, ended: make(chan struct{})}
	c.init = pidfd.Process{Pid: cr.Pid, StartTime: cr.StartTime}
	if err := c.reopen(req, files); err != nil {
		_ = c.closeStdio()
		if c.pidfd != nil {
			_ = c.pidfd.Close()
		}
		return fmt.Errorf("cannot adopt container %s: %w", cr.ID, err)
	}
	return s.add(c, c.adoptedStatus)
}

// reopen finds again what the container consists of.
func (c *container) reopen(req shimrpc.Request, files []*os.File) (err error) {
	c.lc, err = libcontainer.Load(c.Root, c.ID)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return errkind.New(errkind.NotFound, "libcontainer has no state of it in %s", c.Root)
	}
	if err != nil {
		return err
	}
	config := c.lc.Config()
	c.sharedPID = !config.Namespaces.IsPrivate(configs.NEWPID)
	if c.cgroup, err = cgroupOf(c.lc); err != nil {
		return err
	}
	if err := c.openLog(); err != nil {
		return err
	}
	var console *os.File
	if req.Pidfd && len(files) > 0 {
		if c.pidfd, err = duplicate(files[0]); err != nil {
			return err
		}
		files = files[1:]
	} else if c.pidfd, err = c.init.Open(); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	if req.Console && len(files) > 0 {
		console = files[0]
	}
	if c.TTY {
		if console == nil {
			return nil
		}
		f, err := duplicate(console)
		if err != nil {
			return err
		}
		return c.setTTY(f)
	}
	for _, name := range []crilog.Stream{crilog.Stdout, crilog.Stderr} {
		// Absent: the container was deleted half.
		if err := c.openStream(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if c.Stdin {
		// Absent: its end has been asked for.
		path := filepath.Join(c.Bundle, shimrpc.StdinFile)
		c.stdin, err = openRaw(path, unix.O_RDWR|unix.O_NONBLOCK)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// reapWait bounds the wait for whoever has inherited a child to reap it,
// before which the kernel does not tell its status.
const reapWait = 2 * time.Second

// adoptedStatus is the exit code of an init that is not our child: from the
// record of the former shim, or from the kernel.
func (c *container) adoptedStatus() shimrpc.Exited {
	var exit shimrpc.Exited
	if err := readJSON(filepath.Join(c.Bundle, shimrpc.ExitFile), &exit); err == nil && exit.Known {
		return exit
	}
	fd := c.current().pidfd
	if fd == nil {
		return exited(0, false)
	}
	return strangersStatus(fd)
}

// strangersStatus is how a process that has ended and is not our child did so,
// as far as the kernel tells (Linux 6.15).
func strangersStatus(fd *os.File) shimrpc.Exited {
	for end := time.Now().Add(reapWait); ; time.Sleep(10 * time.Millisecond) {
		ws, err := pidfd.ExitStatus(fd)
		if err == nil {
			return exited(pidfd.Code(ws), true)
		}
		if time.Now().After(end) {
			return exited(0, false)
		}
	}
}
