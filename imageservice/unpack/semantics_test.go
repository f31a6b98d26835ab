package unpack

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func lstat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

func attribute(path, name string) string {
	all, err := xattrs(path)
	if err != nil {
		return err.Error()
	}
	return all[name]
}

// unpacked unpacks headers on lowers and gives the directory.
func unpacked(t *testing.T, lowers []string, headers ...tar.Header) string {
	t.Helper()
	c := newCage(t)
	if _, err := c.unpack(t, makeTar(t, headers...), DefaultLimits(), lowers...); err != nil {
		t.Fatal(err)
	}
	return c.dir
}

func TestTimes(t *testing.T) {
	t.Parallel()
	times := map[string]time.Time{
		"ns":     time.Unix(1700000000, 123456789),
		"before": time.Unix(-1000, 500000000), // half a second later than -1000
		"old":    time.Unix(-1<<31, 0),
		"epoch":  time.Unix(0, 0),
		"future": time.Unix(1<<33, 1),
	}
	var headers []tar.Header
	for name, at := range times {
		headers = append(headers,
			tar.Header{Name: name, Typeflag: tar.TypeReg, ModTime: at, Format: tar.FormatPAX},
			tar.Header{Name: name + "-dir/", Typeflag: tar.TypeDir, ModTime: at, Format: tar.FormatPAX},
			tar.Header{Name: name + "-dir/fifo", Typeflag: tar.TypeFifo, ModTime: at, Format: tar.FormatPAX},
			tar.Header{Name: name + "-dir/link", Typeflag: tar.TypeSymlink, Linkname: "x", ModTime: at, Format: tar.FormatPAX})
	}
	headers = append(headers, tar.Header{Name: "far", Typeflag: tar.TypeReg, ModTime: time.Unix(1<<60, 0), Format: tar.FormatPAX})
	dir := unpacked(t, nil, headers...)
	for name, at := range times {
		for _, name := range []string{name, name + "-dir", name + "-dir/fifo", name + "-dir/link"} {
			if st := lstat(t, filepath.Join(dir, name)); !time.Unix(st.Mtim.Unix()).Equal(at) {
				t.Errorf("%s: %v, not %v", name, time.Unix(st.Mtim.Unix()), at)
			}
		}
	}
	lstat(t, filepath.Join(dir, "far")) // clamped to what the file system can say
}

// A directory keeps the time of its entry, whatever comes and goes in it, in
// whatever order; what a hard link from below adds too.
func TestTimesOfDirectories(t *testing.T) {
	t.Parallel()
	lower := t.TempDir()
	must(t, os.WriteFile(filepath.Join(lower, "below"), []byte("x"), 0o644))
	must(t, os.Mkdir(filepath.Join(lower, "implied"), 0o755))
	must(t, os.Chtimes(filepath.Join(lower, "implied"), time.Unix(77, 0), time.Unix(77, 0)))
	at := func(sec int64, h tar.Header) tar.Header { h.ModTime = time.Unix(sec, 0); return h }
	dir := unpacked(t, []string{lower},
		at(11, tar.Header{Name: "./", Typeflag: tar.TypeDir}),
		at(22, tar.Header{Name: "d/", Typeflag: tar.TypeDir}),
		at(1, tar.Header{Name: "d/f", Typeflag: tar.TypeReg}),
		at(33, tar.Header{Name: "d/e/", Typeflag: tar.TypeDir}),
		at(1, tar.Header{Name: "d/e/new/f", Typeflag: tar.TypeReg}),
		at(1, tar.Header{Name: "d/f", Typeflag: tar.TypeSymlink, Linkname: "e"}),
		at(1, tar.Header{Name: "d/f/g", Typeflag: tar.TypeReg}),
		at(1, tar.Header{Name: "d/.wh.x", Typeflag: tar.TypeReg}),
		at(1, tar.Header{Name: "late/f", Typeflag: tar.TypeReg}),
		at(44, tar.Header{Name: "late", Typeflag: tar.TypeDir}),
		at(1, tar.Header{Name: "implied/f", Typeflag: tar.TypeReg}),
		at(1, tar.Header{Name: "d/e/h", Typeflag: tar.TypeLink, Linkname: "below"}),
		at(1, tar.Header{Name: "implied/h", Typeflag: tar.TypeLink, Linkname: "below"}),
	)
	for name, want := range map[string]int64{"": 11, "d": 22, "d/e": 33, "late": 44, "implied": 77} {
		if st := lstat(t, filepath.Join(dir, name)); st.Mtim.Sec != want {
			t.Errorf("%q has time %d, not %d", name, st.Mtim.Sec, want)
		}
	}
	if st := lstat(t, filepath.Join(dir, "d/e/h")); st.Nlink != 3 { // with implied/h and below itself
		t.Errorf("it has %d links", st.Nlink)
	}
}

