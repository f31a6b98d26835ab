package tartree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Pack writes what is at p below root as a tar: under the name as, or its own if
// that is empty. With follow a symbolic link at p stands for what it leads to.
func Pack(ctx context.Context, root *os.File, p, as string, follow bool, owner Owner, w io.Writer) error {
	flags := unix.O_PATH | unix.O_NOFOLLOW
	if follow {
		flags = unix.O_PATH
	}
	f, err := open(root, p, flags)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if as == "" {
		as = base(p)
	}
	if strings.HasPrefix(as, "/") {
		as = "." // the root itself
	}
	x := &packer{ctx: ctx, tar: tar.NewWriter(w), owner: owner, links: map[inode]string{}}
	// By its own handle, so that nothing takes its place.
	if err := x.object(f, path.Clean(as), 0); err != nil {
		return err
	}
	return x.tar.Close()
}

type inode struct{ dev, ino uint64 }

// packer is one Pack under way.
type packer struct {
	ctx   context.Context // of one Pack
	tar   *tar.Writer
	owner Owner
	links map[inode]string // the first name of a file that has several
}

// object writes what the O_PATH descriptor f is.
func (x *packer) object(f *os.File, name string, depth int) error {
	if err := x.ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("%s is nested deeper than %d directories", name, maxDepth)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	h := &tar.Header{Name: name, Mode: int64(st.Mode & 0o7777), ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX}
	h.Uid, h.Gid = x.owner.of(int(st.Uid), int(st.Gid))
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return x.directory(f, h, depth)
	case unix.S_IFSOCK:
		return nil // who listens there makes it
	case unix.S_IFLNK:
		target, err := linkOf(f)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
		return x.tar.WriteHeader(h)
	case unix.S_IFREG:
		id := inode{st.Dev, st.Ino}
		if first, ok := x.links[id]; ok && st.Nlink > 1 {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return x.tar.WriteHeader(h)
		}
		if st.Nlink > 1 {
			x.links[id] = name
		}
		return x.file(f, h)
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	}
	h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return x.tar.WriteHeader(h)
}

// reopen gives a descriptor that can be read, of the same object.
func reopen(f *os.File, flags int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags|unix.O_CLOEXEC, 0)
}

func (x *packer) file(f *os.File, h *tar.Header) error {
	in, err := reopen(f, os.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if h.PAXRecords, err = xattrs(in); err != nil {
		return err
	}
	st, err := in.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size()
	if err := x.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyN(x.tar, untilDone{x.ctx, in}, h.Size)
	if errors.Is(err, io.EOF) { // somebody has cut it; the tar has promised so much
		_, err = io.CopyN(x.tar, zeros{}, h.Size-n)
	}
	return err
}

// untilDone reads until ctx ends, in the middle of a large file too.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (x *packer) directory(f *os.File, h *tar.Header, depth int) error {
	dir, err := reopen(f, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if h.PAXRecords, err = xattrs(dir); err != nil {
		return err
	}
	h.Typeflag = tar.TypeDir
	name := h.Name
	h.Name += "/"
	if err := x.tar.WriteHeader(h); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, entry := range names {
		child, err := openAt(dir, entry, unix.O_PATH)
		if errors.Is(err, unix.ENOENT) {
			continue // it went meanwhile
		}
		if err != nil {
			return err
		}
		err = x.object(child, path.Join(name, entry), depth+1)
		_ = child.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// xattrPrefix begins the names of PAX records that are attributes.
const xattrPrefix = "SCHILY.xattr."

// xattrs reads the attributes that a copy should have; overlayfs' own are not
// among them.
func xattrs(f *os.File) (map[string]string, error) {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(int(f.Fd()), list)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out, value := map[string]string{}, make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if !carried(name) {
			continue
		}
		if n, err := unix.Fgetxattr(int(f.Fd()), name, value); err == nil {
			out[xattrPrefix+name] = string(value[:n])
		}
	}
	return out, nil
}

// carried tells which attributes are a file's own rather than the host's.
func carried(name string) bool {
	return strings.HasPrefix(name, "user.") || name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_")
}
