package snapshot

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

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// maxDepth bounds how deep a container may have nested directories for a diff
// of it: each level costs a descriptor.
const maxDepth = 512

// DiffOptions say what a diff leaves out. The zero value leaves nothing out.
type DiffOptions struct {
	Time func(time.Time) time.Time // what becomes of a file's time; nil: it stays
	Drop map[string]bool           // relative names of what is not told of if it is empty, such as mount points
}

// Diff writes what the container has changed as the tar of one more layer on
// its image: whiteouts are OCI's, overlay's own attributes are left out. Equal
// trees give equal tars. The container must not change it meanwhile.
func (d Dirs) Diff(ctx context.Context, how DiffOptions, w io.Writer) error {
	fd, err := unix.Open(d.Upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: d.Upper, Err: err}
	}
	root := os.NewFile(uintptr(fd), d.Upper)
	defer func() { _ = root.Close() }()
	x := &differ{ctx: ctx, how: how, tar: tar.NewWriter(w), links: map[uint64]string{}}
	if err := x.directory(root, "", 0); err != nil {
		return err
	}
	return x.tar.Close()
}

// differ is one Diff under way.
type differ struct {
	ctx   context.Context
	how   DiffOptions
	tar   *tar.Writer
	links map[uint64]string // the first name of a file that has several, by inode
}

// directory writes dir and what is in it. Its name is relative to the root.
func (x *differ) directory(dir *os.File, name string, depth int) error {
	if depth > maxDepth {
		return errkind.New(errkind.ResourceExhausted, "directory %q is nested deeper than %d", name, maxDepth)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	attributes, err := xattrs(dir)
	if err != nil {
		return fmt.Errorf("cannot read the attributes of %q: %w", name, err)
	}
	h := x.header(&st, "./"+name+"/", attributes)
	h.Typeflag = tar.TypeDir
	if name == "" {
		h.Name = "./"
	}
	if err := x.tar.WriteHeader(h); err != nil {
		return err
	}
	if isOpaque(dir) {
		if err := x.marker(path.Join(name, ".wh..wh..opq")); err != nil {
			return err
		}
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, base := range names {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		if strings.HasPrefix(base, ".wh.") {
			return errkind.New(errkind.FailedPrecondition, "%q has a name that means a deletion in a layer", path.Join(name, base))
		}
		if err := x.entry(dir, base, path.Join(name, base), depth); err != nil {
			return err
		}
	}
	return nil
}

// entry writes what dir has under base.
func (x *differ) entry(dir *os.File, base, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot stat %q: %w", name, err)
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFCHR && st.Rdev == 0:
		return x.marker(path.Join(path.Dir(name), ".wh."+base))
	case kind == unix.S_IFSOCK:
		return nil // who listened there makes it again
	case kind == unix.S_IFDIR:
		sub, err := openAt(dir, base, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer func() { _ = sub.Close() }()
		if x.how.Drop[name] && x.empty(sub, name, depth+1) {
			return nil
		}
		return x.directory(sub, name, depth+1)
	case kind == unix.S_IFREG && st.Size == 0 && x.how.Drop[name]:
		return nil
	}
	if first, ok := x.links[st.Ino]; ok && st.Nlink > 1 {
		h := x.header(&st, "./"+name, nil)
		h.Typeflag, h.Linkname = tar.TypeLink, "./"+first
		return x.tar.WriteHeader(h)
	}
	if st.Nlink > 1 {
		x.links[st.Ino] = name
	}
	return x.object(dir, base, name, &st)
}

// empty reports whether a directory has nothing that is told of.
func (x *differ) empty(dir *os.File, name string, depth int) bool {
	names, err := dir.Readdirnames(-1)
	if _, again := dir.Seek(0, io.SeekStart); err != nil || again != nil || depth > maxDepth || isOpaque(dir) {
		return false
	}
	for _, base := range names {
		var st unix.Stat_t
		below := path.Join(name, base)
		if !x.how.Drop[below] || unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			return false
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if st.Size > 0 {
				return false
			}
		case unix.S_IFDIR:
			sub, err := openAt(dir, base, unix.O_RDONLY|unix.O_DIRECTORY)
			if err != nil {
				return false
			}
			empty := x.empty(sub, below, depth+1)
			_ = sub.Close()
			if !empty {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// object writes one thing that is no directory and has not been written yet.
func (x *differ) object(dir *os.File, base, name string, st *unix.Stat_t) error {
	h := x.header(st, "./"+name, nil)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(dir.Fd()), base, target)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(target[:n])
		return x.tar.WriteHeader(h)
	case unix.S_IFREG:
		return x.file(dir, base, st, h)
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

func (x *differ) file(dir *os.File, base string, st *unix.Stat_t, h *tar.Header) error {
	f, err := openAt(dir, base, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	attributes, err := xattrs(f)
	if err != nil {
		return fmt.Errorf("cannot read the attributes of %q: %w", h.Name, err)
	}
	full := x.header(st, h.Name, attributes)
	full.Typeflag, full.Size = tar.TypeReg, st.Size
	if err := x.tar.WriteHeader(full); err != nil {
		return err
	}
	_, err = io.CopyN(x.tar, f, st.Size)
	return err
}

// marker writes an empty file that tells of a deletion.
func (x *differ) marker(name string) error {
	return x.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Format: tar.FormatPAX})
}

// header is what a tar says of any object.
func (x *differ) header(st *unix.Stat_t, name string, attributes map[string]string) *tar.Header {
	h := &tar.Header{Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX}
	if x.how.Time != nil {
		h.ModTime = x.how.Time(h.ModTime)
	}
	for key, value := range attributes {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+key] = value
	}
	return h
}

func openAt(dir *os.File, base string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: base, Err: err}
	}
	return os.NewFile(uintptr(fd), base), nil
}

// overlayXattr begins the names of the attributes that are overlayfs' own.
const overlayXattr = "trusted.overlay."

func isOpaque(dir *os.File) bool {
	var b [4]byte
	n, err := unix.Fgetxattr(int(dir.Fd()), overlayXattr+"opaque", b[:])
	return err == nil && n > 0 && b[0] == 'y'
}

// xattrs reads the attributes of an open file that belong to the layer.
func xattrs(f *os.File) (map[string]string, error) {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(int(f.Fd()), list)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if strings.HasPrefix(name, overlayXattr) {
			continue
		}
		n, err := unix.Fgetxattr(int(f.Fd()), name, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = string(value[:n])
	}
	return out, nil
}
