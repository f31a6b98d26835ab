package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/crilog"
	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/selinux"
)

// openLog opens the container's log, so that it exists before anyone looks.
func (c *container) openLog() error {
	if c.LogPath == "" {
		return nil
	}
	if !filepath.IsAbs(c.LogPath) {
		return errkind.New(errkind.InvalidArgument, "cannot log to %q: not an absolute path", c.LogPath)
	}
	w, err := crilog.Open(c.LogPath)
	c.log = w
	return err
}

// makeStdio gives p the stdio of the container's first process. The returned
// files are the container's ends, to be closed after the start.
func (c *container) makeStdio(p *libcontainer.Process) (theirs []*os.File, err error) {
	defer func() {
		if err != nil {
			shimrpc.CloseAll(theirs)
			theirs = nil
		}
	}()
	if c.TTY {
		mine, child, err := socketpair()
		if err != nil {
			return nil, err
		}
		p.ConsoleSocket = child
		c.tty = mine // until receiveTTY
		return []*os.File{child}, nil
	}
	if c.Stdin {
		path := filepath.Join(c.Bundle, shimrpc.StdinFile)
		if err := c.makeFIFO(path); err != nil {
			return nil, err
		}
		// For reading only, or the container would keep its own stdin open
		// and never read an end. Non-blocking while it is opened, as there
		// is no writer yet.
		f, err := openTheirs(path, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, f)
		if err := setNonblock(f, false); err != nil {
			return theirs, err
		}
		p.Stdin = f
		if c.stdin, err = openRaw(path, unix.O_WRONLY|unix.O_NONBLOCK); err != nil {
			return theirs, err
		}
	}
	for _, name := range []crilog.Stream{crilog.Stdout, crilog.Stderr} {
		path := c.fifo(name)
		if err := c.makeFIFO(path); err != nil {
			return theirs, err
		}
		if err := c.openStream(name); err != nil {
			return theirs, err
		}
		// For reading too, so that the container's writes never meet a FIFO
		// without a reader: it outlives the shim, and a SIGPIPE would end it.
		f, err := openTheirs(path, unix.O_RDWR)
		if err != nil {
			return theirs, err
		}
		theirs = append(theirs, f)
		if name == crilog.Stdout {
			p.Stdout = f
		} else {
			p.Stderr = f
		}
	}
	return theirs, nil
}

func (c *container) fifo(name crilog.Stream) string {
	if name == crilog.Stdout {
		return filepath.Join(c.Bundle, shimrpc.StdoutFile)
	}
	return filepath.Join(c.Bundle, shimrpc.StderrFile)
}

// openStream opens the shim's end of the FIFO of an output, and adds it to the
// streams. The end is open for writing too: so it never sees an end of file
// for which it would have to open again, and bytes survive their writer.
func (c *container) openStream(name crilog.Stream) error {
	f, err := openRaw(c.fifo(name), unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	c.streams = append(c.streams, newStream(name, f, c.log))
	return nil
}

// receiveTTY takes the pty's master that init has sent, and makes it the only
// stream.
func (c *container) receiveTTY() error {
	sock := c.tty
	c.tty = nil
	f, err := receiveMaster(sock)
	if err != nil {
		return err
	}
	return c.setTTY(f)
}

func (c *container) setTTY(f *os.File) error {
	f, err := pollable(f)
	if err != nil {
		return err
	}
	c.tty = f
	c.streams = append(c.streams, newStream(crilog.Stdout, f, c.log))
	return nil
}

func (c *container) makeFIFO(path string) error {
	// One of a former attempt may have another owner.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	if label := c.lc.Config().MountLabel; label != "" {
		if err := selinux.Set(path, label); err != nil {
			return err
		}
	}
	return os.Chown(path, c.UID, c.GID)
}

// openRaw opens without the runtime's poller making the descriptor
// non-blocking: the container inherits the flag.
func openRaw(path string, flags int) (*os.File, error) {
	return openTheirs(path, flags|unix.O_NOFOLLOW)
}

// openTheirs is openRaw of what the container gets. O_NOFOLLOW would stay among
// its flags, with which CRIU opens it again by a link, and fails.
func openTheirs(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// pollable returns f's description as a file that the runtime's poller knows.
// It consumes f.
func pollable(f *os.File) (*os.File, error) {
	defer func() { _ = f.Close() }()
	return duplicate(f)
}

// duplicate returns another descriptor of f's description, which becomes
// non-blocking.
func duplicate(f *os.File) (_ *os.File, err error) {
	fd := -1
	cerr := control(f, func(n int) {
		if fd, err = unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("cannot duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func setNonblock(f *os.File, on bool) error {
	var err error
	cerr := control(f, func(fd int) { err = unix.SetNonblock(fd, on) })
	return errors.Join(cerr, err)
}

// control calls fn with f's descriptor, which Fd would make blocking.
func control(f *os.File, fn func(fd int)) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Control(func(fd uintptr) { fn(int(fd)) })
}

// socketpair is what libcontainer's init sends a pty's master through.
func socketpair() (mine, child *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a console socket: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console"), nil
}

// receiveMaster takes the pty's master from sock, which it closes. Init has
// sent it before it said that it is ready, so it is there.
func receiveMaster(sock *os.File) (*os.File, error) {
	defer func() { _ = sock.Close() }()
	var (
		name [4096]byte
		oob  = make([]byte, unix.CmsgSpace(4))
		oobn int
		err  error
	)
	cerr := control(sock, func(fd int) {
		_, oobn, _, _, err = unix.Recvmsg(fd, name[:], oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("cannot receive the terminal: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("cannot receive the terminal: %d messages, %w", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("cannot receive the terminal: %d descriptors, %w", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), "pty:"+strconv.Itoa(fds[0])), nil
}
