package unpack

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const (
	maxPath = unix.PathMax - 1
	// maxLinks is how many symbolic links one name may lead through, as in the kernel.
	maxLinks = 40
	// maxSteps bounds the work for one name: each step down is one, each up
	// as many as the path has parts, since it begins at the root again.
	maxSteps = 4 * unix.PathMax
)

// cleanName makes a tar's name relative to the root; the root itself is "".
func cleanName(name string) (string, error) {
	if len(name) > maxPath {
		return "", errkind.New(errkind.InvalidArgument, "its name has %d bytes, more than %d", len(name), maxPath)
	}
	if strings.ContainsRune(name, 0) {
		return "", errkind.New(errkind.InvalidArgument, "its name has a zero byte")
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", errkind.New(errkind.InvalidArgument, "%q leads out of the layer", name)
	}
	if clean == "." {
		return "", nil
	}
	for c := range strings.SplitSeq(clean, "/") {
		if len(c) > unix.NAME_MAX {
			return "", errkind.New(errkind.InvalidArgument, "a part of its name has %d bytes, more than %d", len(c), unix.NAME_MAX)
		}
	}
	return clean, nil
}

// splitPath splits off the last component; the directory may be "", the root.
func splitPath(name string) (dir, base string) {
	dir, base = path.Split(name)
	return strings.TrimSuffix(dir, "/"), base
}

// followLinks gives the real path to which name leads. look is asked for each
// component c of it, in the real directory dir, and gives its target if c is
// a symbolic link there, else "". As in a chroot, the root is its own parent.
func followLinks(name string, look func(dir, c string) (target string, err error)) (string, error) {
	dir, links, steps := "", 0, 0
	for rest := name; rest != ""; {
		var c string
		c, rest, _ = strings.Cut(rest, "/")
		if steps++; steps > maxSteps {
			return "", unix.ELOOP
		}
		switch c {
		case "", ".":
			continue
		case "..":
			dir, _ = splitPath(dir)
			steps += strings.Count(dir, "/")
			continue
		}
		target, err := look(dir, c)
		if err != nil {
			return "", err
		}
		if target == "" {
			if dir = path.Join(dir, c); len(dir) > maxPath {
				return "", unix.ENAMETOOLONG
			}
			continue
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			dir = ""
		}
		rest = target + "/" + rest
	}
	return dir, nil
}

// openBelow opens name below dir; "" is dir itself. It fails with ELOOP if any
// part of name is a symbolic link, and whatever is swapped in meanwhile, it
// opens nothing outside.
func openBelow(dir *os.File, name string, flags int) (*os.File, error) {
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags) | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		// EAGAIN: the kernel could not tell, as something was renamed meanwhile.
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// openDirAt opens the directory base in dir. base is one component.
func openDirAt(dir *os.File, base string) (*os.File, error) {
	return openAt(dir, base, unix.O_RDONLY|unix.O_DIRECTORY)
}

// openAt opens base in dir, never through a link. base is one component.
func openAt(dir *os.File, base string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), base), nil
}

// makeAt makes the file base in dir, which is to have the permissions perm: the
// process's umask may take some of them.
func makeAt(dir *os.File, base string, perm uint32) (*os.File, error) {
	const flags = unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(dir.Fd()), base, flags, perm)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), base), nil
}

// readlinkAt reads the link base in dir; "" is dir itself, a handle of a link.
func readlinkAt(dir *os.File, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), base, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
