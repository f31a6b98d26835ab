package unpack

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"slices"
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
	t, err := openTree(dir, math.MaxInt)
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
	s := &settler{
		tree: t, below: v, moved: map[string]string{}, hides: map[string]bool{}, copied: map[string]bool{}, sums: r.Sums,
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
	if err := t.leave(); err != nil {
		return Result{}, err
	}
	for _, name := range slices.Concat(r.Parents, t.impliedDirs()) {
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
	moved  map[string]string // directories, to where links of layers below lead
	hides  map[string]bool   // what is known of directories: whether those below are hidden there
	copied map[string]bool   // paths that are copies from below
	sums   map[uint64]uint32
}

// relocate moves the content of each implied directory that is a symbolic
// link below to where the link leads. parents are before what is in them.
func (s *settler) relocate(parents []string) error {
	for _, name := range parents {
		d, err := s.tree.open(name, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return entryError(name, err)
		}
		ino, err := inode(d)
		_ = d.Close()
		if err != nil {
			return entryError(name, err)
		}
		s.tree.impliedInodes[ino] = true
	}
	for _, name := range parents {
		if err := s.follow(s.current(name)); err != nil {
			return entryError(name, err)
		}
	}
	return nil
}

// follow moves the implied directory name if it is a symbolic link below.
func (s *settler) follow(name string) error {
	if implied, err := s.isImplied(name); err != nil || !implied || s.hidden(name) {
		return err
	}
	n, err := s.below.lookup(name)
	defer n.close()
	if err != nil || !n.is(unix.S_IFLNK) {
		return err
	}
	to, err := s.below.resolve(name)
	if errors.Is(err, unix.ELOOP) || to == "" || to == name || strings.HasPrefix(to, name+"/") {
		return nil // it leads nowhere, or to itself: then what this layer says stands
	}
	if err != nil {
		return err
	}
	return s.move(name, to)
}

// isImplied reports whether name is a directory that no entry asked for.
func (s *settler) isImplied(name string) (bool, error) {
	d, err := s.tree.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = d.Close() }()
	ino, err := inode(d)
	return s.tree.impliedInodes[ino], err
}

// hidden reports whether this layer hides what is below in the directory name.
func (s *settler) hidden(name string) bool {
	if name == "" {
		return false
	}
	if hides, ok := s.hides[name]; ok {
		return hides
	}
	dir, _ := splitPath(name)
	hides := s.hidden(dir)
	if d, err := s.tree.open(name, unix.O_PATH|unix.O_DIRECTORY); err == nil {
		hides = hides || isOpaque(d)
		_ = d.Close()
	}
	s.hides[name] = hides
	return hides
}

// current gives the place of name after the moves so far. A layer whose own
// links lead moves in a circle gets a place that does not exist.
func (s *settler) current(name string) string {
	for range maxLinks {
		moved := false
		for dir := name; dir != "" && !moved; dir, _ = splitPath(dir) {
			var to string
			if to, moved = s.moved[dir]; moved {
				name = to + name[len(dir):]
			}
		}
		if !moved {
			break
		}
	}
	return name
}

