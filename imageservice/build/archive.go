package build

import (
	"archive/tar"
	"bufio"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/imageservice/inflate"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// archive is a tar as a tree: its bytes in a file without a name, what is in
// it in an index in memory. Nothing of it becomes a file of the host, so that
// neither names nor links in it can lead anywhere.
type archive struct {
	file *os.File
	root *member
}

type member struct {
	node
	offset int64              // of a regular file's content
	below  map[string]*member // of a directory
}

var _ tree = (*archive)(nil)

func (a *archive) Close() error { return a.file.Close() }

func (a *archive) find(name string) (*member, error) {
	m := a.root
	for _, c := range components(name) {
		next := m.below[c]
		if next == nil {
			return nil, &fs.PathError{Op: "find", Path: name, Err: fs.ErrNotExist}
		}
		m = next
	}
	return m, nil
}

func (a *archive) lstat(name string) (*node, error) {
	m, err := a.find(name)
	if err != nil {
		return nil, err
	}
	return &m.node, nil
}

func (a *archive) names(name string) ([]string, error) {
	m, err := a.find(name)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(m.below)), nil
}

func (a *archive) open(name string) (io.ReadCloser, error) {
	m, err := a.find(name)
	if err != nil {
		return nil, err
	}
	if !m.is(unix.S_IFREG) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EINVAL}
	}
	return io.NopCloser(io.NewSectionReader(a.file, m.offset, m.size)), nil
}

// archiveLimits bound one archive.
type archiveLimits struct {
	bytes   int64 // of files
	entries int
	depth   int
	plain   bool // nothing is kept of owners, attributes and devices
}

// emptyArchive has nothing but a root.
func emptyArchive() *archive {
	return &archive{root: &member{node: node{mode: unix.S_IFDIR | 0o755}, below: map[string]*member{}}}
}

// readArchive reads the tar r, compressed or not, to its end and keeps the
// contents in a file of dir that has no name.
func readArchive(ctx context.Context, r io.Reader, dir string, limits archiveLimits) (*archive, error) {
	a := emptyArchive()
	var err error
	if a.file, err = nameless(dir); err != nil {
		return nil, err
	}
	if err := a.read(ctx, r, limits); err != nil {
		_ = a.Close()
		return nil, err
	}
	return a, nil
}

func (a *archive) read(ctx context.Context, r io.Reader, limits archiveLimits) error {
	plain, err := decompress(r)
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	in := &spooler{limits: limits, archive: a, out: bufio.NewWriterSize(a.file, 1<<20)}
	tr := tar.NewReader(plain)
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			// Whoever sends the rest is not to find the pipe closed.
			if _, err := io.Copy(io.Discard, plain); err != nil {
				return err
			}
			return in.out.Flush()
		}
		if err != nil {
			return errkind.New(max(errkind.Of(err), errkind.InvalidArgument), "it is no tar: %w", err)
		}
		if n > limits.entries {
			return errkind.New(errkind.ResourceExhausted, "it has more than %d files and directories", limits.entries)
		}
		if err := in.add(h, tr); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// nameless makes a file below dir that goes with its descriptor.
func nameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir), nil
	}
	// Not every file system has such files.
	f, err := os.CreateTemp(dir, "spool-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// decompress knows what package inflate does, and bzip2.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case strings.HasPrefix(string(magic), "BZh"):
		return io.NopCloser(bzip2.NewReader(b)), nil
	case string(magic) == "\xfd7zXZ\x00":
		return nil, errkind.New(errkind.Unimplemented, "it is compressed by xz, which is not supported; use gzip, zstd or bzip2")
	}
	return inflate.Reader(b)
}

// isArchive tells whether the file begins like a tar, compressed or not.
func isArchive(r io.Reader) (bool, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if string(magic) == "\xfd7zXZ\x00" {
		return true, nil // to be refused by decompress, with its reason
	}
	plain, err := decompress(b)
	if err != nil {
		return false, nil
	}
	defer func() { _ = plain.Close() }()
	_, err = tar.NewReader(plain).Next()
	return err == nil, nil
}

// maxWords bounds what an archive's index says in words, in bytes: a million
// names of a usual length.
const maxWords = 128 << 20

// spooler fills an archive.
type spooler struct {
	limits  archiveLimits
	archive *archive
	out     *bufio.Writer
	at      int64
	made    int // members, with the directories that a name implies
	words   int // bytes of names, targets and attributes, which are kept in memory
}

