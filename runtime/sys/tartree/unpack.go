package tartree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/inroot"
)

// Unpack makes what the tar has below the directory dir of root, which must be
// there. What is there already is replaced, but a directory by a file and a
// file by a directory are not. What it has made stays after an error.
func Unpack(ctx context.Context, root *os.File, dir string, owner Owner, r io.Reader) error {
	top, err := open(root, dir+"/", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = top.Close() }()
	x := &unpacker{root: root, dir: dir, owner: owner}
	in := tar.NewReader(untilDone{ctx, r})
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return x.times()
		}
		if err == nil {
			err = x.entry(h, in)
		}
		if err != nil {
			return err
		}
	}
}

// unpacker is one Unpack under way.
type unpacker struct {
	root  *os.File
	dir   string // below root
	owner Owner
	dirs  []made // whose times change until the end
}

type made struct {
	name string
	at   time.Time
}

// place opens the directory that a name is in, made if need be.
func (x *unpacker) place(name string) (*os.File, error) {
	parent := path.Dir(name)
	f, err := inroot.OpenAt(x.root, relative(path.Join(x.dir, parent)), unix.O_PATH|unix.O_DIRECTORY, 0)
	if !errors.Is(err, unix.ENOENT) || parent == "." {
		return f, err
	}
	above, err := x.place(parent)
	if err != nil {
		return nil, err
	}
	defer func() { _ = above.Close() }()
	if err := unix.Mkdirat(int(above.Fd()), path.Base(parent), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &os.PathError{Op: "mkdir", Path: parent, Err: err}
	}
	return inroot.OpenAt(x.root, relative(path.Join(x.dir, parent)), unix.O_PATH|unix.O_DIRECTORY, 0)
}

func (x *unpacker) entry(h *tar.Header, r io.Reader) error {
	name := relative(h.Name)
	if strings.ContainsRune(h.Name, 0) || strings.Count(name, "/") > maxDepth {
		return fmt.Errorf("cannot unpack %q: it is no name of a file, or too deep", h.Name)
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if name == "." {
		return x.attributesOf(".", h)
	}
	dir, err := x.place(name)
	if err != nil {
		return fmt.Errorf("cannot unpack %s: %w", name, err)
	}
	defer func() { _ = dir.Close() }()
	if err := x.make(dir, path.Base(name), name, h, r); err != nil {
		return fmt.Errorf("cannot unpack %s: %w", name, err)
	}
	return nil
}

// make makes one object in dir.
func (x *unpacker) make(dir *os.File, base, name string, h *tar.Header, r io.Reader) error {
	fd := int(dir.Fd())
	var st unix.Stat_t
	err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	there, isDir := err == nil, st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case h.Typeflag == tar.TypeDir && there && isDir:
		return x.attributesOf(name, h)
	case h.Typeflag == tar.TypeDir && there && st.Mode&unix.S_IFMT != unix.S_IFLNK:
		return errors.New("a directory cannot take the place of a file")
	case there && isDir:
		return errors.New("a file cannot take the place of a directory")
	case there:
		if err := unix.Unlinkat(fd, base, 0); err != nil {
			return err
		}
	}
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(fd, base, 0o700); err != nil {
			return err
		}
		return x.attributesOf(name, h)
	case tar.TypeReg, '\x00':
		return x.file(dir, base, h, r)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, fd, base); err != nil {
			return err
		}
		return x.attributesOfNode(fd, base, h)
	case tar.TypeLink:
		return x.link(fd, base, h)
	case tar.TypeFifo:
		err = unix.Mknodat(fd, base, unix.S_IFIFO|0o600, 0)
	case tar.TypeChar:
		err = unix.Mknodat(fd, base, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeBlock:
		err = unix.Mknodat(fd, base, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	default:
		return fmt.Errorf("it is of a kind (%q) that is not known", h.Typeflag)
	}
	if err != nil {
		return err
	}
	if err := x.attributesOfNode(fd, base, h); err != nil {
		return err
	}
	return unix.Fchmodat(fd, base, mode, 0)
}

func (x *unpacker) file(dir *os.File, base string, h *tar.Header, r io.Reader) error {
	f, err := openAt(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := x.attributes(f, h); err != nil {
		return err
	}
	return f.Close()
}

// link makes another name of what the tar had before.
func (x *unpacker) link(fd int, base string, h *tar.Header) error {
	target := relative(h.Linkname)
	from, err := x.place(target)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	return unix.Linkat(int(from.Fd()), path.Base(target), fd, base, 0)
}

// attributesOf gives a directory that was made, or was there, its attributes.
func (x *unpacker) attributesOf(name string, h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return errors.New("the directory itself cannot become a file")
	}
	f, err := inroot.OpenAt(x.root, relative(path.Join(x.dir, name)), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if name != "." {
		x.dirs = append(x.dirs, made{name, h.ModTime})
	} else {
		return nil // it is its maker's
	}
	return x.attributes(f, h)
}

// attributes gives an open file or directory owner, mode, attributes and times.
// Owner comes first: a change of it takes the setuid bit and capabilities away.
func (x *unpacker) attributes(f *os.File, h *tar.Header) error {
	uid, gid := x.owner.of(h.Uid, h.Gid)
	if err := f.Chown(uid, gid); err != nil {
		return err
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(h.Mode&0o7777)); err != nil {
		return err
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || !carried(name) {
			continue
		}
		if err := unix.Fsetxattr(int(f.Fd()), name, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	at := unix.NsecToTimeval(h.ModTime.UnixNano())
	return unix.Futimes(int(f.Fd()), []unix.Timeval{at, at})
}

// attributesOfNode does so for what cannot be opened, and is in a directory that
// we hold.
func (x *unpacker) attributesOfNode(fd int, base string, h *tar.Header) error {
	uid, gid := x.owner.of(h.Uid, h.Gid)
	if err := unix.Fchownat(fd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	at := unix.NsecToTimespec(h.ModTime.UnixNano())
	return unix.UtimesNanoAt(fd, base, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
}

// times sets those of directories, which making their content has changed.
func (x *unpacker) times() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		d := x.dirs[i]
		f, err := inroot.OpenAt(x.root, relative(path.Join(x.dir, d.name)), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue // somebody has taken it away
		}
		if err != nil {
			return err
		}
		at := unix.NsecToTimeval(d.at.UnixNano())
		err = unix.Futimes(int(f.Fd()), []unix.Timeval{at, at})
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
