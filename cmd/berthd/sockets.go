package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dirMode    = 0o711 // containers with users of their own must reach their mounts below
	socketMode = 0o660
	debugMode  = 0o600
	// maxSocketPath is what struct sockaddr_un holds, less the final zero.
	maxSocketPath = 107
)

// lockDir makes dir if need be and takes it for this process, until the file
// returned is closed. The lock is the kernel's and ends with the process,
// however it ends.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("cannot use %s: another berthd does", dir)
	}
	return nil, fmt.Errorf("cannot lock %s: %w", path, err)
}

// listen opens a unix socket at path with that mode, over the stale one of a
// daemon that was killed. It refuses to replace a socket that answers, and anything that is
// no socket. The caller holds the lock of the directory, so nobody else
// replaces it at the same time.
func listen(ctx context.Context, path string, mode os.FileMode) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("cannot listen on %s: the path has %d bytes and a socket's at most %d: choose a shorter state directory", path, len(path), maxSocketPath)
	}
	if err := clearStale(path); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// Linux gives the file the mode that the socket has when it is bound,
		// so there is no moment in which others could connect. (The umask
		// can only take more away.)
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(mode)) }); cerr != nil {
			return cerr
		}
		return err
	}}
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	// A umask may have taken the group's bits; now they are given for sure.
	if err := os.Chmod(path, mode); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

// clearStale removes the socket at path if nobody listens on it.
func clearStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file that is no socket: remove it if nothing needs it")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return errors.New("a process answers there already")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether a process listens there: %w", err)
	}
	return os.Remove(path)
}