func TestOwners(t *testing.T) {
	t.Parallel()
	const most = 1<<32 - 2
	dir := unpacked(t, nil,
		tar.Header{Name: "f", Typeflag: tar.TypeReg, Uid: 1 << 31, Gid: most, Mode: 0o6755},
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "f", Uid: most, Gid: 1<<31 + 5},
		tar.Header{Name: "d", Typeflag: tar.TypeDir, Uid: 3_000_000_000, Gid: 3_000_000_001, Mode: 0o7755, Format: tar.FormatGNU},
		tar.Header{Name: "s", Typeflag: tar.TypeDir, Gid: 50, Mode: 0o2775},
		tar.Header{Name: "s/implied/f", Typeflag: tar.TypeReg, Mode: 0o1640},
		tar.Header{Name: "s/d", Typeflag: tar.TypeDir, Gid: 60, Mode: 0o1777},
	)
	for name, want := range map[string][3]uint32{
		"f": {0o6755, 1 << 31, most}, "l": {0o777, most, 1<<31 + 5}, "d": {0o7755, 3_000_000_000, 3_000_000_001},
		"s": {0o2775, 0, 50}, "s/implied": {0o755, 0, 0}, "s/implied/f": {0o1640, 0, 0}, "s/d": {0o1777, 0, 60},
	} {
		st := lstat(t, filepath.Join(dir, name))
		if got := [3]uint32{st.Mode & 0o7777, st.Uid, st.Gid}; got != want {
			t.Errorf("%s: mode %o, owner %d:%d, want %o", name, got[0], got[1], got[2], want)
		}
	}
}

