package unpack

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/inroot"
)

// maxOwed bounds the names that a layer may leave for Settle: those of implied
// directories, with all their parents, and of hard links to what is below.
const maxOwed = 16 << 20

// tree is the directory of one layer, by handle, with what it takes. Paths in
// it are real ones: no part of them is a symbolic link.
type tree struct {
	root      *os.File
	bytes     uint64
	inodes    uint64
	maxInodes uint64
	sparse    map[uint64]uint64 // bytes on disk of files with holes, by inode
	implied   map[string]bool   // directories that no entry asked for
	owed      int               // bytes of names, against maxOwed
	lost      bool              // a content of the tar is not under its name any more

	// The same by inode, which they keep when Settle moves them.
	impliedInodes map[uint64]bool

	// Entries come directory by directory: the last parent is the next one.
	at      *os.File // nil, or the directory that is being filled
	atName  string   // as it was asked for
	atPath  string
	atMtime unix.Timespec // what filling it changes, and leave restores
	atACL   bool          // what is made in it inherits access control lists
	stale   bool          // something was removed since: atName may lead elsewhere now
}

func openTree(dir string, maxInodes int) (*tree, error) {
	root, err := os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &tree{
		root: root, bytes: blockSize, inodes: 1, maxInodes: uint64(maxInodes),
		sparse: map[uint64]uint64{}, implied: map[string]bool{}, impliedInodes: map[uint64]bool{},
	}, nil
}

func (t *tree) close() {
	if t.at != nil {
		_ = t.at.Close()
	}
	_ = t.root.Close()
}

// open opens the real path name, which a link anywhere in it makes ELOOP. The
// root itself is "".
func (t *tree) open(name string, flags int) (*os.File, error) {
	return openBelow(t.root, name, flags)
}

// enter gives the directory name, which may lead through links, and its real
// path, and makes what is missing of it. The handle stays the tree's and is
// good until the next call of enter or leave; until then the directory's time
// changes with all that is done in it.
func (t *tree) enter(name string) (*os.File, string, error) {
	if t.at != nil && !t.stale && t.atName == name {
		return t.at, t.atPath, nil
	}
	if err := t.leave(); err != nil {
		return nil, "", err
	}
	d, real, err := t.makeDirs(name)
	if err != nil {
		return nil, "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		_ = d.Close()
		return nil, "", err
	}
	t.at, t.atName, t.atPath, t.atMtime, t.atACL, t.stale = d, name, real, st.Mtim, hasDefaultACL(d), false
	return d, real, nil
}

// leave ends what enter began and gives the directory its time again.
func (t *tree) leave() error {
	if t.at == nil {
		return nil
	}
	err := setMtime(t.at, t.atMtime)
	_ = t.at.Close()
	t.at = nil
	return err
}

// find gives a handle of the directory in which name is and its last
// component, or fs.ErrNotExist if this layer does not have it. Links on the
// way are followed. The caller closes the handle.
func (t *tree) find(name string) (*os.File, string, error) {
	dirName, base := splitPath(name)
	if dirName == "" {
		dirName = "."
	}
	d, err := inroot.OpenAt(t.root, dirName, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, "", fs.ErrNotExist
	}
	if err != nil {
		return nil, "", err
	}
	var st unix.Stat_t
	err = unix.Fstatat(int(d.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && isWhiteout(&st) {
		err = fs.ErrNotExist
	}
	if err != nil {
		_ = d.Close()
		return nil, "", err
	}
	return d, base, nil
}

// makeDirs opens the directory name and makes what is missing on the way. A
// symbolic link leads to its target below the root, which is made too if need
// be: a layer may have /lib -> usr/lib and then lib/x only.
func (t *tree) makeDirs(name string) (*os.File, string, error) {
	d, err := t.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == nil {
		return d, name, nil
	}
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		return nil, "", err
	}
	var parent *os.File // of the path parentPath, so that going down is one step each
	parentPath := ""
	defer func() { _ = parent.Close() }()
	real, err := followLinks(name, func(dir, c string) (target string, err error) {
		if parent == nil || parentPath != dir {
			_ = parent.Close()
			if parent, err = t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
				return "", err
			}
		}
		child, target, err := t.step(parent, c, path.Join(dir, c))
		if child != nil {
			_ = parent.Close()
			parent, parentPath = child, path.Join(dir, c)
		}
		return target, err
	})
	if err != nil {
		return nil, "", err
	}
	d, err = t.open(real, unix.O_RDONLY|unix.O_DIRECTORY)
	return d, real, err
}

