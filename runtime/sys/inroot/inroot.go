// Package inroot opens files inside a tree that somebody else owns, such as a
// container's root file system. No path that the tree contains, however its
// links are laid or swapped meanwhile, leads outside (openat2, Linux 5.6).
package inroot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open opens path below root as if root were "/". Links resolve inside; magic
// links (those of /proc) are refused. The caller closes the file.
func Open(root, path string, flags int, perm os.FileMode) (*os.File, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	return OpenAt(dir, path, flags, perm)
}

// OpenAt is Open below a directory handle that the caller holds.
func OpenAt(dir *os.File, path string, flags int, perm os.FileMode) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(perm.Perm())
	}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), path, &how)
		// EAGAIN: a rename raced with the lookup and the kernel cannot
		// tell whether it stayed inside; it asks to try again.
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: fmt.Sprintf("openat2 in %s", dir.Name()), Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}
