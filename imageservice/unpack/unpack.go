// Package unpack turns the tar stream of one image layer into a directory
// that overlayfs takes as a lower one.
//
// The model: a layer is unpacked alone. Its deletions become overlay whiteouts
// (character device 0:0) and opaque directories (trusted.overlay.opaque), so
// it needs nothing of the layers below, and layers unpack side by side. Two
// things a tar may leave out are known only below: the metadata of a parent
// directory that it implies, and the file that a hard link names. Layer reports
// them, and Settle fills them in once the layers below are there.
//
// The law: the tar is hostile. Every name is resolved below a handle of the
// target directory (openat2, RESOLVE_IN_ROOT), symbolic links that the tar
// itself laid included, and the last component is never followed. A name that
// climbs out by ".." is refused. Whatever an author can make large has a limit.
// Overlay's own attributes are never taken from a tar.
//
// Nothing is cleaned up on failure: the directory is the caller's.
package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Limits bound what one layer may take.
type Limits struct {
	Entries int   // in the tar
	Bytes   int64 // of all files, unpacked
}

// DefaultLimits are far above every honest layer.
func DefaultLimits() Limits { return Limits{Entries: 4 << 20, Bytes: 1 << 40} }

const (
	maxPath  = unix.PathMax - 1
	maxXattr = 64 << 10 // XATTR_SIZE_MAX
	// flushFrom is the size from which a file's write-back is started at
	// once, so that the one syncfs at the end finds little left to do.
	flushFrom = 256 << 10
	blockSize = 4096
)

// Result is what Layer made.
type Result struct {
	Bytes  uint64 // on disk, files rounded up to blocks
	Inodes uint64
	Root   bool // the tar has an entry for the root directory
	Opaque bool // nothing of the layers below shows; overlayfs does not look for this on a root, so who mounts must

	// What only the layers below know; see Settle.
	Parents []string // directories made because an entry implied them, parents first
	Links   []Link   // hard links whose target this layer does not have

	// Sums are the CRC-32C of what was written into regular files, by inode
	// number. Files that are gone again may still have one.
	Sums map[uint64]uint32
}

// Link is a hard link that waits for its target.
type Link struct{ Name, Target string }

// Alone reports whether the layer is right on whatever lies below it.
func (r Result) Alone() bool { return len(r.Parents) == 0 && len(r.Links) == 0 }

// Layer unpacks the tar r into the directory dir, which must be empty. A tar
// that is malformed or hostile is errkind.InvalidArgument, one over a limit
// errkind.ResourceExhausted; the error names the entry.
func Layer(ctx context.Context, r io.Reader, dir string, limits Limits) (Result, error) {
	t, err := openTree(dir)
	if err != nil {
		return Result{}, err
	}
	defer t.close()
	u := &unpacker{
		tree:   t,
		limits: limits,
		mtimes: map[string]unix.Timespec{},
		sums:   map[uint64]uint32{},
		buf:    make([]byte, 256<<10),
	}
	tr := tar.NewReader(r)
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return Result{}, badTar("cannot unpack layer", err)
		}
		if n > limits.Entries {
			return Result{}, errkind.New(errkind.ResourceExhausted, "cannot unpack layer: it has more than %d entries", limits.Entries)
		}
		if err := u.entry(h, tr); err != nil {
			return Result{}, entryError(h.Name, err)
		}
	}
	if err := u.finish(); err != nil {
		return Result{}, err
	}
	return Result{Bytes: t.bytes, Inodes: t.inodes, Root: u.root, Opaque: u.opaque, Parents: t.impliedDirs(), Links: u.links, Sums: u.sums}, nil
}

// unpacker is the state of one Layer call.
type unpacker struct {
	tree    *tree
	limits  Limits
	written int64
	root    bool
	opaque  bool
	links   []Link
	mtimes  map[string]unix.Timespec // of directories, set last since each entry in one changes it
	sums    map[uint64]uint32
	buf     []byte
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if name == "" {
		return u.rootEntry(h)
	}
	if isAufsOwn(name) {
		return nil
	}
	dirName, base := path.Split(name)
	dir, err := u.tree.dir(strings.TrimSuffix(dirName, "/"))
	if err != nil {
		return err
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return u.whiteout(dir, hidden)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse: //nolint:staticcheck // old tars have TypeRegA
		return u.file(dir, base, h, r)
	case tar.TypeDir:
		u.mtimes[name] = timespec(h)
		delete(u.tree.implied, name)
		return u.directory(dir, base, h)
	case tar.TypeSymlink:
		return u.symlink(dir, base, h)
	case tar.TypeLink:
		return u.link(dir, base, name, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.node(dir, base, h)
	}
	return errkind.New(errkind.InvalidArgument, "type %q is not known", h.Typeflag)
}

func (u *unpacker) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return errkind.New(errkind.InvalidArgument, "the root of a layer is a directory")
	}
	u.root = true
	u.mtimes[""] = timespec(h)
	return setDirectory(u.tree.root, h)
}

