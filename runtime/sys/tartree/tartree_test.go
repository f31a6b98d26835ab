package tartree

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func handle(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestRoundTrip carries every kind of file to another tree.
func TestRoundTrip(t *testing.T) {
	needsRoot(t)
	t.Parallel()
	from, to := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(from+"/src/sub/empty", 0o750))
	must(t, os.WriteFile(from+"/src/file", []byte("content"), 0o600))
	must(t, os.Link(from+"/src/file", from+"/src/sub/hard"))
	must(t, os.Symlink("../nowhere", from+"/src/link"))
	must(t, unix.Mkfifo(from+"/src/fifo", 0o640))
	must(t, unix.Mknod(from+"/src/null", unix.S_IFCHR|0o620, int(unix.Mkdev(1, 3))))
	must(t, unix.Chmod(from+"/src/null", 0o620)) // past the umask
	must(t, os.WriteFile(from+"/src/tool", []byte("x"), 0o755))
	must(t, os.Chown(from+"/src/tool", 12, 34))
	must(t, unix.Chmod(from+"/src/tool", 0o4750))
	must(t, unix.Setxattr(from+"/src/tool", "user.note", []byte("kept"), 0))
	old := time.Unix(1_000_000_000, 0)
	must(t, os.Chtimes(from+"/src/sub", old, old))

	var packed bytes.Buffer
	must(t, Pack(t.Context(), handle(t, from), "/src", "dst", false, nil, &packed))
	must(t, Unpack(t.Context(), handle(t, to), "/", nil, bytes.NewReader(packed.Bytes())))

	var st unix.Stat_t
	if got, err := os.ReadFile(to + "/dst/file"); err != nil || string(got) != "content" {
		t.Errorf("file: %q, %v", got, err)
	}
	must(t, unix.Lstat(to+"/dst/sub/hard", &st))
	if st.Nlink != 2 {
		t.Error("a hard link became two files")
	}
	if got, err := os.Readlink(to + "/dst/link"); err != nil || got != "../nowhere" {
		t.Errorf("link: %q, %v", got, err)
	}
	must(t, unix.Lstat(to+"/dst/fifo", &st))
	if st.Mode != unix.S_IFIFO|0o640 {
		t.Errorf("fifo: %o", st.Mode)
	}
	must(t, unix.Lstat(to+"/dst/null", &st))
	if st.Mode != unix.S_IFCHR|0o620 || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("device: %o %x", st.Mode, st.Rdev)
	}
	must(t, unix.Lstat(to+"/dst/tool", &st))
	value := make([]byte, 16)
	n, err := unix.Getxattr(to+"/dst/tool", "user.note", value)
	if st.Uid != 12 || st.Gid != 34 || st.Mode&0o7777 != 0o4750 || err != nil || string(value[:n]) != "kept" {
		t.Errorf("tool: %d:%d %o %q", st.Uid, st.Gid, st.Mode, value[:max(n, 0)])
	}
	if sub, err := os.Stat(to + "/dst/sub"); err != nil || !sub.ModTime().Equal(old) || sub.Mode().Perm() != 0o750 {
		t.Errorf("sub: %v, %v", sub, err)
	}
	// Once more over what is there; owners can be given away.
	must(t, Unpack(t.Context(), handle(t, to), "/", To(7, 8), bytes.NewReader(packed.Bytes())))
	must(t, unix.Lstat(to+"/dst/tool", &st))
	if st.Uid != 7 || st.Gid != 8 || st.Mode&0o7777 != 0o4750 {
		t.Errorf("given away: %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
}

// T-ROOT. CVE-2018-15664: no link, name or swap in a container leads a copy to
// the host's files.
func TestNothingLeadsOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	must(t, os.MkdirAll(root+"/in", 0o755))
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(outside+"/secret", []byte("host"), 0o600))
	must(t, os.Symlink(outside, root+"/absolute"))
	must(t, os.Symlink("../../../../../../.."+outside, root+"/relative"))
	must(t, os.Symlink("/proc/self/root"+outside, root+"/magic"))
	must(t, os.Symlink("in", root+"/inside"))

	for _, p := range []string{"absolute/secret", "/relative/secret", "magic/secret", "../outside/secret", "/../../outside/secret"} {
		var out bytes.Buffer
		if err := Pack(t.Context(), handle(t, root), p, "", true, nil, &out); err == nil || strings.Contains(out.String(), "host") {
			t.Errorf("%s was read: %v", p, err)
		}
		if _, err := Stat(handle(t, root), p); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s was found: %v", p, err)
		}
	}
	var evil bytes.Buffer
	w := tar.NewWriter(&evil)
	add := func(h tar.Header, text string) {
		h.Size, h.Mode, h.Uid, h.Gid = int64(len(text)), 0o644, os.Getuid(), os.Getgid()
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(text))
		must(t, err)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "../../outside/by-name"}, "x")
	add(tar.Header{Typeflag: tar.TypeSymlink, Name: "d", Linkname: outside}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "d/by-link"}, "x")
	add(tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "../../outside/secret"}, "")
	must(t, w.Close())
	_ = Unpack(t.Context(), handle(t, root), "in", nil, &evil) // it may refuse any of them
	names, err := os.ReadDir(outside)
	must(t, err)
	if len(names) != 1 {
		t.Errorf("outside has %v", names)
	}
	var st unix.Stat_t
	must(t, unix.Stat(outside+"/secret", &st))
	if st.Nlink != 1 {
		t.Error("the secret has another name")
	}

	// A link that leads inside is followed where it is asked for.
	must(t, os.WriteFile(root+"/in/file", []byte("inside"), 0o600))
	var out bytes.Buffer
	must(t, Pack(t.Context(), handle(t, root), "inside/file", "", false, nil, &out))
	if !strings.Contains(out.String(), "inside") {
		t.Error("a link inside is not followed")
	}
	if i, err := Stat(handle(t, root), "/inside"); err != nil || i.Link != "in" || !i.Target.IsDir() || i.Broken {
		t.Errorf("%+v, %v", i, err)
	}
}

