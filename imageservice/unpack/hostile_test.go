package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Entries of tars as an attacker writes them: with all that may do harm where
// a name leads out.

var evil = tar.Header{
	Mode: 0o6777, Uid: 7, Gid: 7, ModTime: time.Unix(1, 0),
	PAXRecords: map[string]string{"SCHILY.xattr.user.evil": "1", "SCHILY.xattr.trusted.evil": "1"},
}

func evilEntry(kind byte, name, link string, size int64) tar.Header {
	h := evil
	h.Typeflag, h.Name, h.Linkname, h.Size = kind, name, link, size
	return h
}

func evilFile(name string) tar.Header         { return evilEntry(tar.TypeReg, name, "", 100) }
func evilDir(name string) tar.Header          { return evilEntry(tar.TypeDir, name, "", 0) }
func evilLink(name, target string) tar.Header { return evilEntry(tar.TypeSymlink, name, target, 0) }
func evilHard(name, target string) tar.Header { return evilEntry(tar.TypeLink, name, target, 0) }

// hostile is one tar of the corpus. Whatever becomes of it, the canary lives;
// what becomes of it is errkind.Unknown if it is to be unpacked.
type hostile struct {
	name    string
	entries func(c *cage) []tar.Header
	want    errkind.Kind
	inside  map[string]string // what is there afterwards, by path: its type
}

func always(headers ...tar.Header) func(*cage) []tar.Header {
	return func(*cage) []tar.Header { return headers }
}

