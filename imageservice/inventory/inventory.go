// Package inventory writes down what a layer's directory holds, and finds
// later whether it still does.
//
// The model: an inventory is one file beside a layer's directory, with a line
// for each file below it: kind, mode, owner, size, time and a CRC-32C of the
// content (of a symbolic link: of its target; of a device: its number), and of
// directories and executables one of the extended attributes, where overlayfs
// has its marks and the kernel capabilities; a look at every file's would cost
// each pull more than it finds. The sums of contents are those of the bytes
// that were written, taken before they reached the disk. Inventories of version
// 1 have neither times nor attributes.
//
// The law: it finds what storage breaks, such as blocks that were never
// written, bits that flipped, or files that are gone. It is no defence against
// one who can write to the store, which a checksum beside the data never is.
// A cut or damaged inventory is told from a sound one: it is compressed with a
// checksum and has a first and a last line of its own.
package inventory

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const (
	first    = "berth inventory 2"
	firstOld = "berth inventory 1"
	last     = "end"
)

// castagnoli is the table of the sums; the CPU has an instruction for it.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Depth is how closely Verify looks.
type Depth int

// The depths.
const (
	Metadata Depth = iota // everything but the contents of regular files
	Contents              // everything
)

// Write makes at file the inventory of the directory dir. sums are the CRC-32C
// of regular files' contents by inode number; a file without one is read.
func Write(file, dir string, sums map[uint64]uint32) (err error) {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write inventory: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10))
	if err != nil {
		return err
	}
	w := bufio.NewWriter(z)
	fmt.Fprintln(w, first)
	root, err := openRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	line := make([]byte, 0, 256)
	var attrs attributes
	err = walk(context.Background(), root, func(name string, at place, st *unix.Stat_t) error {
		mark, err := markOf(root, name, st, sums)
		if err != nil {
			return err
		}
		attrsSum := uint32(0)
		if attributed(st) {
			if attrsSum, err = attrs.sum(at.path()); err != nil {
				return &os.PathError{Op: "listxattr", Path: name, Err: err}
			}
		}
		line = append(strconv.AppendQuote(describe(line[:0], st, mark, attrsSum), name), '\n')
		_, err = w.Write(line)
		return err
	})
	fmt.Fprintln(w, last)
	if err = errors.Join(err, w.Flush(), z.Close()); err != nil {
		return fmt.Errorf("cannot write inventory of %s: %w", dir, err)
	}
	return nil
}

// describe spells what is to stay of a file. The name follows.
func describe(b []byte, st *unix.Stat_t, mark uint64, attrs uint32) []byte {
	b = append(strconv.AppendUint(b, uint64(st.Mode), 8), ' ')
	b = append(strconv.AppendUint(b, uint64(st.Uid), 10), ' ')
	b = append(strconv.AppendUint(b, uint64(st.Gid), 10), ' ')
	b = append(strconv.AppendInt(b, sizeOf(st), 10), ' ')
	b = append(strconv.AppendUint(b, mark, 16), ' ')
	b = append(strconv.AppendInt(b, st.Mtim.Nano(), 10), ' ')
	return append(strconv.AppendUint(b, uint64(attrs), 16), ' ')
}

// sizeOf is 0 for a directory: its size is the file system's affair.
func sizeOf(st *unix.Stat_t) int64 {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return 0
	}
	return st.Size
}

// markOf is the number that stands for what is in a file. sums may be nil.
func markOf(root *os.File, name string, st *unix.Stat_t, sums map[uint64]uint32) (uint64, error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if sum, ok := sums[st.Ino]; ok {
			return uint64(sum), nil
		}
		return contentSum(root, name)
	case unix.S_IFLNK:
		return targetSum(root, name)
	case unix.S_IFCHR, unix.S_IFBLK:
		return st.Rdev, nil
	}
	return 0, nil
}

func contentSum(root *os.File, name string) (uint64, error) {
	f, err := openBelow(root, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	h := crc32.New(castagnoli())
	if _, err := io.Copy(h, f); err != nil {
		return 0, err
	}
	return uint64(h.Sum32()), nil
}

func targetSum(root *os.File, name string) (uint64, error) {
	f, err := openBelow(root, name, unix.O_PATH)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return 0, &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	return uint64(crc32.Checksum(buf[:n], castagnoli())), nil
}

// visitor is told of a file by its name below the root, by its place, and by
// what stat says.
type visitor func(name string, at place, st *unix.Stat_t) error

// place is a file by its directory's handle.
type place struct {
	dir  *os.File
	base string
}

func (p place) path() string { return procPath(p.dir) + "/" + p.base }

// walk calls visit for all below root, each directory before what is in it and
// otherwise by name. The root itself is ".".
func walk(ctx context.Context, root *os.File, visit visitor) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return err
	}
	if err := visit(".", place{root, "."}, &st); err != nil {
		return err
	}
	for todo := []string{"."}; len(todo) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		below, err := visitDir(root, dir, visit)
		if err != nil {
			return err
		}
		slices.Reverse(below)
		todo = append(todo, below...)
	}
	return nil
}

