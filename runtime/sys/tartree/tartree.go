// Package tartree carries files in and out of a tree that somebody else owns,
// such as a container's root file system, as tars.
//
// Law. The tree and the tar are hostile, and so may be who renames in the tree
// meanwhile. Every name is resolved below a handle of the tree's root, in which
// links lead to where they would in a chroot (openat2, Linux 5.6); the last
// component is never followed but where the caller says so. What was made gets
// its attributes by a handle of itself. Only regular files are read, and none
// is opened that could block.
package tartree

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/inroot"
)

// maxDepth bounds directories within one another: each holds a descriptor.
const maxDepth = 512

// Owner says whose a file becomes; nil: it keeps its owner's numbers.
type Owner func(uid, gid int) (int, int)

// To makes all files one owner's.
func To(uid, gid int) Owner { return func(int, int) (int, int) { return uid, gid } }

func (o Owner) of(uid, gid int) (int, int) {
	if o == nil {
		return uid, gid
	}
	return o(uid, gid)
}

// Info describes what is at a path.
type Info struct {
	Name   string // the last component
	Mode   fs.FileMode
	Size   int64
	Time   time.Time
	Link   string // of a symbolic link, as it is written
	Target fs.FileMode
	Broken bool // it is a link and leads nowhere; Target tells what it leads to otherwise
}

// Stat describes what is at p below root; fs.ErrNotExist if there is nothing.
func Stat(root *os.File, p string) (Info, error) {
	f, err := open(root, p, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return Info{}, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	out := Info{Name: base(p), Mode: st.Mode(), Size: st.Size(), Time: st.ModTime(), Target: st.Mode()}
	if st.Mode()&fs.ModeSymlink == 0 {
		return out, nil
	}
	if out.Link, err = linkOf(f); err != nil {
		return Info{}, err
	}
	to, err := open(root, p, unix.O_PATH)
	if err != nil {
		out.Broken, out.Target = true, 0
		return out, nil
	}
	defer func() { _ = to.Close() }()
	if st, err = to.Stat(); err != nil {
		return Info{}, err
	}
	out.Target = st.Mode()
	return out, nil
}

// open opens p below root, of which it is relative whatever it begins with.
func open(root *os.File, p string, flags int) (*os.File, error) {
	// What ends with a slash, or a dot, is a directory and is followed to.
	if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == "." || p == "" {
		flags = flags&^unix.O_NOFOLLOW | unix.O_DIRECTORY
	}
	f, err := inroot.OpenAt(root, relative(p), flags, 0)
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return nil, &os.PathError{Op: "open", Path: p, Err: pathErr.Err}
	}
	return f, err
}

// relative keeps a final "/." but nothing else of what cleaning takes.
func relative(p string) string {
	clean := strings.TrimPrefix(path.Clean("/"+p), "/")
	if clean == "" {
		return "."
	}
	return clean
}

// base is the name under which the content of p is carried.
func base(p string) string { return path.Base(path.Clean("/" + p)) }

// linkOf reads the link that an O_PATH descriptor is.
func linkOf(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: f.Name(), Err: err}
	}
	return string(buf[:n]), nil
}

func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