// T-TAR: layers that reach out of their directory by their names and links.
func hostiles() []hostile {
	bad := errkind.InvalidArgument
	return []hostile{
		{"dot dot", always(evilFile("../canary/file")), bad, nil},
		{"dot dot in the middle", always(evilDir("a"), evilFile("a/../../canary/file")), bad, nil},
		{"dot dot as a directory", always(evilDir("..")), bad, nil},
		{"dot dot as a link", always(evilLink("../canary/new", "x")), bad, nil},
		{"dot dot of a whiteout", always(evilFile("../canary/.wh.file")), bad, nil},
		{"dot dot of an opaque directory", always(evilFile("../canary/.wh..wh..opq")), bad, nil},
		{"whiteout of dot dot", always(evilFile("a/.wh...")), bad, nil},
		{"whiteout of dot", always(evilFile("a/.wh..")), bad, nil},
		{"whiteout of nothing", always(evilFile("a/.wh.")), bad, nil},
		{
			"CVE-2014-9356 absolute names", func(c *cage) []tar.Header {
				return []tar.Header{evilFile(c.canary("file")), evilDir(c.canary("dir")), evilFile(c.canary(".wh.empty")), evilFile("///etc/passwd")}
			}, errkind.Unknown, map[string]string{"etc/passwd": "file"},
		},
		{
			"CVE-2014-6407 link and a write through it", func(c *cage) []tar.Header {
				return []tar.Header{evilLink("l", c.canary("")), evilFile("l/file"), evilLink("r", "../canary"), evilFile("r/dir/program"), evilDir("r/empty"), evilFile("r/new/file")}
			}, errkind.Unknown, map[string]string{"l": "link", "canary/dir/program": "file"},
		},
		{
			"CVE-2014-6407 hard link to what is outside", func(c *cage) []tar.Header {
				return []tar.Header{evilHard("h", "../canary/file"), evilFile("h")}
			}, bad, nil,
		},
		{"hard link to an absolute name", func(c *cage) []tar.Header {
			return []tar.Header{evilHard("h", c.canary("file"))}
		}, bad, nil},
		{"GHSA-vh4v-2xq2-g5cg, CVE-2026-50163 hard link through a link", func(c *cage) []tar.Header {
			return []tar.Header{evilLink("l", c.canary("")), evilHard("h", "l/file")}
		}, bad, nil},
		{"CVE-2021-32760 hard link to a link, and its mode, owner, time, attributes", func(c *cage) []tar.Header {
			return []tar.Header{evilLink("l", c.canary("dir/program")), evilHard("h", "l"), evilEntry(tar.TypeLink, "h2", "h", 0)}
		}, errkind.Unknown, map[string]string{"h": "link", "h2": "link"}},
		{"CVE-2021-32760 directory entry over a link to a directory", func(c *cage) []tar.Header {
			return []tar.Header{evilLink("d", c.canary("dir")), evilDir("d"), evilFile("d/file")}
		}, errkind.Unknown, map[string]string{"d": "directory", "d/file": "file"}},
		{"file over a link", func(c *cage) []tar.Header {
			return []tar.Header{evilLink("f", c.canary("file")), evilFile("f")}
		}, errkind.Unknown, map[string]string{"f": "file"}},
		{"file over a link that dangles", func(c *cage) []tar.Header {
			return []tar.Header{evilLink("f", c.canary("new")), evilFile("f")}
		}, errkind.Unknown, map[string]string{"f": "file"}},
		{"fifo and device over links", func(c *cage) []tar.Header {
			null := evilEntry(tar.TypeChar, "n", "", 0)
			null.Devmajor, null.Devminor = 1, 3
			return []tar.Header{evilLink("p", c.canary("file")), evilEntry(tar.TypeFifo, "p", "", 0), evilLink("n", c.canary("dir/program")), null}
		}, errkind.Unknown, map[string]string{"p": "fifo", "n": "device"}},
		{"CVE-2021-29136 the root as a link", always(evilLink(".", "/etc")), bad, nil},
		{"CVE-2021-29136 the root as a link, absolute", always(evilLink("/", "../canary"), evilFile("file")), bad, nil},
		{"the root as a hard link", always(evilHard("./", "x")), bad, nil},
		{"the root as a file", always(evilFile("a/..")), bad, nil},
		{"hard link to the root", always(evilHard("h", "/")), bad, nil},
		{"CVE-2026-17106 link of links", func(c *cage) []tar.Header {
			return []tar.Header{evilDir("a"), evilLink("a/up", ".."), evilLink("a/out", "up/../../canary"), evilFile("a/out/file"), evilLink("b", "a/out/dir"), evilFile("b/program")}
		}, errkind.Unknown, map[string]string{"canary/file": "file"}},
		{"CVE-2026-50162 link in place of a directory that is filled", func(c *cage) []tar.Header {
			return []tar.Header{evilDir("d"), evilFile("d/x"), evilLink("d", c.canary("dir")), evilFile("d/file"), evilFile("d/program")}
		}, errkind.Unknown, map[string]string{"d": "link"}},
		{"link to itself", always(evilLink("l", "l"), evilFile("l/x")), bad, nil},
		{"links in a circle", always(evilLink("a", "b/x"), evilLink("b", "a/x"), evilFile("a/y")), bad, nil},
		{"link into /proc", always(evilLink("p", "/proc/self/root/etc"), evilFile("p/x"), evilLink("q", "/proc/self/cwd"), evilFile("q/x")), errkind.Unknown, map[string]string{"proc/self/root/etc/x": "file"}},
		{"whiteout through a link", func(c *cage) []tar.Header {
			return []tar.Header{evilLink("l", c.canary("")), evilFile("l/.wh.file"), evilFile("l/.wh.dir"), evilFile("l/.wh..wh..opq"), evilFile("l/dir/.wh..wh..opq")}
		}, errkind.Unknown, nil},
		{"whiteout of a link", func(c *cage) []tar.Header {
			return []tar.Header{evilLink("l", c.canary("dir")), evilFile(".wh.l")}
		}, errkind.Unknown, map[string]string{"l": "link"}},
		{"overlay's whiteout and attributes by hand", func(c *cage) []tar.Header {
			d := evilDir("d")
			d.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.redirect": c.canary("dir"), "SCHILY.xattr.trusted.overlay.metacopy": ""}
			return []tar.Header{d, evilEntry(tar.TypeChar, "d/gone", "", 0)}
		}, errkind.Unknown, map[string]string{"d": "directory", "d/gone": "device"}},
		{"entry under a file", always(evilFile("f"), evilFile("f/x")), bad, nil},
		{"entry under a fifo", always(evilEntry(tar.TypeFifo, "f", "", 0), evilFile("f/x")), bad, nil},
		{"whiteout under a file", always(evilFile("f"), evilFile("f/.wh.x"), evilFile("f/.wh..wh..opq")), errkind.Unknown, map[string]string{"f": "file"}},
		{"directory under a link to a file", always(evilFile("f"), evilLink("l", "f"), evilDir("l/x")), bad, nil},
		{"hard link to what is above it", always(evilDir("a"), evilFile("a/b"), evilHard("a", "a/b")), bad, nil},
		{"hard link to a directory", always(evilDir("a"), evilHard("b", "a")), bad, nil},
		{"hard link to itself", always(evilFile("a"), evilHard("a", "a"), evilLink("l", "."), evilHard("l/a", "a")), errkind.Unknown, map[string]string{"a": "file"}},
		{"type that is not known", always(evilEntry('Z', "z", "", 0)), bad, nil},
		{"device that cannot exist", func(*cage) []tar.Header {
			h := evilEntry(tar.TypeBlock, "b", "", 0)
			h.Devmajor = 1 << 12
			return []tar.Header{h}
		}, bad, nil},
		{"owner that cannot exist", func(*cage) []tar.Header {
			h := evilFile("f")
			h.Uid = 1<<32 - 1
			return []tar.Header{h}
		}, bad, nil},
		{"attribute that cannot exist", func(*cage) []tar.Header {
			h := evilFile("f")
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "nonsense"}
			return []tar.Header{h}
		}, bad, nil},
		{"names of one letter by the ten thousand", func(*cage) (all []tar.Header) {
			for i := range 10_000 {
				all = append(all, []tar.Header{evilFile("d"), evilDir("d"), evilLink("d", "d"), evilFile(".wh.d")}[i%4])
			}
			return all
		}, errkind.Unknown, nil},
	}
}