// visitDir visits what is in one directory and gives its subdirectories.
func visitDir(root *os.File, dir string, visit visitor) (below []string, err error) {
	d, err := openBelow(root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, base := range names {
		name := path.Join(dir, base)
		var st unix.Stat_t
		if err := unix.Fstatat(int(d.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, &os.PathError{Op: "stat", Path: name, Err: err}
		}
		if err := visit(name, place{d, base}, &st); err != nil {
			return nil, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			below = append(below, name)
		}
	}
	return below, nil
}

func openRoot(dir string) (*os.File, error) {
	return os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// openBelow follows no link at all: what is to be opened was seen as no link.
func openBelow(root *os.File, name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
		Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Fault is one file that is not as the inventory says. File is "" if it is
// the inventory itself that cannot be used.
type Fault struct{ File, What string }

// maxFaults is how many faults of one layer are told. One is enough to fetch
// it again; the rest is for people.
const maxFaults = 100

// Verify compares the directory dir with its inventory at file. It fails only
// if it was stopped; whatever it cannot read is a fault.
func Verify(ctx context.Context, file, dir string, depth Depth) ([]Fault, error) {
	root, err := openRoot(dir)
	if err != nil {
		return []Fault{{What: reason(err)}}, nil
	}
	defer func() { _ = root.Close() }()
	var faults []Fault
	seen := map[string]bool{}
	var attrs attributes
	err = read(file, func(e entry) error {
		if err := ctx.Err(); err != nil || len(faults) >= maxFaults {
			return errors.Join(err, io.EOF)
		}
		seen[e.name] = true
		if what := e.differs(root, depth, &attrs); what != "" {
			faults = append(faults, Fault{e.name, what})
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return append(faults, Fault{What: "its inventory cannot be read: " + err.Error()}), nil
	}
	if len(faults) < maxFaults {
		err = walk(ctx, root, func(name string, _ place, _ *unix.Stat_t) error {
			if !seen[name] && len(faults) < maxFaults {
				faults = append(faults, Fault{name, "it is not of the layer"})
			}
			return nil
		})
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil && len(faults) == 0 {
		faults = append(faults, Fault{What: reason(err)})
	}
	return faults, nil
}

// reason gives what an operating system call says, without the path.
func reason(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return "it cannot be read: " + err.Error()
}

// entry is one line of an inventory.
type entry struct {
	mode, uid, gid uint32
	size           int64
	mark           uint64
	name           string

	mtime int64 // nanoseconds since 1970
	attrs uint32
	old   bool // of version 1: mtime and attrs are not known
}

// differs tells how the file below root is not the entry's; "" if it is.
func (e entry) differs(root *os.File, depth Depth, attrs *attributes) string {
	f, err := openBelow(root, e.name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "it is gone"
	}
	if err != nil {
		return reason(err)
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	var attrsSum uint32
	if err == nil && !e.old && attributed(&st) {
		attrsSum, err = attrs.sum(procPath(f))
	}
	switch {
	case err != nil:
		return reason(err)
	case st.Mode != e.mode:
		return fmt.Sprintf("its mode is %o and was %o", st.Mode, e.mode)
	case st.Uid != e.uid || st.Gid != e.gid:
		return fmt.Sprintf("its owner is %d:%d and was %d:%d", st.Uid, st.Gid, e.uid, e.gid)
	case sizeOf(&st) != e.size:
		return fmt.Sprintf("it has %d bytes and had %d", st.Size, e.size)
	}
	if depth == Contents || st.Mode&unix.S_IFMT != unix.S_IFREG {
		mark, err := markOf(root, e.name, &st, nil)
		if err != nil {
			return reason(err)
		}
		if mark != e.mark {
			return "its content differs"
		}
	}
	switch {
	case e.old:
	case st.Mtim.Nano() != e.mtime:
		return fmt.Sprintf("its time is %s and was %s", spell(st.Mtim.Nano()), spell(e.mtime))
	case attrsSum != e.attrs:
		return "its extended attributes differ"
	}
	return ""
}

// read calls use for each entry of the inventory at file. What use returns
// ends it.
func read(file string, use func(entry) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	const longest = 5 * unix.PathMax // a name quoted, with numbers before it
	lines := bufio.NewScanner(z)
	lines.Buffer(make([]byte, 0, 4096), longest)
	lines.Scan()
	old := lines.Text() == firstOld
	if lines.Text() != first && !old {
		return errors.Join(lines.Err(), errkind.New(errkind.DataLoss, "it does not begin as one"))
	}
	for lines.Scan() {
		if lines.Text() == last {
			lines.Scan() // to the very end, where the decompressor compares its checksum
			return lines.Err()
		}
		e, err := parse(lines.Text(), old)
		if err != nil {
			return err
		}
		if err := use(e); err != nil {
			return err
		}
	}
	return errors.Join(lines.Err(), errkind.New(errkind.DataLoss, "it is cut"))
}

func parse(line string, old bool) (e entry, err error) {
	bad := errkind.New(errkind.DataLoss, "its line %.80q makes no sense", line)
	want := 8
	if old {
		want = 6
	}
	fields := strings.SplitN(line, " ", want)
	if len(fields) != want {
		return e, bad
	}
	mode, err1 := strconv.ParseUint(fields[0], 8, 32)
	uid, err2 := strconv.ParseUint(fields[1], 10, 32)
	gid, err3 := strconv.ParseUint(fields[2], 10, 32)
	size, err4 := strconv.ParseInt(fields[3], 10, 64)
	mark, err5 := strconv.ParseUint(fields[4], 16, 64)
	name, err6 := strconv.Unquote(fields[want-1])
	if errors.Join(err1, err2, err3, err4, err5, err6) != nil {
		return e, bad
	}
	e = entry{mode: uint32(mode), uid: uint32(uid), gid: uint32(gid), size: size, mark: mark, name: name, old: old}
	if old {
		return e, nil
	}
	mtime, err7 := strconv.ParseInt(fields[5], 10, 64)
	attrs, err8 := strconv.ParseUint(fields[6], 16, 32)
	if errors.Join(err7, err8) != nil {
		return e, bad
	}
	e.mtime, e.attrs = mtime, uint32(attrs)
	return e, nil
}

// spell writes a time for people.
func spell(nano int64) string { return time.Unix(0, nano).UTC().Format(time.RFC3339Nano) }