// acl spells a list as the kernel stores it: user, group, other, a named user
// and a mask.
func acl(user, named, group, other uint16) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, user, 1<<32 - 1}, {2, named, 1234}, {4, group, 1<<32 - 1}, {0x10, group, 1<<32 - 1}, {0x20, other, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

func TestXattrs(t *testing.T) {
	t.Parallel()
	list := acl(6, 4, 4, 0)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	with := func(h tar.Header, attributes ...string) tar.Header {
		h.PAXRecords = map[string]string{}
		for i := 0; i < len(attributes); i += 2 {
			h.PAXRecords[paxXattr+attributes[i]] = attributes[i+1]
		}
		return h
	}
	dir := unpacked(t, nil,
		with(tar.Header{Name: "acls", Typeflag: tar.TypeDir, Mode: 0o750}, defaultACL, list, accessACL, acl(7, 5, 5, 0)),
		tar.Header{Name: "acls/plain", Typeflag: tar.TypeReg, Mode: 0o644},
		tar.Header{Name: "acls/fifo", Typeflag: tar.TypeFifo, Mode: 0o644},
		tar.Header{Name: "acls/dir", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "acls/implied/f", Typeflag: tar.TypeReg, Mode: 0o644},
		with(tar.Header{Name: "acls/own", Typeflag: tar.TypeReg, Mode: 0o640}, accessACL, list),
		with(tar.Header{Name: "bin", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 9}, "security.capability", capability, "user.note", "a\nb=c", "user.empty", "", "trusted.mine", "1",
			"trusted.overlay.opaque", "y", "trusted.overlay.origin", "x", "security.selinux", "system_u:object_r:x_t:s0"),
		tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: "bin"},
		with(tar.Header{Name: "sym", Typeflag: tar.TypeSymlink, Linkname: "bin"}, "user.note", "cannot be", "trusted.mine", "2"),
		with(tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}, "user.note", "cannot be", "trusted.mine", "3"),
		with(tar.Header{Name: "f", Typeflag: tar.TypeReg}, "nonsense", "1", "unknown.space", "2"),
	)
	for name, want := range map[string]map[string]string{
		"acls":         {defaultACL: list, accessACL: acl(7, 5, 5, 0)},
		"acls/plain":   {},
		"acls/fifo":    {},
		"acls/dir":     {},
		"acls/implied": {}, "acls/implied/f": {},
		"acls/own": {accessACL: list},
		"bin":      {"security.capability": capability, "user.note": "a\nb=c", "user.empty": "", "trusted.mine": "1"},
		"link":     {"security.capability": capability, "user.note": "a\nb=c", "user.empty": "", "trusted.mine": "1"},
		"sym":      {"trusted.mine": "2"},
		"fifo":     {"trusted.mine": "3"},
		"f":        {},
	} {
		got, err := xattrs(filepath.Join(dir, name))
		must(t, err)
		differ(t, name, want, got)
	}
	for name, mode := range map[string]uint32{"acls/plain": 0o644, "acls/dir": 0o755, "acls/own": 0o640, "bin": 0o4755} {
		if st := lstat(t, filepath.Join(dir, name)); st.Mode&0o7777 != mode {
			t.Errorf("%s has mode %o", name, st.Mode)
		}
	}
}

// Every spelling of holes that GNU tar writes gives the file, with its holes.
func TestSparseFilesKeepTheirHoles(t *testing.T) {
	t.Parallel()
	const size, at = 64 << 20, 32 << 20 // a file of one block in the middle
	data := bytes.Repeat([]byte("data"), 128)
	old := func() []byte {
		b := oldSparse("s", size)
		copy(b[386:], "00200000000\x0000000001000\x00")
		return append(sum(b), data...)
	}
	version1 := pad([]byte("1\n33554432\n512\n"))
	body := func(b []byte) []byte { return append(block("GNUSparseFile.0/s", tar.TypeReg, int64(len(b))), b...) }
	for name, tarball := range map[string][]byte{
		"old GNU": old(),
		"PAX 0.0": append(pax("GNU.sparse.size", "67108864", "GNU.sparse.numblocks", "1", "GNU.sparse.offset", "33554432", "GNU.sparse.numbytes", "512", "path", "s"), body(data)...),
		"PAX 0.1": append(pax("GNU.sparse.size", "67108864", "GNU.sparse.numblocks", "1", "GNU.sparse.map", "33554432,512", "GNU.sparse.name", "s"), body(data)...),
		"PAX 1.0": append(pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "s", "GNU.sparse.realsize", "67108864"), body(append(version1, data...))...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCage(t)
			r, err := c.unpack(t, append(tarball, block("hard", tar.TypeReg, 0)...), DefaultLimits())
			must(t, err)
			path := filepath.Join(c.dir, "s")
			b, err := os.ReadFile(path)
			must(t, err)
			if len(b) != size || !bytes.Equal(b[at:at+512], data) || !isZero(b[:at]) || !isZero(b[at+512:]) {
				t.Errorf("its %d bytes are others", len(b))
			}
			if st := lstat(t, path); st.Blocks*512 > 64<<10 || r.Bytes != 2*blockSize {
				t.Errorf("it takes %d bytes on disk, %d are counted", st.Blocks*512, r.Bytes)
			}
		})
	}
}