func TestTARHostileNames(t *testing.T) {
	t.Parallel()
	for _, h := range hostiles() {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			c := newCage(t)
			_, err := c.unpack(t, makeTar(t, h.entries(c)...), DefaultLimits(), t.TempDir())
			if got := errkind.Of(err); got != h.want || (err == nil) != (h.want == errkind.Unknown) {
				t.Fatalf("got %v (%v), want %v", err, got, h.want)
			}
			for name, want := range h.inside {
				if got := typeOf(t, filepath.Join(c.dir, name)); got != want {
					t.Errorf("%s is a %s, not a %s", name, got, want)
				}
			}
		})
	}
}

func typeOf(t testing.TB, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	return map[uint32]string{
		unix.S_IFREG: "file", unix.S_IFDIR: "directory", unix.S_IFLNK: "link",
		unix.S_IFIFO: "fifo", unix.S_IFCHR: "device", unix.S_IFBLK: "device",
	}[st.Mode&unix.S_IFMT]
}

// Links of lower layers are as hostile as the layer's own.
func TestTARLinksOfTheLayerBelow(t *testing.T) {
	t.Parallel()
	c := newCage(t)
	lower := t.TempDir()
	for name, target := range map[string]string{"out": c.canary(""), "up": "../../canary", "loop": "loop", "a": "b/a", "b": "a/b", "self": "self/x"} {
		must(t, os.Symlink(target, filepath.Join(lower, name)))
	}
	var headers []tar.Header
	for _, name := range []string{"out", "up", "loop", "a", "b", "self"} {
		headers = append(headers, evilFile(name+"/file"), evilFile(name+"/dir/file"), evilFile(name+"/.wh.empty"))
	}
	headers = append(headers, evilHard("h", "out/hard"))
	if _, err := c.unpack(t, makeTar(t, headers...), DefaultLimits(), lower); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("a hard link to the canary: %v", err)
	}
	c = newCage(t)
	if _, err := c.unpack(t, makeTar(t, headers[:len(headers)-1]...), DefaultLimits(), lower); err != nil {
		t.Error(err)
	}
	// A layer whose own links and those below it lead each other in a circle.
	c = newCage(t)
	circle := t.TempDir()
	must(t, os.Symlink("p/x1", filepath.Join(circle, "x")))
	must(t, os.Symlink("q/y1", filepath.Join(circle, "y")))
	_, err := c.unpack(t, makeTar(t, evilLink("p", "y"), evilLink("q", "x"), evilFile("x/f"), evilFile("x/z/f"), evilFile("y/f"), evilHard("x/h", "f")), DefaultLimits(), circle)
	if !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("got %v", err)
	}
}

