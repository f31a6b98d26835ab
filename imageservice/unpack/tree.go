package unpack

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/inroot"
)

// maxLinks is how many symbolic links one name may lead through, as in the kernel.
const maxLinks = 40

// tree is the directory of one layer, by handle, with what it takes.
type tree struct {
	root    *os.File
	bytes   uint64
	inodes  uint64
	implied map[string]bool // directories that no entry asked for

	// Entries come directory by directory: the last parent is the next one.
	lastName string
	last     *os.File
	stale    bool // something was removed since: lastName may lead elsewhere now
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &tree{root: root, bytes: blockSize, inodes: 1, implied: map[string]bool{}}, nil
}

func (t *tree) close() {
	if t.last != nil {
		_ = t.last.Close()
	}
	_ = t.root.Close()
}

// open opens name as if the layer's root were "/". The root itself is "".
func (t *tree) open(name string, flags int) (*os.File, error) {
	if name == "" {
		name = "."
	}
	return inroot.OpenAt(t.root, name, flags, 0)
}

// dir gives the directory name and makes what is missing of it. The handle
// stays the tree's and is good until the next call of dir.
func (t *tree) dir(name string) (*os.File, error) {
	if name == "" {
		return t.root, nil
	}
	if t.last != nil && !t.stale && t.lastName == name {
		return t.last, nil
	}
	d, err := t.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		d, err = t.makeDirs(name)
	}
	if err != nil {
		return nil, err
	}
	if t.last != nil {
		_ = t.last.Close()
	}
	t.last, t.lastName, t.stale = d, name, false
	return d, nil
}

// find gives a handle of the directory in which name is and its last
// component, or fs.ErrNotExist if this layer does not have it. The caller
// closes the handle.
func (t *tree) find(name string) (*os.File, string, error) {
	dirName, base := path.Split(name)
	d, err := t.open(strings.TrimSuffix(dirName, "/"), unix.O_PATH|unix.O_DIRECTORY)
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

// makeDirs walks to the directory name and makes what is missing on the way.
// A symbolic link leads to its target below the root, which is made too if
// need be: a base layer may have /lib -> usr/lib and a later tar lib/x only.
func (t *tree) makeDirs(name string) (*os.File, error) {
	rest, at := strings.Split(name, "/"), []string(nil)
	for links := 0; len(rest) > 0; {
		c := rest[0]
		rest = rest[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			at = at[:max(len(at)-1, 0)]
			continue
		}
		parent, err := t.open(path.Join(at...), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		target, err := t.step(parent, c, path.Join(path.Join(at...), c))
		_ = parent.Close()
		if err != nil {
			return nil, err
		}
		if target == "" {
			at = append(at, c)
			continue
		}
		if links++; links > maxLinks {
			return nil, unix.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			at = nil
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return t.open(path.Join(at...), unix.O_PATH|unix.O_DIRECTORY)
}

// step sees to it that c is a directory in parent, unless it is a symbolic
// link, whose target it gives. full is c's name from the root.
func (t *tree) step(parent *os.File, c, full string) (target string, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(int(parent.Fd()), c, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT), err == nil && isWhiteout(&st):
	case err != nil:
		return "", err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return "", nil
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return readlinkAt(parent, c)
	default:
		return "", errkind.New(errkind.InvalidArgument, "its parent %q is no directory", full)
	}
	d, err := t.mkdir(parent, c)
	if err != nil {
		return "", err
	}
	t.implied[full] = true
	return "", d.Close()
}

// create makes base in dir by do, after clearing the place.
func (t *tree) create(dir *os.File, base string, do func() error) error {
	if _, err := t.clear(dir, base); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	t.inodes++
	return nil
}

// mkdir makes the directory base in dir, in place of whatever else is there.
func (t *tree) mkdir(dir *os.File, base string) (*os.File, error) {
	replaced, err := t.clear(dir, base)
	if err != nil {
		return nil, err
	}
	if err := unix.Mkdirat(int(dir.Fd()), base, 0o755); err != nil {
		return nil, err
	}
	t.inodes++
	t.bytes += blockSize
	d, err := openDirAt(dir, base)
	if err != nil {
		return nil, err
	}
	// The mode given to mkdirat went through the umask.
	err = d.Chmod(0o755)
	if err == nil && replaced {
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
func (t *tree) clear(dir *os.File, base string) (found bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, t.remove(dir, base)
}

// remove removes base in dir with all that is below it.
func (t *tree) remove(dir *os.File, base string) error {
	t.stale = true
	fd := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if st.Nlink == 1 {
			t.inodes--
			if st.Mode&unix.S_IFMT == unix.S_IFREG {
				t.bytes -= roundUp(st.Size)
			}
		}
		return unix.Unlinkat(fd, base, 0)
	}
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
	t.inodes--
	t.bytes -= blockSize
	return unix.Unlinkat(fd, base, unix.AT_REMOVEDIR)
}

// impliedDirs lists the implied directories that are still there, parents first.
func (t *tree) impliedDirs() []string {
	names := slices.Sorted(maps.Keys(t.implied))
	return slices.DeleteFunc(names, func(name string) bool {
		d, err := t.open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			return true
		}
		_ = d.Close()
		return false
	})
}

func openDirAt(dir *os.File, base string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), base), nil
}

func readlinkAt(dir *os.File, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), base, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// roundUp gives what a file of size bytes takes in blocks. What the file
// system really took is not known before write-back.
func roundUp(size int64) uint64 {
	return (uint64(size) + blockSize - 1) / blockSize * blockSize
}
