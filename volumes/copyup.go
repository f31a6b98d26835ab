package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/inroot"
)

// maxDepth bounds the directories within one another that CopyUp follows:
// each holds two descriptors, and the image's author decides how many.
const maxDepth = 256

// CopyUp fills dst with the content that the image at rootfs has at path, its
// owners, modes, links, times and extended attributes included; an absent
// path makes an empty directory. The copy appears at dst as a whole: a dst
// with content is one that an earlier call completed, and success.
func CopyUp(ctx context.Context, rootfs, path, dst string) (err error) {
	if names, err := os.ReadDir(dst); err == nil && len(names) > 0 {
		return nil
	}
	partial := dst + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(partial))
		}
	}()
	src, err := inroot.Open(rootfs, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return become(partial, dst)
	case errors.Is(err, unix.ENOTDIR):
		return errkind.New(errkind.InvalidArgument, "cannot make a volume of %s: it is no directory in the image", path)
	case err != nil:
		return err
	}
	defer func() { _ = src.Close() }()
	to, err := os.Open(partial)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	c := copier{ctx: ctx, top: to, links: map[inode]string{}}
	if err := c.dir(src, to, "."); err != nil {
		return fmt.Errorf("cannot copy %s of the image: %w", path, err)
	}
	return become(partial, dst)
}

// become gives a directory another name, that of an empty one too, which
// os.Rename refuses.
func become(dir, name string) error {
	if err := unix.Rename(dir, name); err != nil {
		return &os.LinkError{Op: "rename", Old: dir, New: name, Err: err}
	}
	return nil
}

// copier copies a tree by directory handles: no name is ever looked up
// through a link that the tree contains.
type copier struct {
	ctx   context.Context  // of one CopyUp
	top   *os.File         // of the copy; owned by CopyUp
	links map[inode]string // the first copy, below top, of what has hard links
}

type inode struct{ dev, ino uint64 }

// dir copies the content and then the metadata of src to to, which is at rel
// below the top of the copy.
func (c *copier) dir(src, to *os.File, rel string) error {
	if strings.Count(rel, "/") >= maxDepth {
		return errkind.New(errkind.InvalidArgument, "directories are more than %d deep", maxDepth)
	}
	for {
		names, err := src.Readdirnames(512)
		for _, name := range names {
			if err := c.entry(src, to, rel+"/"+name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return copyMeta(src, to)
		}
		if err != nil {
			return err
		}
	}
}

// entry copies one name of a directory.
func (c *copier) entry(src, to *os.File, rel string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	name := filepath.Base(rel)
	var st unix.Stat_t
	if err := unix.Fstatat(int(src.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: rel, Err: err}
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = c.subdir(src, to, rel)
	case unix.S_IFREG:
		err = c.file(src, to, rel, &st)
	case unix.S_IFLNK:
		err = copyLink(src, to, name, &st)
	case unix.S_IFSOCK:
		return nil // a socket without its server is nothing
	default:
		if err = unix.Mknodat(int(to.Fd()), name, st.Mode, int(st.Rdev)); err == nil {
			err = setMeta(to, name, &st)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	return nil
}

func (c *copier) subdir(src, to *os.File, rel string) error {
	name := filepath.Base(rel)
	if err := unix.Mkdirat(int(to.Fd()), name, 0o700); err != nil {
		return err
	}
	from, err := openAt(src, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	into, err := openAt(to, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = into.Close() }()
	return c.dir(from, into, rel)
}

func (c *copier) file(src, to *os.File, rel string, st *unix.Stat_t) error {
	name := filepath.Base(rel)
	id := inode{dev: st.Dev, ino: st.Ino}
	if first, ok := c.links[id]; ok {
		return unix.Linkat(int(c.top.Fd()), first, int(to.Fd()), name, 0)
	}
	from, err := openAt(src, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	into, err := openAt(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer func() { _ = into.Close() }()
	if err := c.content(from, into, st.Size); err != nil {
		return err
	}
	if err := copyMeta(from, into); err != nil {
		return err
	}
	if st.Nlink > 1 {
		c.links[id] = rel
	}
	return into.Close()
}

// content copies the data and leaves the holes: what is small in the image
// must not become large on the host.
func (c *copier) content(from, into *os.File, size int64) error {
	for at := int64(0); at < size; {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		data, err := from.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			return err
		}
		hole, err := from.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := from.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := into.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(into, from, hole-data); err != nil {
			return err
		}
		at = hole
	}
	return into.Truncate(size)
}

func copyLink(src, to *os.File, name string, st *unix.Stat_t) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(src.Fd()), name, buf)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(buf[:n]), int(to.Fd()), name); err != nil {
		return err
	}
	return setMeta(to, name, st)
}

// setMeta gives the owner, mode and times of st to name in dir, which may be
// a link itself.
func setMeta(dir *os.File, name string, st *unix.Stat_t) error {
	fd := int(dir.Fd())
	if err := unix.Fchownat(fd, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK { // a link has no mode
		if err := unix.Fchmodat(fd, name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(fd, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyMeta gives owner, mode, extended attributes and times of one open file
// or directory to another. Owner comes first: changing it takes the setuid
// bit and file capabilities away.
func copyMeta(from, into *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return err
	}
	if err := into.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(into.Fd()), st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyXattrs(int(from.Fd()), int(into.Fd())); err != nil {
		return err
	}
	times := []unix.Timeval{unix.NsecToTimeval(st.Atim.Nano()), unix.NsecToTimeval(st.Mtim.Nano())}
	return unix.Futimes(int(into.Fd()), times)
}

func copyXattrs(from, into int) error {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(from, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		size, err := unix.Fgetxattr(from, name, value)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue
		}
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
		if err := unix.Fsetxattr(into, name, value[:size], 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

// openAt opens name in dir, never through a link. The caller closes the file.
func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