// block is a header that no honest writer makes.
func block(name string, kind byte, size int64) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	if size < 1<<33 {
		copy(b[124:], fmt.Sprintf("%011o\x00", size))
	} else {
		b[124] = 0x80
		for i := range 8 {
			b[135-i] = byte(size >> (8 * i))
		}
	}
	copy(b[136:], "00000000000\x00")
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	return sum(b)
}

// sum writes a header's checksum into it.
func sum(b []byte) []byte {
	copy(b[148:156], "        ")
	n := 0
	for _, c := range b {
		n += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", n))
	return b
}

// repeated reads as b, n times.
func repeated(n int, b []byte) io.Reader {
	return &repeater{b: b, left: int64(n) * int64(len(b))}
}

type repeater struct {
	b    []byte
	at   int
	left int64
}

func (r *repeater) Read(p []byte) (n int, err error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	for n < len(p) && r.left > 0 {
		k := copy(p[n:min(len(p), n+int(min(r.left, 1<<20)))], r.b[r.at:])
		n, r.at, r.left = n+k, (r.at+k)%len(r.b), r.left-int64(k)
	}
	return n, nil
}

// generated reads as what next gives, until that is nil.
type generated struct {
	next func(i int) []byte
	i    int
	rest []byte
}

func (g *generated) Read(p []byte) (int, error) {
	if len(g.rest) == 0 {
		if g.rest = g.next(g.i); g.rest == nil {
			return 0, io.EOF
		}
		g.i++
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// oldSparse is a header of GNU's old format with one extent and a real size.
func oldSparse(name string, realSize int64) []byte {
	b := block(name, tar.TypeGNUSparse, 512)
	copy(b[257:], "ustar  \x00")
	copy(b[386:], "00000000000\x0000000001000\x00")
	b[483] = 0x80
	for i := range 8 {
		b[494-i] = byte(realSize >> (8 * i))
	}
	return sum(b)
}

func pax(records ...string) []byte {
	var body bytes.Buffer
	for i := 0; i < len(records); i += 2 {
		n := len(records[i]) + len(records[i+1]) + 3
		n += len(fmt.Sprint(n + len(fmt.Sprint(n))))
		fmt.Fprintf(&body, "%d %s=%s\n", n, records[i], records[i+1])
	}
	return pad(append(block("PaxHeaders", tar.TypeXHeader, int64(body.Len())), body.Bytes()...))
}

func pad(b []byte) []byte { return append(b, make([]byte, (512-len(b)%512)%512)...) }

// hungry are tars that ask for memory, each with what becomes of it.
func hungry() map[string]struct {
	tar  func() io.Reader
	want errkind.Kind
} {
	type tarball = struct {
		tar  func() io.Reader
		want errkind.Kind
	}
	bad, big, ok := errkind.InvalidArgument, errkind.ResourceExhausted, errkind.Unknown
	deep := strings.Repeat("a/", 2040)
	long := func(i int) string { return fmt.Sprintf("%d/%s", i, strings.Repeat("/nnnnnnn", 480)) }
	return map[string]tarball{
		"CVE-2022-2879 PAX header of 1 GiB": {func() io.Reader {
			return io.MultiReader(bytes.NewReader(block("p", tar.TypeXHeader, 1<<30)), repeated(1<<30/16, []byte("16 comment=12345\n")[:16]))
		}, bad},
		"PAX global header of 1 GiB": {func() io.Reader {
			return io.MultiReader(bytes.NewReader(block("p", tar.TypeXGlobalHeader, 1<<30)), io.LimitReader(zeros{}, 1<<30))
		}, bad},
		"GNU long name of 1 GiB": {func() io.Reader {
			return io.MultiReader(bytes.NewReader(block("n", tar.TypeGNULongName, 1<<30)), repeated(1<<30, []byte("n")))
		}, bad},
		"name of 1 MiB": {func() io.Reader {
			return io.MultiReader(bytes.NewReader(block("n", tar.TypeGNULongName, 1<<20)), repeated(1<<20, []byte("n")), bytes.NewReader(block("n", tar.TypeReg, 0)))
		}, bad},
		"link target of 1 MiB": {func() io.Reader {
			return io.MultiReader(bytes.NewReader(block("n", tar.TypeGNULongLink, 1<<20)), repeated(1<<20, []byte("n")), bytes.NewReader(block("n", tar.TypeSymlink, 0)))
		}, bad},
		"GNU sparse file of 2^60 bytes": {func() io.Reader { return bytes.NewReader(pad(append(oldSparse("s", 1<<60), 'x'))) }, big},
		"PAX sparse file of 2^60 bytes": {func() io.Reader {
			return bytes.NewReader(append(pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "s", "GNU.sparse.realsize", "1152921504606846976"),
				pad(append(block("s", tar.TypeReg, 512), "1\n0\n0\n"...))...))
		}, big},
		"CVE-2025-58183 PAX sparse map of 2^60 entries": {func() io.Reader {
			return io.MultiReader(bytes.NewReader(pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "s", "GNU.sparse.realsize", "1000000")),
				bytes.NewReader(block("s", tar.TypeReg, 1<<32)), strings.NewReader("1152921504606846976\n"), repeated(1<<28, []byte("0\n0\n")))
		}, bad},
		"CVE-2026-32288 old GNU sparse map without end": {func() io.Reader {
			head := oldSparse("s", 1<<20)
			head[482] = 1
			extension := make([]byte, 512)
			for i := range 21 {
				copy(extension[24*i:], "00000000000\x0000000000000\x00")
			}
			extension[504] = 1
			return io.MultiReader(bytes.NewReader(sum(head)), repeated(1<<21, extension))
		}, bad},
		"directories that deep names imply": {func() io.Reader {
			return &generated{next: func(i int) []byte {
				if i == 2000 {
					return nil
				}
				return append(pax("path", fmt.Sprintf("%d/%sf", i, deep)), block("f", tar.TypeReg, 0)...)
			}}
		}, big},
		"hard links to long names below": {func() io.Reader {
			return &generated{next: func(i int) []byte {
				if i == 100_000 {
					return nil
				}
				return append(pax("path", fmt.Sprint("l", i), "linkpath", long(i)), block("l", tar.TypeLink, 0)...)
			}}
		}, big},
		"headers of nothing but attributes": {func() io.Reader {
			return &generated{next: func(i int) []byte {
				if i == 500 {
					return nil
				}
				return append(pax("path", "f", "SCHILY.xattr.user.x", strings.Repeat("x", 900<<10)), block("f", tar.TypeReg, 0)...)
			}}
		}, bad},
		"concatenated tars": {func() io.Reader {
			one := append(block("a", tar.TypeReg, 0), make([]byte, 1024)...)
			return repeated(1<<18, one)
		}, ok},
		"trailing garbage": {func() io.Reader {
			return io.MultiReader(bytes.NewReader(append(block("a", tar.TypeReg, 0), make([]byte, 1024)...)), repeated(1<<20, []byte("garbage")))
		}, ok},
		"garbage": {func() io.Reader { return repeated(1<<20, []byte("garbage")) }, bad},
	}
}

const hungryVar = "BERTH_TEST_HUNGRY_TAR" // names the tar that this process is to unpack

// T-TAR, T-LIM: each tar is unpacked by a process of its own, whose peak of
// memory is the measure.
func TestTARMemory(t *testing.T) {
	t.Parallel()
	needRoot(t)
	if name := os.Getenv(hungryVar); name != "" {
		h := hungry()[name]
		r, err := Layer(context.Background(), h.tar(), os.Getenv(hungryVar+"_DIR"), Limits{Entries: 1 << 20, Bytes: 2 << 30}, nil)
		if err == nil && !r.Alone() {
			_, err = Settle(context.Background(), os.Getenv(hungryVar+"_DIR"), r, nil)
		}
		fmt.Printf("kind=%v\nerr=%v\n%s", int(errkind.Of(err)), err, peak(t))
		return
	}
	for name, h := range hungry() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCage(t)
			out := child(t, "TestTARMemory", hungryVar+"="+name, hungryVar+"_DIR="+c.dir)
			if want := fmt.Sprintf("kind=%d\n", h.want); !strings.Contains(out, want) || h.want == errkind.Unknown && !strings.Contains(out, "err=<nil>") {
				t.Errorf("it ended otherwise than with %v:\n%s", h.want, out)
			}
			var kb int
			if _, err := fmt.Sscanf(out[strings.Index(out, "VmHWM:")+len("VmHWM:"):], "%d kB", &kb); err != nil || kb >= 256<<10 {
				t.Errorf("its peak is %d KiB (%v)", kb, err)
			}
			t.Logf("peak %d MiB", kb>>10)
			c.alive(t)
		})
	}
}

