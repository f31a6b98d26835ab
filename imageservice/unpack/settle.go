package unpack

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Settle completes in dir a layer that Layer could not complete alone. lowers
// are the directories of the layers below it, topmost first, complete
// themselves. The result counts what Settle added and is Alone.
//
// An implied directory takes the metadata it has below; where that is a
// symbolic link the entries move to where it leads, as they would have had
// the tar been unpacked there. A hard link's target is copied up from below
// and linked, as the kernel's overlay would.
func Settle(ctx context.Context, dir string, r Result, lowers []string) (Result, error) {
	t, err := openTree(dir)
	if err != nil {
		return Result{}, err
	}
	defer t.close()
	t.bytes, t.inodes = r.Bytes, r.Inodes
	if r.Opaque {
		lowers = nil
	}
	v, err := openView(lowers)
	if err != nil {
		return Result{}, err
	}
	defer v.close()

	s := &settler{tree: t, below: v, copied: map[string]bool{}, sums: r.Sums}
	for _, name := range r.Parents {
		t.implied[name] = true
	}
	if err := s.relocate(r.Parents); err != nil {
		return Result{}, err
	}
	for _, l := range r.Links {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		if err := s.link(l); err != nil {
			return Result{}, entryError(l.Name, err)
		}
	}
	for _, name := range t.impliedDirs() {
		if s.opaque(name) {
			continue
		}
		if err := s.adopt(name); err != nil {
			return Result{}, entryError(name, err)
		}
	}
	return Result{Bytes: t.bytes, Inodes: t.inodes, Root: r.Root, Opaque: r.Opaque, Sums: r.Sums}, nil
}

// settler is the state of one Settle call.
type settler struct {
	tree   *tree
	below  *view
	moved  []move
	copied map[string]bool // paths that are copies from below
	sums   map[uint64]uint32
}

type move struct{ from, to string }

// relocate moves the content of each implied directory that is a symbolic
// link below to where the link leads.
func (s *settler) relocate(parents []string) error {
	for _, name := range parents {
		now := s.current(name)
		if s.opaque(now) {
			continue
		}
		n, err := s.below.lookup(now)
		if err != nil {
			return entryError(name, err)
		}
		if n == nil || n.stat.Mode&unix.S_IFMT != unix.S_IFLNK {
			n.close()
			continue
		}
		n.close()
		to, err := s.below.resolve(now)
		if err != nil {
			return entryError(name, err)
		}
		if to == "" || to == now || strings.HasPrefix(to+"/", now+"/") {
			continue // it leads nowhere, or to itself: then what this layer says stands
		}
		if err := s.move(now, to); err != nil {
			return entryError(name, err)
		}
		s.moved = append(s.moved, move{now, to})
	}
	return nil
}

// opaque reports whether this layer hides what is below the directory name.
func (s *settler) opaque(name string) bool {
	for ; name != "." && name != ""; name = path.Dir(name) {
		d, err := s.tree.open(name, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return false
		}
		hides := isOpaque(d)
		_ = d.Close()
		if hides {
			return true
		}
	}
	return false
}

// current gives the place of name after the moves so far.
func (s *settler) current(name string) string {
	for _, m := range s.moved {
		if rest, ok := strings.CutPrefix(name+"/", m.from+"/"); ok {
			name = path.Join(m.to, rest)
		}
	}
	return name
}

// move merges the directory from into the directory to and removes it.
func (s *settler) move(from, to string) error {
	dst, err := s.tree.dir(to)
	if err != nil {
		return err
	}
	parent, base, err := s.tree.find(from)
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }()
	src, err := openDirAt(parent, base)
	if err != nil {
		return err
	}
	err = s.merge(src, dst)
	_ = src.Close()
	if err != nil {
		return err
	}
	delete(s.tree.implied, from)
	for name := range s.tree.implied {
		if rest, ok := strings.CutPrefix(name, from+"/"); ok {
			delete(s.tree.implied, name)
			s.tree.implied[path.Join(to, rest)] = true
		}
	}
	return s.tree.remove(parent, base)
}