func TestReplacing(t *testing.T) {
	t.Parallel()
	null := tar.Header{Name: "x", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}
	kinds := map[string]tar.Header{
		"file":      {Name: "x", Typeflag: tar.TypeReg, Size: 5},
		"directory": {Name: "x/", Typeflag: tar.TypeDir, Mode: 0o755},
		"link":      {Name: "x", Typeflag: tar.TypeSymlink, Linkname: "y"},
		"fifo":      {Name: "x", Typeflag: tar.TypeFifo},
		"device":    null,
	}
	for first, a := range kinds {
		for second, b := range kinds {
			headers := []tar.Header{{Name: "y", Typeflag: tar.TypeReg, Size: 1}, a}
			if first == "directory" {
				headers = append(headers, tar.Header{Name: "x/deep/f", Typeflag: tar.TypeReg, Size: 9000})
			}
			dir := unpacked(t, nil, append(headers, b)...)
			if got := typeOf(t, filepath.Join(dir, "x")); got != second {
				t.Errorf("a %s after a %s is a %s", second, first, got)
			}
			if st := lstat(t, filepath.Join(dir, "y")); st.Size != 1 {
				t.Errorf("%s after %s: what the link names was changed", second, first)
			}
			// What was of another kind hid what lies below; a directory in its place must too.
			opaque := attribute(filepath.Join(dir, "x"), opaqueXattr) == "y"
			if want := second == "directory" && first != "directory"; opaque != want {
				t.Errorf("%s after %s: opaque is %v", second, first, opaque)
			}
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("d/", 60) + strings.Repeat("n", 255)
	longest := strings.Repeat("d/", 2047) + "f"
	headers := []tar.Header{
		{Name: "not-UTF-8-\xff\xfe", Typeflag: tar.TypeReg, Format: tar.FormatGNU},
		{Name: long + "g", Typeflag: tar.TypeReg, Format: tar.FormatGNU}, // one byte too many
	}
	if _, err := newCage(t).unpack(t, makeTar(t, headers[1]), DefaultLimits()); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("a part of 256 bytes: %v", err)
	}
	prefix := block("name", tar.TypeReg, 0)
	copy(prefix[345:], strings.Repeat("p", 150))
	tarball := slices.Concat(makeTar(t, headers[0])[:512], sum(prefix))
	for _, h := range []tar.Header{
		{Name: long, Typeflag: tar.TypeReg, Format: tar.FormatGNU},
		{Name: "pax/" + long, Typeflag: tar.TypeReg, Format: tar.FormatPAX},
		{Name: longest, Typeflag: tar.TypeReg, Format: tar.FormatPAX},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", 4095), Format: tar.FormatPAX},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: "./" + long, Format: tar.FormatGNU},
		{Name: "späß\n", Typeflag: tar.TypeReg},
		{Name: "-rf", Typeflag: tar.TypeReg}, {Name: "..x", Typeflag: tar.TypeReg}, {Name: " ", Typeflag: tar.TypeReg}, {Name: `\`, Typeflag: tar.TypeReg},
		{Name: "cont", Typeflag: tar.TypeCont},
	} {
		one := makeTar(t, h)
		tarball = append(tarball, one[:len(one)-1024]...)
	}
	c := newCage(t)
	_, err := c.unpack(t, tarball, DefaultLimits())
	must(t, err)
	for _, name := range []string{"not-UTF-8-\xff\xfe", strings.Repeat("p", 150) + "/name", long, "pax/" + long, "link", "hard", "späß\n", "-rf", "..x", " ", `\`, "cont"} {
		lstat(t, filepath.Join(c.dir, name))
	}
	// Longer than what a path from the host's root may have.
	root, err := os.Open(c.dir)
	must(t, err)
	f, err := openBelow(root, longest, unix.O_RDONLY)
	must(t, err)
	must(t, f.Close())
	must(t, root.Close())
}

// A name that links make longer than any path could not be used, nor removed.
func TestLinksDoNotMakePathsTooLong(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("d/", 1000)
	headers := []tar.Header{{Name: deep, Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "l0", Typeflag: tar.TypeSymlink, Linkname: deep}}
	for _, name := range []string{"l0/" + deep, "l0/" + deep + "x/" + strings.Repeat("y/", 100)} {
		headers = append(headers, tar.Header{Name: name + "f", Typeflag: tar.TypeReg})
	}
	if _, err := newCage(t).unpack(t, makeTar(t, headers...), DefaultLimits()); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("got %v", err)
	}
}

// Layers on links of the layers below show what they would if they had been
// unpacked on top of them, one entry after the other.
func TestEntriesThroughLinksOfTheLayerBelow(t *testing.T) {
	t.Parallel()
	lower := t.TempDir()
	for _, name := range []string{"usr/lib/explicit", "usr/lib/implied"} {
		must(t, os.MkdirAll(filepath.Join(lower, name), 0o711))
		must(t, os.Chmod(filepath.Join(lower, name), 0o711))
	}
	must(t, os.Symlink("usr/lib", filepath.Join(lower, "lib")))
	must(t, os.Symlink("/lib", filepath.Join(lower, "lib64")))
	must(t, os.WriteFile(filepath.Join(lower, "usr/lib/so"), []byte("lib"), 0o644))
	dir := unpacked(t, []string{lower},
		tar.Header{Name: "lib/explicit", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 5},
		tar.Header{Name: "lib/explicit/f", Typeflag: tar.TypeReg},
		tar.Header{Name: "lib64/implied/g", Typeflag: tar.TypeReg},
		tar.Header{Name: "usr/lib/explicit/h", Typeflag: tar.TypeReg},
		tar.Header{Name: "usr/lib/implied/h", Typeflag: tar.TypeReg},
		tar.Header{Name: "lib64/hard", Typeflag: tar.TypeLink, Linkname: "lib/so"},
		tar.Header{Name: "again", Typeflag: tar.TypeLink, Linkname: "lib64/hard"},
	)
	for name, mode := range map[string]uint32{
		"usr/lib/explicit": unix.S_IFDIR | 0o700, "usr/lib/implied": unix.S_IFDIR | 0o711,
		"usr/lib/explicit/f": unix.S_IFREG, "usr/lib/implied/g": unix.S_IFREG, "usr/lib/explicit/h": unix.S_IFREG, "usr/lib/implied/h": unix.S_IFREG,
	} {
		if st := lstat(t, filepath.Join(dir, name)); st.Mode != mode {
			t.Errorf("%s has mode %o", name, st.Mode)
		}
	}
	a, b, c := lstat(t, filepath.Join(dir, "usr/lib/so")), lstat(t, filepath.Join(dir, "usr/lib/hard")), lstat(t, filepath.Join(dir, "again"))
	if a.Ino != b.Ino || b.Ino != c.Ino {
		t.Error("the hard links are files of their own")
	}
	for _, name := range []string{"lib", "lib64"} {
		if got := typeOf(t, filepath.Join(dir, name)); !strings.Contains(got, "no such file") {
			t.Errorf("there is %s: %s", name, got)
		}
	}
	// A link of this layer: an explicit directory keeps what its entry says.
	dir = unpacked(t, []string{lower},
		tar.Header{Name: "usr/lib", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "usr/lib"},
		tar.Header{Name: "usr/lib/implied/f", Typeflag: tar.TypeReg}, tar.Header{Name: "l/implied", Typeflag: tar.TypeDir, Mode: 0o1777},
	)
	if st := lstat(t, filepath.Join(dir, "usr/lib/implied")); st.Mode != unix.S_IFDIR|0o1777 {
		t.Errorf("an explicit directory has mode %o", st.Mode)
	}
}
