package selinux

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// attribute is where the kernel keeps a file's label.
const attribute = "security.selinux"

// system are directories whose labels the host lives by (those that
// opencontainers/selinux refuses to change, too).
var system = []string{"/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home", "/lib", "/lib64", "/media",
	"/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log"}

// deepest is how deep a tree may be that is relabelled: each level of it takes
// a descriptor.
const deepest = 1000

// Relabel gives the label to the file at path, links of which are followed, and
// to all below it, the file itself last. Links below are labelled, not
// followed, however they are swapped meanwhile. What a file system without
// labels has stays as it is. A directory that the host lives by is
// errkind.InvalidArgument.
func Relabel(path string, l Label) error {
	fd, err := open(unix.AT_FDCWD, path, 0)
	if err != nil {
		return fmt.Errorf("cannot relabel %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	real, err := os.Readlink(name(fd))
	if err != nil {
		return err
	}
	if slices.Contains(system, real) {
		return errkind.New(errkind.InvalidArgument, "cannot relabel %s: the host lives by its label", real)
	}
	if err := relabel(fd, l.String(), 0); err != nil {
		return fmt.Errorf("cannot relabel %s: %w", path, err)
	}
	return nil
}

// name is a path of what the descriptor is of, which nobody can swap.
func name(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func open(dir int, path string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, path, flags|unix.O_PATH|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// relabel consumes nothing: the caller closes fd, which is of O_PATH.
func relabel(fd int, label string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if depth == deepest {
			return errkind.New(errkind.InvalidArgument, "it is more than %d directories deep", deepest)
		}
		if err := relabelBelow(fd, label, depth+1); err != nil {
			return err
		}
	}
	return set(name(fd), label)
}

func relabelBelow(fd int, label string, depth int) error {
	dir, err := os.Open(name(fd))
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	_ = dir.Close()
	if err != nil {
		return err
	}
	for _, n := range names {
		child, err := open(fd, n, unix.O_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			continue // removed meanwhile
		}
		if err == nil {
			err = relabel(child, label, depth)
			_ = unix.Close(child)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return nil
}

// RelabelUnlike is Relabel of a tree whose topmost directory has another label.
// Since that one is labelled last, the whole tree has its label else, but for
// what others have made in it, which the policy has labelled.
func RelabelUnlike(path string, l Label) error {
	if has(path, l.String()) {
		return nil
	}
	return Relabel(path, l)
}

// Set gives the label to one file of ours.
func Set(path, label string) error {
	fd, err := open(unix.AT_FDCWD, path, unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("cannot label %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	return set(name(fd), label)
}

// set writes a label that is not there already, where labels can be.
func set(path, label string) error {
	if has(path, label) {
		return nil
	}
	err := unix.Setxattr(path, attribute, []byte(label), 0)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

func has(path, label string) bool {
	b := make([]byte, len(label)+1)
	n, err := unix.Getxattr(path, attribute, b)
	return err == nil && strings.TrimSuffix(string(b[:n]), "\x00") == label
}