// merge moves all of src into dst; where both have a directory, those merge.
func (s *settler) merge(src, dst *os.File) error {
	names, err := src.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		from, errFrom := openDirAt(src, name)
		to, errTo := openDirAt(dst, name)
		if errFrom == nil && errTo == nil {
			err = s.merge(from, to)
		} else {
			_, err = s.tree.clear(dst, name)
			if err == nil {
				err = unix.Renameat(int(src.Fd()), name, int(dst.Fd()), name)
			}
		}
		if errFrom == nil {
			_ = from.Close()
		}
		if errTo == nil {
			_ = to.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// link makes one hard link whose target is below.
func (s *settler) link(l Link) error {
	at, err := s.below.resolveParent(l.Target)
	if err != nil {
		return err
	}
	n, err := s.below.lookup(at)
	if err != nil {
		return err
	}
	defer n.close()
	if n == nil || n.stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		return errkind.New(errkind.InvalidArgument, "it links to %q, which is no file of this layer or of those below", l.Target)
	}
	name := s.current(l.Name)
	if d, _, err := s.tree.find(name); err == nil {
		return d.Close() // a later entry of the same tar took the name
	}
	if !s.copied[at] {
		d, _, err := s.tree.find(at)
		switch {
		case err == nil: // a later entry replaced the target
			_ = d.Close()
			return s.copyUp(n, name)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if s.whitedOut(at) {
			return s.copyUp(n, name)
		}
		if err := s.copyUp(n, at); err != nil {
			return err
		}
	}
	dirName, base := path.Split(name)
	dir, err := s.tree.dir(strings.TrimSuffix(dirName, "/"))
	if err != nil {
		return err
	}
	from, fromBase, err := s.tree.find(at)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	if _, err := s.tree.clear(dir, base); err != nil {
		return err
	}
	return unix.Linkat(int(from.Fd()), fromBase, int(dir.Fd()), base, 0)
}

// whitedOut reports whether this layer deletes name.
func (s *settler) whitedOut(name string) bool {
	f, err := s.tree.open(name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && isWhiteout(&st)
}

// copyUp copies the file n from below to name in this layer.
func (s *settler) copyUp(n *node, name string) error {
	dirName, base := path.Split(name)
	dir, err := s.tree.dir(strings.TrimSuffix(dirName, "/"))
	if err != nil {
		return err
	}
	if err := s.tree.create(dir, base, func() error { return copyNode(n, dir, base) }); err != nil {
		return err
	}
	if n.stat.Mode&unix.S_IFMT == unix.S_IFREG {
		s.tree.bytes += roundUp(n.stat.Size)
		// The inode may have been that of a file which is gone.
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		delete(s.sums, st.Ino)
	}
	s.copied[name] = true
	return nil
}

func copyNode(n *node, dir *os.File, base string) error {
	switch n.stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if err := copyBytes(n, dir, base); err != nil {
			return err
		}
	case unix.S_IFLNK:
		target, err := readlinkAt(n.file, "") // an O_PATH handle of the link itself
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, int(dir.Fd()), base); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(int(dir.Fd()), base, n.stat.Mode, int(n.stat.Rdev)); err != nil {
			return err
		}
	}
	return copyMetadata(n, dir, base)
}

func copyBytes(n *node, dir *os.File, base string) error {
	src, err := os.Open(procPath(n.file, ""))
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(fd), base)
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// adopt gives the implied directory name the metadata it has below, if it is
// one there.
func (s *settler) adopt(name string) error {
	n, err := s.below.lookup(name)
	if err != nil || n == nil {
		return err
	}
	defer n.close()
	if n.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	dir, base, err := s.tree.find(name)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return copyMetadata(n, dir, base)
}

// copyMetadata gives base in dir the owner, attributes, mode and times of n.
func copyMetadata(n *node, dir *os.File, base string) error {
	fd, st := int(dir.Fd()), &n.stat
	if err := unix.Fchownat(fd, base, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := copyXattrs(n, procPath(dir, base)); err != nil {
			return err
		}
		if err := unix.Fchmodat(fd, base, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(fd, base, []unix.Timespec{st.Mtim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

func copyXattrs(n *node, to string) error {
	from := procPath(n.file, "")
	list := make([]byte, maxXattr)
	size, err := unix.Listxattr(from, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, maxXattr)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:size]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, overlayXattrs) || name == "security.selinux" {
			continue
		}
		got, err := unix.Getxattr(from, name, value)
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(to, name, value[:got], 0); err != nil {
			return err
		}
	}
	return nil
}