// Growth of a layer's work with its size, in CPU time of the thread that does
// it: eight times the entries may take 24 times as long, quadratic work takes
// 64 times.
func TestTARLinear(t *testing.T) {
	t.Parallel()
	needRoot(t)
	deep := strings.Repeat("d/", 100)
	for name, next := range map[string]func(i int) tar.Header{
		"GHSA-rp3h-jf77-q9p4 opaque directory repeated": func(i int) tar.Header {
			if i%2 == 0 {
				return tar.Header{Name: fmt.Sprint("d/", i/2), Typeflag: tar.TypeReg}
			}
			return tar.Header{Name: "d/.wh..wh..opq", Typeflag: tar.TypeReg}
		},
		"whiteout repeated":   func(int) tar.Header { return tar.Header{Name: "d/.wh.x", Typeflag: tar.TypeReg} },
		"whiteouts":           func(i int) tar.Header { return tar.Header{Name: fmt.Sprint("d/.wh.", i), Typeflag: tar.TypeReg} },
		"duplicate file":      func(int) tar.Header { return tar.Header{Name: "d/x", Typeflag: tar.TypeReg, Size: 1} },
		"duplicate directory": func(int) tar.Header { return tar.Header{Name: deep, Typeflag: tar.TypeDir} },
		"links to one file": func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint("l", i/1000, "/", i), Typeflag: tar.TypeSymlink, Linkname: deep}
		},
		"implied directories": func(i int) tar.Header { return tar.Header{Name: fmt.Sprint("a/", i, "/b/f"), Typeflag: tar.TypeReg} },
		"hard links below": func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint("h/", i), Typeflag: tar.TypeLink, Linkname: "below"}
		},
		"hard links of a link": func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint(i + 1), Typeflag: tar.TypeLink, Linkname: fmt.Sprint(i)}
		},
		"links below": func(i int) tar.Header {
			return tar.Header{Name: fmt.Sprint("s", i%1000, "/", i), Typeflag: tar.TypeReg}
		},
	} {
		t.Run(name, func(t *testing.T) {
			// On a file system of its own: what others remove slows down ext4.
			root := t.TempDir()
			must(t, unix.Mount("tmpfs", root, "tmpfs", 0, ""))
			t.Cleanup(func() { must(t, unix.Unmount(root, unix.MNT_DETACH)) })
			lower := filepath.Join(root, "lower")
			must(t, os.Mkdir(lower, 0o755))
			must(t, os.Mkdir(filepath.Join(lower, "real"), 0o755))
			for _, name := range []string{"0", "below"} {
				must(t, os.WriteFile(filepath.Join(lower, name), nil, 0o644))
			}
			for i := range 1000 {
				must(t, os.Symlink("real", filepath.Join(lower, fmt.Sprint("s", i))))
			}
			cost := func(n int) time.Duration {
				headers := make([]tar.Header, n)
				for i := range headers {
					headers[i] = next(i)
				}
				tarball := makeTar(t, headers...)
				dir, err := os.MkdirTemp(root, "")
				must(t, err)
				return threadTime(t, func() {
					r, err := Layer(context.Background(), bytes.NewReader(tarball), dir, DefaultLimits(), nil)
					if err == nil && !r.Alone() {
						_, err = Settle(context.Background(), dir, r, []string{lower})
					}
					must(t, err)
				})
			}
			const n = 500
			// What grows with the square does so each time, what a busy machine adds not.
			for left := 3; ; left-- {
				few, many := cost(n), cost(8*n)
				t.Logf("%v for %d entries, %v for %d", few, n, many, 8*n)
				if many <= 24*max(few, 5*time.Millisecond) {
					break
				}
				if left == 1 {
					t.Fatalf("it takes %v for %d entries and %v for %d", few, n, many, 8*n)
				}
			}
		})
	}
}

// threadTime gives the CPU time that f takes.
func threadTime(t testing.TB, f func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_THREAD, &before))
	f()
	must(t, unix.Getrusage(unix.RUSAGE_THREAD, &after))
	return time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
}
