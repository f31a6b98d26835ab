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
// The law: the tar is hostile, and so may be who renames below the directory
// meanwhile. Every name is resolved below a handle of the target directory, in
// which symbolic links lead to where they would in a chroot, and the last
// component is never followed. What was made is given its attributes by a
// handle of itself, never by its name. A name that climbs out by ".." is
// refused. Whatever an author can make large has a limit: entries, bytes, what
// a name makes on the way, what must be remembered until the end. Overlay's
// own attributes are never taken from a tar.
//
// Nothing is cleaned up on failure: the directory is the caller's.
package unpack

import (
	"archive/tar"
	"bufio"
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
	Entries int   // in the tar, and files and directories that it makes
	Bytes   int64 // of all files, unpacked
}

// DefaultLimits are far above every honest layer.
func DefaultLimits() Limits { return Limits{Entries: 4 << 20, Bytes: 1 << 40} }

const (
	maxXattr = 64 << 10 // XATTR_SIZE_MAX
	// flushFrom is the size from which a file's write-back is started at
	// once, so that the one syncfs at the end finds little left to do.
	flushFrom = 256 << 10
	blockSize = 4096
	// pieceSize is what is written at a time. Pieces as a decompressor gives
	// them, which are smaller and end anywhere, cost the page cache twice as much.
	pieceSize = 256 << 10
)

// Result is what Layer made.
type Result struct {
	Bytes  uint64 // on disk, files rounded up to blocks
	Inodes uint64
	Root   bool // the tar has an entry for the root directory
	Opaque bool // nothing of the layers below shows; overlayfs does not look for this on a root, so who mounts must

	// Lost: not every content of the tar is in a file under its name, as later
	// entries took names. What is no file of the layer is told a Journal instead.
	Lost bool

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

// Layer unpacks the tar r into the directory dir, which must be empty, reads r
// to its end, and tells journal of it, which may be nil. A tar that is malformed
// or hostile is errkind.InvalidArgument, one over a limit
// errkind.ResourceExhausted; the error names the entry.
func Layer(ctx context.Context, r io.Reader, dir string, limits Limits, journal Journal) (Result, error) {
	t, err := openTree(dir, limits.Entries+1)
	if err != nil {
		return Result{}, err
	}
	defer t.close()
	src := &source{r: r, journal: journal}
	u := &unpacker{
		src:     src,
		tree:    t,
		limits:  limits,
		pending: map[string]string{},
		sums:    map[uint64]uint32{},
		pieces:  bufio.NewWriterSize(nil, pieceSize),
	}
	tr := tar.NewReader(src)
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return Result{}, src.blame(err)
		}
		if n > limits.Entries {
			return Result{}, errkind.New(errkind.ResourceExhausted, "cannot unpack layer: it has more than %d entries", limits.Entries)
		}
		if err := u.entry(h, tr); err != nil {
			return Result{}, entryError(h.Name, err)
		}
	}
	// What follows the end of the archive is part of its digest.
	if _, err := io.Copy(io.Discard, src); err != nil {
		return Result{}, err
	}
	if err := t.leave(); err != nil {
		return Result{}, err
	}
	return Result{Bytes: t.bytes, Inodes: t.inodes, Root: u.root, Opaque: u.opaque, Lost: t.lost, Parents: t.impliedDirs(), Links: u.links, Sums: u.sums}, nil
}

// unpacker is the state of one Layer call.
type unpacker struct {
	src     *source
	tree    *tree
	limits  Limits
	written int64
	root    bool
	opaque  bool
	links   []Link
	pending map[string]string // targets of links by their names
	sums    map[uint64]uint32
	pieces  *bufio.Writer // of copy
}

// place is where an entry goes. Handle and path of the directory are real,
// whatever links the tar's name leads through.
type place struct {
	dir  *os.File
	base string
	path string
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
	dirName, base := splitPath(name)
	hidden, hides := strings.CutPrefix(base, whiteoutPrefix)
	dir, dirPath, err := u.tree.enter(dirName)
	if hides && errors.Is(err, unix.ENOTDIR) {
		return nil // this layer's file hides all that was in a directory; umoci says so twice
	}
	if err != nil {
		return err
	}
	at := place{dir, base, path.Join(dirPath, base)}
	if len(at.path) > maxPath {
		return unix.ENAMETOOLONG
	}
	if hides {
		return u.whiteout(at, hidden)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse: //nolint:staticcheck // old tars have TypeRegA
		return u.file(at, h, r)
	case tar.TypeDir:
		return u.directory(at, h)
	case tar.TypeSymlink:
		return u.symlink(at, h)
	case tar.TypeLink:
		return u.link(at, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.node(at, h)
	}
	return errkind.New(errkind.InvalidArgument, "type %q is not known", h.Typeflag)
}

func (u *unpacker) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return errkind.New(errkind.InvalidArgument, "the root of a layer is a directory")
	}
	// First, as it would bring the root's old time again.
	if err := u.tree.leave(); err != nil {
		return err
	}
	u.root = true
	return object{File: u.tree.root}.set(h)
}

