package build

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/inroot"
)

// view is a directory of the host as a tree, such as the merged layers of an
// image. Every name is opened below its handle.
type view struct{ root *os.File }

var _ tree = view{}

func (v view) file(name string, flags int) (*os.File, error) {
	if name == "" {
		name = "."
	}
	return inroot.OpenAt(v.root, name, flags|unix.O_NOFOLLOW, 0)
}

func (v view) lstat(name string) (*node, error) {
	f, err := v.file(name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	n := &node{mode: st.Mode, uid: int(st.Uid), gid: int(st.Gid), size: st.Size, mtime: st.Mtim, rdev: st.Rdev}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		k, err := unix.Readlinkat(int(f.Fd()), "", target)
		if err != nil {
			return nil, err
		}
		n.link = string(target[:k])
		return n, nil
	case unix.S_IFREG, unix.S_IFDIR:
		if st.Nlink > 1 && !n.isDir() {
			n.inode = inode{st.Dev, st.Ino}
		}
		n.xattrs, err = v.xattrs(name)
		return n, err
	}
	return n, nil
}

func (v view) xattrs(name string) (map[string]string, error) {
	f, err := v.file(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var buf [4096]byte
	n, err := unix.Flistxattr(int(f.Fd()), buf[:])
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil, nil
	}
	list := buf[:max(n, 0)]
	if errors.Is(err, unix.ERANGE) {
		list = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = unix.Flistxattr(int(f.Fd()), list)
		list = list[:max(n, 0)]
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for key := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if strings.HasPrefix(key, "trusted.overlay.") || strings.HasPrefix(key, "security.selinux") {
			continue // of the store's, not of the image's
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(int(f.Fd()), key, value)
		if err != nil {
			return nil, err
		}
		out[key] = string(value[:n])
	}
	return out, nil
}

func (v view) names(name string) ([]string, error) {
	f, err := v.file(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func (v view) open(name string) (io.ReadCloser, error) {
	f, err := v.file(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: unix.EINVAL}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// readSmall reads a file that nobody expects to be large.
func readSmall(t tree, name string, limit int64) ([]byte, error) {
	f, err := t.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errkind.New(errkind.ResourceExhausted, "%q has more than %d bytes", name, limit)
	}
	return b, err
}