// step gives the directory c in parent, which it makes if need be, or where c
// is a symbolic link its target. real is c's path.
func (t *tree) step(parent *os.File, c, real string) (child *os.File, target string, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(int(parent.Fd()), c, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT), err == nil && isWhiteout(&st):
	case err != nil:
		return nil, "", err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		child, err = openDirAt(parent, c)
		return child, "", err
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		target, err = readlinkAt(parent, c)
		return nil, target, err
	default:
		return nil, "", fmt.Errorf("its parent %q: %w", real, unix.ENOTDIR)
	}
	if err := t.owe(real); err != nil {
		return nil, "", err
	}
	if err := unix.Fstat(int(parent.Fd()), &st); err != nil {
		return nil, "", err
	}
	d, err := t.mkdir(parent, c)
	if err != nil {
		return nil, "", err
	}
	ino, err := inode(d)
	t.implied[real], t.impliedInodes[ino] = true, true
	// The group is the parent's, if that has the set-group-id bit.
	err = errors.Join(err, d.Chown(0, 0), setMtime(parent, st.Mtim))
	if err != nil {
		_ = d.Close()
		return nil, "", err
	}
	return d, "", nil
}

// owe accounts for names that Settle will need.
func (t *tree) owe(names ...string) error {
	for _, name := range names {
		t.owed += len(name)
	}
	if t.owed > maxOwed {
		return errkind.New(errkind.ResourceExhausted, "the layer leaves out too many parent directories or targets of hard links: their names have more than %d bytes", maxOwed)
	}
	return nil
}

// create makes the file base in dir by do, in place of whatever else is there.
func (t *tree) create(dir *os.File, base string, do func() error) error {
	if err := t.replace(dir, base, do); err != nil {
		return err
	}
	return t.count()
}

// replace is create for what is no new file.
func (t *tree) replace(dir *os.File, base string, do func() error) error {
	err := do()
	if errors.Is(err, unix.EEXIST) {
		if err = t.remove(dir, base); err == nil {
			err = do()
		}
	}
	return err
}

func (t *tree) count() error {
	if t.inodes++; t.inodes > t.maxInodes {
		return errkind.New(errkind.ResourceExhausted, "the layer has more than %d files and directories", t.maxInodes)
	}
	return nil
}

// mkdir makes the directory base in dir, in place of whatever else is there.
func (t *tree) mkdir(dir *os.File, base string) (*os.File, error) {
	tries := 0
	err := t.create(dir, base, func() error {
		tries++
		return unix.Mkdirat(int(dir.Fd()), base, 0o755)
	})
	if err != nil {
		return nil, err
	}
	t.bytes += blockSize
	d, err := openDirAt(dir, base)
	if err != nil {
		return nil, err
	}
	// The mode given to mkdirat went through the umask.
	err = d.Chmod(0o755)
	if err == nil && hasDefaultACL(dir) {
		err = object{File: d}.dropACLs()
	}
	if err == nil && tries > 1 {
		// What this layer had in its place, a whiteout perhaps, hid what the
		// layers below have there; the directory must not uncover it.
		err = setOpaque(d)
	}
	if err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// clear removes what is at base in dir, if anything.
func (t *tree) clear(dir *os.File, base string) error {
	err := t.remove(dir, base)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// remove removes base in dir with all that is below it.
func (t *tree) remove(dir *os.File, base string) error {
	t.stale = true
	fd := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := t.empty(dir, base); err != nil {
			return err
		}
		t.inodes--
		t.bytes -= blockSize
		return unix.Unlinkat(fd, base, unix.AT_REMOVEDIR)
	}
	if err := unix.Unlinkat(fd, base, 0); err != nil {
		return err
	}
	t.lost = t.lost || st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size > 0
	if st.Nlink == 1 {
		t.inodes--
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			t.bytes -= t.taken(&st)
		}
	}
	return nil
}

func (t *tree) empty(dir *os.File, base string) error {
	d, err := openDirAt(dir, base)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := t.remove(d, name); err != nil {
			return err
		}
	}
	return nil
}

// taken gives what was counted for a regular file, and forgets it.
func (t *tree) taken(st *unix.Stat_t) uint64 {
	if n, ok := t.sparse[st.Ino]; ok {
		delete(t.sparse, st.Ino)
		return n
	}
	return OnDisk(st.Size)
}

// impliedDirs lists the implied directories that are still there, parents first.
func (t *tree) impliedDirs() []string {
	names := slices.Sorted(maps.Keys(t.implied))
	return slices.DeleteFunc(names, func(name string) bool {
		d, err := t.open(name, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return true
		}
		_ = d.Close()
		return false
	})
}

// OnDisk gives what a file of size bytes takes in blocks, by which the store
// accounts. What the file system really took is not known before write-back.
func OnDisk(size int64) uint64 {
	return (uint64(size) + blockSize - 1) / blockSize * blockSize
}