func (u *unpacker) file(at place, h *tar.Header, r io.Reader) error {
	if u.written += h.Size; h.Size < 0 || u.written > u.limits.Bytes || u.written < 0 {
		return errkind.New(errkind.ResourceExhausted, "the layer has more than %d bytes", u.limits.Bytes)
	}
	var f *os.File
	err := u.tree.create(at.dir, at.base, func() (err error) {
		f, err = makeAt(at.dir, at.base, uint32(h.Mode&0o777))
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	r = &content{r, u.src}
	var onDisk uint64
	if IsSparse(h) {
		onDisk, err = u.holed(f, st.Ino, h.Size, r)
	} else {
		u.src.beginContent(h)
		onDisk, err = u.whole(f, st.Ino, r)
		u.src.endContent()
	}
	if err != nil {
		return err
	}
	u.tree.bytes += onDisk
	if err := u.attributes(object{File: f, made: &st}, h); err != nil {
		return err
	}
	if onDisk >= flushFrom {
		// A hint: where the file system does not know it, syncfs does it all.
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return nil
}

// whole writes the content of a file without holes.
func (u *unpacker) whole(f *os.File, ino uint64, r io.Reader) (onDisk uint64, err error) {
	w := &summer{w: f}
	n, err := u.copy(w, r)
	u.sums[ino] = w.sum
	return OnDisk(n), err
}

// copy brings r to w in pieces that are full but for the last.
func (u *unpacker) copy(w io.Writer, r io.Reader) (int64, error) {
	u.pieces.Reset(w)
	n, err := u.pieces.ReadFrom(r)
	if flushErr := u.pieces.Flush(); err == nil {
		err = flushErr
	}
	return n, err
}

// holed writes the content of a sparse file of size bytes.
func (u *unpacker) holed(f *os.File, ino uint64, size int64, r io.Reader) (onDisk uint64, err error) {
	if err := f.Truncate(size); err != nil {
		return 0, err
	}
	w := &summer{w: &sparseWriter{f: f, taken: &onDisk}}
	_, err = u.copy(w, r)
	u.sums[ino] = w.sum
	u.tree.sparse[ino] = onDisk
	return onDisk, err
}

// attributes gives what was just made what its header says of it.
func (u *unpacker) attributes(o object, h *tar.Header) error {
	if u.tree.atACL && h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeSymlink {
		if err := o.dropACLs(); err != nil {
			return err
		}
	}
	return o.set(h)
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

func (u *unpacker) directory(at place, h *tar.Header) error {
	delete(u.tree.implied, at.path)
	d, err := openDirAt(at.dir, at.base)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		d, err = u.tree.mkdir(at.dir, at.base)
	}
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return object{File: d}.set(h)
}

func (u *unpacker) symlink(at place, h *tar.Header) error {
	if h.Linkname == "" || len(h.Linkname) > maxPath {
		return errkind.New(errkind.InvalidArgument, "its target has %d bytes, not 1 to %d", len(h.Linkname), maxPath)
	}
	err := u.tree.create(at.dir, at.base, func() error { return unix.Symlinkat(h.Linkname, int(at.dir.Fd()), at.base) })
	if err != nil {
		return err
	}
	return u.finish(at, h)
}

func (u *unpacker) node(at place, h *tar.Header) error {
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
		return u.whiteout(at, at.base)
	}
	err := u.tree.create(at.dir, at.base, func() error { return unix.Mknodat(int(at.dir.Fd()), at.base, mode|0o600, int(dev)) })
	if err != nil {
		return err
	}
	return u.finish(at, h)
}

// finish gives what was just made, and cannot be opened, its attributes.
func (u *unpacker) finish(at place, h *tar.Header) error {
	o, err := openObject(at.dir, at.base)
	if err != nil {
		return err
	}
	defer func() { _ = o.Close() }()
	return u.attributes(o, h)
}

func (u *unpacker) link(at place, h *tar.Header) error {
	target, err := cleanName(h.Linkname)
	if err != nil {
		return err
	}
	if target == "" {
		return errkind.New(errkind.InvalidArgument, "it links to the root directory")
	}
	targetDir, targetBase, err := u.tree.find(target)
	if errors.Is(err, fs.ErrNotExist) {
		return u.linkLater(at, target)
	}
	if err != nil {
		return err
	}
	defer func() { _ = targetDir.Close() }()
	if same, err := sameFile(targetDir, targetBase, at); same || err != nil {
		return err
	}
	err = u.tree.replace(at.dir, at.base, func() error {
		return unix.Linkat(int(targetDir.Fd()), targetBase, int(at.dir.Fd()), at.base, 0)
	})
	switch {
	case errors.Is(err, unix.EPERM):
		return errkind.New(errkind.InvalidArgument, "it links to %.256q, which is a directory", h.Linkname)
	case errors.Is(err, unix.ENOENT):
		return errkind.New(errkind.InvalidArgument, "it links to %.256q, which it replaces", h.Linkname)
	}
	return err
}

// sameFile reports whether the link at already is its target: linking would
// remove the target first.
func sameFile(targetDir *os.File, targetBase string, at place) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstatat(int(targetDir.Fd()), targetBase, &a, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	err := unix.Fstatat(int(at.dir.Fd()), at.base, &b, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return a.Ino == b.Ino, err
}

// linkLater notes a link whose target this layer does not have, or has as
// such a link itself.
func (u *unpacker) linkLater(at place, target string) error {
	if target == at.path {
		return nil
	}
	if of, ok := u.pending[target]; ok {
		target = of
	}
	if err := u.tree.owe(at.path, target); err != nil {
		return err
	}
	if err := u.tree.clear(at.dir, at.base); err != nil {
		return err
	}
	u.pending[at.path] = target
	u.links = append(u.links, Link{Name: at.path, Target: target})
	return nil
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