func (s *spooler) add(h *tar.Header, r io.Reader) error {
	parts := components(h.Name)
	if slices.Contains(parts, "..") {
		return errkind.New(errkind.InvalidArgument, "its name leads out by ..")
	}
	for _, c := range parts {
		if len(c) > unix.NAME_MAX {
			return errkind.New(errkind.InvalidArgument, "%.50q... is longer than a file's name can be", c)
		}
	}
	if len(parts) > s.limits.depth {
		return errkind.New(errkind.ResourceExhausted, "it lies more than %d directories deep", s.limits.depth)
	}
	m := &member{node: node{
		mode: uint32(h.Mode & 0o7777), uid: h.Uid, gid: h.Gid, mtime: unix.NsecToTimespec(h.ModTime.UnixNano()),
	}}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && !s.limits.plain && !strings.HasPrefix(name, "trusted.overlay.") {
			if m.xattrs == nil {
				m.xattrs = map[string]string{}
			}
			m.xattrs[name] = value
			s.words += len(name) + len(value)
		}
	}
	if s.words += len(h.Name) + len(h.Linkname); s.words > maxWords {
		return errkind.New(errkind.ResourceExhausted, "names, links and attributes have more than %d bytes together", maxWords)
	}
	if s.limits.plain {
		m.uid, m.gid = 0, 0
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeSymlink && h.Typeflag != tar.TypeLink {
			return nil // of the machine from which it comes
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		m.mode |= unix.S_IFDIR
		m.below = map[string]*member{}
	case tar.TypeReg:
		if err := s.content(m, r); err != nil {
			return err
		}
	case tar.TypeSymlink:
		m.mode, m.link = unix.S_IFLNK|0o777, h.Linkname
	case tar.TypeLink:
		target, err := s.archive.find(h.Linkname)
		if err != nil || target.isDir() {
			return errkind.New(errkind.InvalidArgument, "it is a link to %q, which is no file of the archive", h.Linkname)
		}
		m.node, m.offset = target.node, target.offset
	case tar.TypeChar:
		m.mode, m.rdev = m.mode|unix.S_IFCHR, unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	case tar.TypeBlock:
		m.mode, m.rdev = m.mode|unix.S_IFBLK, unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	case tar.TypeFifo:
		m.mode |= unix.S_IFIFO
	default:
		return nil // such as global headers
	}
	return s.put(parts, m)
}

// content keeps a regular file's bytes.
func (s *spooler) content(m *member, r io.Reader) error {
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(s.out, sum), io.LimitReader(r, s.limits.bytes-s.at+1))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errkind.New(errkind.InvalidArgument, "the archive ends in the middle of it")
	}
	if err != nil {
		return err
	}
	m.mode |= unix.S_IFREG
	m.offset, m.size, m.sum = s.at, n, digest.NewDigest(digest.SHA256, sum)
	if s.at += n; s.at > s.limits.bytes {
		return errkind.New(errkind.ResourceExhausted, "with it the files have more than %d bytes", s.limits.bytes)
	}
	return nil
}

// put gives m its place. Later entries win, but directories merge.
func (s *spooler) put(parts []string, m *member) error {
	if len(parts) == 0 {
		if m.isDir() {
			m.below = s.archive.root.below
			s.archive.root = m
		}
		return nil
	}
	dir := s.archive.root
	for _, c := range parts[:len(parts)-1] {
		next := dir.below[c]
		if next == nil || !next.isDir() {
			next = &member{node: node{mode: unix.S_IFDIR | 0o755}, below: map[string]*member{}}
			dir.below[c] = next
			s.made++
		}
		dir = next
	}
	base := parts[len(parts)-1]
	if old := dir.below[base]; old.dir() && m.isDir() {
		m.below = old.below
	}
	dir.below[base] = m
	if s.made++; s.made > s.limits.entries {
		return errkind.New(errkind.ResourceExhausted, "it makes more than %d files and directories", s.limits.entries)
	}
	return nil
}

func (m *member) dir() bool { return m != nil && m.isDir() }

// contentSum names what is below name in the archive but for its times.
func (a *archive) contentSum(names []string, limits Limits) (digest.Digest, error) {
	sum := sha256.New()
	for _, name := range names {
		fmt.Fprintf(sum, "source %q\n", path.Clean("/"+name))
		at, n, err := resolve(a, name)
		if err != nil {
			return "", err
		}
		if n == nil {
			continue
		}
		err = walk(a, at, limits.Depth, func(rel, _ string, n *node) error {
			fmt.Fprintf(sum, "%q %o %d %d %d %s %q %d %q\n", rel, n.mode, n.uid, n.gid, n.size, n.sum, n.link, n.rdev, sortedPairs(n.xattrs))
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return digest.NewDigest(digest.SHA256, sum), nil
}

func sortedPairs(m map[string]string) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k, m[k])
	}
	return out
}