// move merges the directory from into the directory to and removes it.
func (s *settler) move(from, to string) error {
	dst, to, err := s.tree.enter(to)
	if err != nil {
		return err
	}
	if to == from || strings.HasPrefix(to, from+"/") {
		return nil // by a link of this layer
	}
	dirName, base := splitPath(from)
	parent, err := s.tree.open(dirName, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(parent.Fd()), &st); err != nil {
		return err
	}
	src, err := openDirAt(parent, base)
	if err != nil {
		return err
	}
	err = s.merge(src, dst)
	_ = src.Close()
	if err != nil {
		return err
	}
	clear(s.hides)
	s.moved[from] = to
	return errors.Join(s.tree.remove(parent, base), setMtime(parent, st.Mtim))
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
		switch {
		case errFrom == nil && errTo == nil:
			err = s.mergeDirs(from, to)
		default:
			err = s.tree.clear(dst, name)
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

// mergeDirs merges two directories of one name. One that has an entry is what
// both become.
func (s *settler) mergeDirs(from, to *os.File) error {
	var st, have unix.Stat_t
	if err := errors.Join(unix.Fstat(int(from.Fd()), &st), unix.Fstat(int(to.Fd()), &have)); err != nil {
		return err
	}
	mtime := have.Mtim
	if !s.tree.impliedInodes[st.Ino] {
		if err := copyMetadata(&node{from, st}, object{File: to}); err != nil {
			return err
		}
		delete(s.tree.impliedInodes, have.Ino)
		mtime = st.Mtim
	}
	if isOpaque(from) {
		if err := setOpaque(to); err != nil {
			return err
		}
	}
	delete(s.tree.impliedInodes, st.Ino) // it will be another's
	return errors.Join(s.merge(from, to), setMtime(to, mtime))
}

// link makes one hard link whose target is below.
func (s *settler) link(l Link) error {
	at, err := s.below.resolveParent(l.Target)
	if err != nil {
		return err
	}
	n, err := s.below.lookup(at)
	defer n.close()
	if err != nil {
		return err
	}
	if n == nil || n.is(unix.S_IFDIR) {
		return errkind.New(errkind.InvalidArgument, "it links to %.256q, which is no file of this layer or of those below", l.Target)
	}
	name := s.current(l.Name)
	if d, _, err := s.tree.find(name); err == nil {
		return d.Close() // a later entry of the same tar took the name
	}
	if !s.copied[at] {
		stands, err := s.stands(at)
		if err != nil {
			return err
		}
		if stands {
			return s.copyUp(n, name)
		}
		if err := s.copyUp(n, at); err != nil {
			return err
		}
	}
	dirName, base := splitPath(name)
	dir, _, err := s.tree.enter(dirName)
	if err != nil {
		return err
	}
	fromName, fromBase := splitPath(at)
	from, err := s.tree.open(fromName, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	return s.tree.replace(dir, base, func() error { return unix.Linkat(int(from.Fd()), fromBase, int(dir.Fd()), base, 0) })
}

// stands reports whether this layer has something of its own as name, if only
// a whiteout, or hides what is below.
func (s *settler) stands(name string) (bool, error) {
	dirName, base := splitPath(name)
	dir, err := s.tree.open(dirName, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return s.hidden(dirName), nil
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	var st unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return s.hidden(dirName), nil
	}
	return err == nil, err
}

// copyUp copies the file n from below to name in this layer.
func (s *settler) copyUp(n *node, name string) error {
	dirName, base := splitPath(name)
	dir, _, err := s.tree.enter(dirName)
	if err != nil {
		return err
	}
	if err := s.tree.create(dir, base, func() error { return makeLike(n, dir, base) }); err != nil {
		return err
	}
	o, err := openObject(dir, base)
	if err != nil {
		return err
	}
	defer func() { _ = o.Close() }()
	if n.is(unix.S_IFREG) {
		if err := s.copyBytes(n, o); err != nil {
			return err
		}
	}
	if s.tree.atACL && !n.is(unix.S_IFLNK) {
		if err := o.dropACLs(); err != nil {
			return err
		}
	}
	s.copied[name] = true
	return copyMetadata(n, o)
}

// makeLike makes an empty file of n's type.
func makeLike(n *node, dir *os.File, base string) error {
	if !n.is(unix.S_IFLNK) {
		return unix.Mknodat(int(dir.Fd()), base, n.stat.Mode&unix.S_IFMT|0o600, int(n.stat.Rdev))
	}
	target, err := readlinkAt(n.file, "")
	if err != nil {
		return err
	}
	return unix.Symlinkat(target, int(dir.Fd()), base)
}

func (s *settler) copyBytes(n *node, o object) error {
	src, err := os.Open(procPath(n.file))
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := os.OpenFile(procPath(o.File), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	var onDisk uint64
	if err := dst.Truncate(n.stat.Size); err != nil {
		return errors.Join(err, dst.Close())
	}
	w := &sparseWriter{f: dst, taken: &onDisk} // hides ReadFrom: a copy has holes where the original may
	if _, err := io.Copy(w, src); err != nil {
		return errors.Join(err, dst.Close())
	}
	ino, err := inode(dst)
	s.tree.bytes += onDisk
	s.tree.sparse[ino] = onDisk
	delete(s.sums, ino) // it may have been the number of a file that is gone
	return errors.Join(err, dst.Close())
}

// adopt gives the directory name, if it is still an implied one, the metadata
// that it has below.
func (s *settler) adopt(name string) error {
	name = s.current(name)
	implied, err := s.isImplied(name)
	if err != nil || !implied || s.hidden(name) {
		return err
	}
	n, err := s.below.lookup(name)
	defer n.close()
	if err != nil || !n.is(unix.S_IFDIR) {
		return err
	}
	d, err := s.tree.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return copyMetadata(n, object{File: d})
}

// copyMetadata gives o the owner, attributes, mode and times of n.
func copyMetadata(n *node, o object) error {
	st := &n.stat
	if err := unix.Fchownat(int(o.Fd()), "", int(st.Uid), int(st.Gid), unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	o.mode = st.Mode
	if !n.is(unix.S_IFLNK) {
		if err := copyXattrs(n, o); err != nil {
			return err
		}
	}
	if err := o.chmod(st.Mode & 0o7777); err != nil {
		return err
	}
	return setMtime(o.File, st.Mtim)
}

func copyXattrs(n *node, o object) error {
	from := procPath(n.file)
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
		if err := o.setXattr(name, value[:got]); err != nil {
			return err
		}
	}
	return nil
}

func inode(f *os.File) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return st.Ino, err
}