func (u *unpacker) file(dir *os.File, base string, h *tar.Header, r io.Reader) error {
	if u.written += h.Size; h.Size < 0 || u.written > u.limits.Bytes || u.written < 0 {
		return errkind.New(errkind.ResourceExhausted, "the layer has more than %d bytes", u.limits.Bytes)
	}
	var f *os.File
	err := u.tree.create(dir, base, func() error {
		fd, err := unix.Openat(int(dir.Fd()), base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		f = os.NewFile(uintptr(fd), base)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	// The wrapper also hides the file's ReadFrom, which would bring a buffer of its own.
	w := &summer{w: f}
	n, err := io.CopyBuffer(w, r, u.buf)
	if err != nil {
		return err
	}
	u.tree.bytes += roundUp(n)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	u.sums[st.Ino] = w.sum
	if err := setFile(f, h); err != nil {
		return err
	}
	if n >= flushFrom {
		// A hint: where the file system does not know it, syncfs does it all.
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return nil
}

// summer sums what is written through it.
type summer struct {
	w   io.Writer
	sum uint32
}

func (s *summer) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.sum = crc32.Update(s.sum, crc32.MakeTable(crc32.Castagnoli), p[:n])
	return n, err
}

func (u *unpacker) directory(dir *os.File, base string, h *tar.Header) error {
	d, err := openDirAt(dir, base)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		d, err = u.tree.mkdir(dir, base)
	}
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return setDirectory(d, h)
}

func (u *unpacker) symlink(dir *os.File, base string, h *tar.Header) error {
	if h.Linkname == "" || len(h.Linkname) > maxPath {
		return errkind.New(errkind.InvalidArgument, "its target has %d bytes, not 1 to %d", len(h.Linkname), maxPath)
	}
	err := u.tree.create(dir, base, func() error { return unix.Symlinkat(h.Linkname, int(dir.Fd()), base) })
	if err != nil {
		return err
	}
	return setOther(dir, base, h)
}

func (u *unpacker) node(dir *os.File, base string, h *tar.Header) error {
	mode, dev := uint32(unix.S_IFIFO), uint64(0)
	if h.Typeflag != tar.TypeFifo {
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return errkind.New(errkind.InvalidArgument, "device %d:%d cannot exist", h.Devmajor, h.Devminor)
		}
		mode, dev = unix.S_IFBLK, unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if h.Typeflag == tar.TypeChar {
			mode = unix.S_IFCHR
		}
	}
	if mode == unix.S_IFCHR && dev == 0 {
		// No such device works; on disk it is overlay's whiteout. Layers
		// that were archived from an overlay upper directory have them.
		return u.whiteout(dir, base)
	}
	err := u.tree.create(dir, base, func() error { return unix.Mknodat(int(dir.Fd()), base, mode|0o600, int(dev)) })
	if err != nil {
		return err
	}
	return setOther(dir, base, h)
}

func (u *unpacker) link(dir *os.File, base, name string, h *tar.Header) error {
	target, err := cleanName(h.Linkname)
	if err != nil {
		return err
	}
	if target == "" {
		return errkind.New(errkind.InvalidArgument, "it links to the root directory")
	}
	if target == name {
		return nil
	}
	targetDir, targetBase, err := u.tree.find(target)
	if errors.Is(err, fs.ErrNotExist) {
		if err := u.tree.create(dir, base, func() error { return nil }); err != nil {
			return err
		}
		u.links = append(u.links, Link{Name: name, Target: target})
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = targetDir.Close() }()
	err = u.tree.create(dir, base, func() error {
		return unix.Linkat(int(targetDir.Fd()), targetBase, int(dir.Fd()), base, 0)
	})
	if errors.Is(err, unix.EPERM) {
		return errkind.New(errkind.InvalidArgument, "it links to %q, which is a directory", h.Linkname)
	}
	if err == nil {
		u.tree.inodes--
	}
	return err
}

// finish sets the directories' times.
func (u *unpacker) finish() error {
	for name, ts := range u.mtimes {
		d, err := u.tree.open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // a later entry replaced it
		}
		if err != nil {
			return entryError(name, err)
		}
		err = unix.UtimesNanoAt(int(d.Fd()), ".", []unix.Timespec{ts, ts}, 0)
		_ = d.Close()
		if err != nil {
			return entryError(name, err)
		}
	}
	return nil
}

// cleanName makes a tar's name relative to the root; the root itself is "".
func cleanName(name string) (string, error) {
	if len(name) > maxPath {
		return "", errkind.New(errkind.InvalidArgument, "its name has %d bytes, more than %d", len(name), maxPath)
	}
	if strings.ContainsRune(name, 0) {
		return "", errkind.New(errkind.InvalidArgument, "its name has a zero byte")
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", errkind.New(errkind.InvalidArgument, "%q leads out of the layer", name)
	}
	if clean == "." {
		return "", nil
	}
	for c := range strings.SplitSeq(clean, "/") {
		if len(c) > unix.NAME_MAX {
			return "", errkind.New(errkind.InvalidArgument, "a part of its name has %d bytes, more than %d", len(c), unix.NAME_MAX)
		}
	}
	return clean, nil
}

// entryError adds the entry to err and, where err has no kind yet, the kind.
func entryError(name string, err error) error {
	const most = 256
	if len(name) > most {
		name = name[:most] + "..."
	}
	kind := errkind.Of(err)
	switch {
	case kind != errkind.Unknown:
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		kind = errkind.ResourceExhausted
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG):
		kind = errkind.InvalidArgument
	}
	return errkind.New(kind, "cannot unpack entry %q: %w", name, err)
}

// badTar gives what the tar reader says a kind, unless it only passes on what
// the stream below it said.
func badTar(what string, err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errkind.New(errkind.InvalidArgument, "%s: %w", what, err)
	}
	return err
}
