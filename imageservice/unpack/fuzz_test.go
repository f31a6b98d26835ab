package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// FuzzLayer looks for a tar that reaches out of its directory, that is counted
// wrongly, or whose files are not as archive/tar reads them.
func FuzzLayer(f *testing.F) {
	needRoot(f)
	for _, h := range hostiles() {
		if headers := h.entries(&cage{outer: "/"}); len(headers) < 10 {
			f.Add(makeTar(f, headers...))
		}
	}
	f.Add(oldSparse("s", 1<<20))
	f.Add(append(append(oldSparse("s", 9000), bytes.Repeat([]byte("x"), 512)...), block("t", tar.TypeReg, 0)...))
	f.Add(append(pax("SCHILY.xattr.user.x", "y", "mtime", "-1.5"), block("f", tar.TypeReg, 0)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := newCage(t)
		lower := t.TempDir()
		for name, target := range map[string]string{"l": c.canary(""), "a": "b", "b": "../../canary", "d": "/x/y"} {
			must(t, os.Symlink(target, filepath.Join(lower, name)))
		}
		must(t, os.WriteFile(filepath.Join(lower, "h"), []byte("below"), 0o644))
		r, err := c.unpack(t, b, Limits{Entries: 1000, Bytes: 1 << 20}, lower)
		if err != nil {
			if kind := errkind.Of(err); kind != errkind.InvalidArgument && kind != errkind.ResourceExhausted {
				t.Errorf("a tar is refused for no fault of its own: %v", err)
			}
			return
		}
		headers, contents := readTar(t, b)
		counted(t, c.dir, r, headers)
		if !unambiguous(headers) {
			return
		}
		for i, h := range headers {
			asRead(t, c.dir, h, contents[i])
		}
	})
}

// readTar reads a tar that was unpacked.
func readTar(t *testing.T, b []byte) (headers []*tar.Header, contents [][]byte) {
	t.Helper()
	for tr := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		must(t, err)
		content, err := io.ReadAll(tr)
		must(t, err)
		headers, contents = append(headers, h), append(contents, content)
	}
}

// counted fails the test if r does not say what is there.
func counted(t *testing.T, dir string, r Result, headers []*tar.Header) {
	t.Helper()
	seen := map[uint64]bool{}
	var taken uint64
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if format := st.Mode & unix.S_IFMT; !seen[st.Ino] && (format == unix.S_IFREG || format == unix.S_IFDIR) {
			taken += OnDisk(st.Size)
		}
		seen[st.Ino] = true
		return err
	}))
	if r.Inodes != uint64(len(seen)) {
		t.Errorf("%d inodes are counted, there are %d", r.Inodes, len(seen))
	}
	sparse := false // or zeros that were copied up
	for _, h := range headers {
		sparse = sparse || IsSparse(h)
	}
	if r.Bytes > taken || r.Bytes != taken && !sparse {
		t.Errorf("%d bytes are counted, files and directories have %d", r.Bytes, taken)
	}
}

// unambiguous reports whether each entry is on disk as the tar has it: there
// are files and directories only, each once and in a directory.
func unambiguous(headers []*tar.Header) bool {
	seen := map[string]bool{"": true}
	for _, h := range headers {
		name, err := cleanName(h.Name)
		dir, base := splitPath(name)
		file := h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse
		if err != nil || name == "" || seen[name] || !seen[dir] || !file && h.Typeflag != tar.TypeDir ||
			len(base) >= len(whiteoutPrefix) && base[:len(whiteoutPrefix)] == whiteoutPrefix {
			return false
		}
		seen[name] = true
	}
	return true
}

// asRead compares a file with what archive/tar says of it.
func asRead(t *testing.T, dir string, h *tar.Header, content []byte) {
	t.Helper()
	var st unix.Stat_t
	path := filepath.Join(dir, h.Name)
	must(t, unix.Lstat(path, &st))
	if st.Mode&0o7777 != uint32(h.Mode&0o7777) || int(st.Uid) != h.Uid || int(st.Gid) != h.Gid {
		t.Errorf("%q has mode %o and owner %d:%d, not %o and %d:%d", h.Name, st.Mode, st.Uid, st.Gid, h.Mode, h.Uid, h.Gid)
	}
	// What the file system can hold; the kernel clamps the rest.
	if s := h.ModTime.Unix(); s > -1<<31 && s < 1<<33 && !time.Unix(st.Mtim.Unix()).Equal(h.ModTime) {
		t.Errorf("%q has time %v, not %v", h.Name, time.Unix(st.Mtim.Unix()), h.ModTime)
	}
	if h.Typeflag == tar.TypeDir {
		return
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%q has %d bytes, not the %d of the tar (%v)", h.Name, len(got), len(content), err)
	}
}