// T-ROOT. TestASwappedDirectory swaps a directory for a link to the host's while a tar
// is unpacked into it.
func TestASwappedDirectory(t *testing.T) {
	needsRoot(t)
	t.Parallel()
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	must(t, os.MkdirAll(root+"/d", 0o755))
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.Symlink(outside, root+"/evil"))
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "d/file", Mode: 0o600}))
	must(t, w.Close())
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_ = unix.Renameat2(unix.AT_FDCWD, root+"/evil", unix.AT_FDCWD, root+"/d", unix.RENAME_EXCHANGE)
		}
	}()
	top := handle(t, root)
	for range 2000 {
		_ = Unpack(context.Background(), top, "/", nil, bytes.NewReader(packed.Bytes())) // it fails now and then
	}
	stop.Store(true)
	<-done
	if names, err := os.ReadDir(outside); err != nil || len(names) > 0 {
		t.Errorf("outside has %v, %v", names, err)
	}
}

// TestNothingIsReplacedByAnotherKind keeps directories and files apart.
func TestNothingIsReplacedByAnotherKind(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/dir/full", 0o755))
	must(t, os.WriteFile(root+"/file", []byte("kept"), 0o600))
	for name, kind := range map[string]byte{"dir": tar.TypeReg, "file": tar.TypeDir} {
		var packed bytes.Buffer
		w := tar.NewWriter(&packed)
		must(t, w.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Mode: 0o700, Uid: os.Getuid(), Gid: os.Getgid()}))
		must(t, w.Close())
		if err := Unpack(t.Context(), handle(t, root), "/", nil, &packed); err == nil {
			t.Errorf("%s was replaced", name)
		}
	}
	if b, err := os.ReadFile(root + "/file"); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
}
