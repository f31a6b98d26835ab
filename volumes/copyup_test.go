package volumes

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func lstat(t *testing.T, path string) (st unix.Stat_t) {
	t.Helper()
	must(t, unix.Lstat(path, &st))
	return st
}

func TestCopyUp(t *testing.T) {
	needsRoot(t)
	t.Parallel()
	root, dst := t.TempDir(), filepath.Join(t.TempDir(), "vol")
	data := filepath.Join(root, "data")
	must(t, os.MkdirAll(data+"/sub/empty", 0o755))
	must(t, os.WriteFile(data+"/file", []byte("content"), 0o600))
	must(t, os.Link(data+"/file", data+"/sub/hard"))
	must(t, os.Symlink("/etc/passwd", data+"/link"))
	must(t, unix.Mkfifo(data+"/fifo", 0o640))
	must(t, unix.Mknod(data+"/null", unix.S_IFCHR|0o620, int(unix.Mkdev(1, 3))))
	must(t, unix.Chmod(data+"/null", 0o620)) // past the umask
	must(t, os.WriteFile(data+"/setuid", []byte("x"), 0o755))
	must(t, os.Chown(data+"/setuid", 12, 34))
	must(t, unix.Chmod(data+"/setuid", 0o4750))
	must(t, unix.Setxattr(data+"/setuid", "user.note", []byte("kept"), 0))
	must(t, os.Lchown(data+"/link", 56, 78))
	must(t, os.Chown(data, 999, 998))
	must(t, unix.Chmod(data, 0o1700))
	old := time.Unix(1_000_000_000, 0)
	must(t, os.Chtimes(data+"/sub", old, old))

	must(t, CopyUp(context.Background(), root, "/data", dst))

	if st := lstat(t, dst); st.Uid != 999 || st.Gid != 998 || st.Mode&0o7777 != 0o1700 {
		t.Errorf("top: owner %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
	if got, err := os.ReadFile(dst + "/file"); err != nil || string(got) != "content" {
		t.Errorf("file: %q, %v", got, err)
	}
	if lstat(t, dst+"/file").Ino != lstat(t, dst+"/sub/hard").Ino {
		t.Error("a hard link became two files")
	}
	if got, err := os.Readlink(dst + "/link"); err != nil || got != "/etc/passwd" {
		t.Errorf("link: %q, %v", got, err)
	}
	if st := lstat(t, dst+"/link"); st.Uid != 56 || st.Gid != 78 {
		t.Errorf("link: owner %d:%d", st.Uid, st.Gid)
	}
	if st := lstat(t, dst+"/setuid"); st.Uid != 12 || st.Gid != 34 || st.Mode&0o7777 != 0o4750 {
		t.Errorf("setuid: owner %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
	value := make([]byte, 16)
	if n, err := unix.Getxattr(dst+"/setuid", "user.note", value); err != nil || string(value[:n]) != "kept" {
		t.Errorf("attribute: %q, %v", value[:max(n, 0)], err)
	}
	if st := lstat(t, dst+"/fifo"); st.Mode != unix.S_IFIFO|0o640 {
		t.Errorf("fifo: mode %o", st.Mode)
	}
	if st := lstat(t, dst+"/null"); st.Mode != unix.S_IFCHR|0o620 || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("device: mode %o, number %x", st.Mode, st.Rdev)
	}
	if st := lstat(t, dst+"/sub"); st.Mtim.Sec != old.Unix() {
		t.Errorf("time of a directory: %d", st.Mtim.Sec)
	}
	if st := lstat(t, dst+"/sub/empty"); st.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Errorf("empty directory: mode %o", st.Mode)
	}

	// A second call finds it complete and leaves what a container changed.
	must(t, os.WriteFile(dst+"/file", []byte("changed"), 0o600))
	must(t, CopyUp(context.Background(), root, "/data", dst))
	if got, _ := os.ReadFile(dst + "/file"); string(got) != "changed" {
		t.Errorf("the second copy overwrote the first: %q", got)
	}
}

func TestCopyUpStaysInside(t *testing.T) {
	needsRoot(t)
	t.Parallel()
	outside, root, dst := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.WriteFile(outside+"/secret", []byte("host"), 0o600))
	must(t, os.Symlink(outside, root+"/absolute"))
	must(t, os.Symlink("../../../../../../.."+outside, root+"/relative"))
	must(t, os.Mkdir(root+"/data", 0o755))
	must(t, os.Symlink(outside, root+"/data/dir"))
	for i, path := range []string{"/absolute", "relative", "/../../../../" + outside, "/data"} {
		to := filepath.Join(dst, string(rune('a'+i)))
		must(t, CopyUp(context.Background(), root, path, to))
		must(t, filepath.WalkDir(to, func(path string, _ os.DirEntry, err error) error {
			if strings.Contains(path, "secret") {
				t.Errorf("%s came from outside of the image", path)
			}
			return err
		}))
	}
	// A link inside the image that leads inside is followed.
	must(t, os.MkdirAll(root+"/real", 0o755))
	must(t, os.WriteFile(root+"/real/file", nil, 0o600))
	must(t, os.Symlink("/real", root+"/inside"))
	must(t, CopyUp(context.Background(), root, "/inside", dst+"/inside"))
	lstat(t, dst+"/inside/file")
}

func TestCopyUpAbsentAndInterrupted(t *testing.T) {
	t.Parallel()
	root, dir := t.TempDir(), t.TempDir()
	must(t, CopyUp(context.Background(), root, "/absent", dir+"/absent"))
	if names, err := os.ReadDir(dir + "/absent"); err != nil || len(names) != 0 {
		t.Errorf("an absent path gave %v, %v", names, err)
	}
	must(t, os.Mkdir(root+"/data", 0o755))
	must(t, os.WriteFile(root+"/data/file", nil, 0o600))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := CopyUp(ctx, root, "/data", dir+"/vol"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("an interrupted copy left %v, %v", names, err)
	}
	// An empty directory that is there already becomes the copy.
	must(t, os.Mkdir(dir+"/empty", 0o755))
	must(t, CopyUp(context.Background(), root, "/data", dir+"/empty"))
	must(t, CopyUp(context.Background(), root, "/absent", dir+"/absent"))
	must(t, os.RemoveAll(dir+"/empty"))
	// What a killed process left does not mix with the next copy.
	must(t, os.MkdirAll(dir+"/vol.partial/rubbish", 0o755))
	must(t, CopyUp(context.Background(), root, "/data", dir+"/vol"))
	if names, err := os.ReadDir(dir + "/vol"); err != nil || len(names) != 1 || names[0].Name() != "file" {
		t.Errorf("got %v, %v", names, err)
	}
	if err := CopyUp(context.Background(), root, "/data/file", dir+"/file"); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("a file: %v, want InvalidArgument", err)
	}
}

func TestCopyUpKeepsHoles(t *testing.T) {
	t.Parallel()
	root, dst := t.TempDir(), filepath.Join(t.TempDir(), "vol")
	must(t, os.Mkdir(root+"/data", 0o755))
	f, err := os.Create(root + "/data/sparse")
	must(t, err)
	_, err = f.WriteAt([]byte("middle"), 1<<30)
	must(t, err)
	must(t, f.Truncate(1<<40))
	must(t, f.Close())
	must(t, CopyUp(context.Background(), root, "/data", dst))
	st := lstat(t, dst+"/sparse")
	if st.Size != 1<<40 || st.Blocks*512 > 1<<20 {
		t.Errorf("size %d, %d bytes on disk", st.Size, st.Blocks*512)
	}
	copied, err := os.Open(dst + "/sparse")
	must(t, err)
	defer func() { _ = copied.Close() }()
	got := make([]byte, 8)
	_, err = copied.ReadAt(got, 1<<30)
	must(t, err)
	if !bytes.Equal(got, []byte("middle\x00\x00")) {
		t.Errorf("got %q", got)
	}
}

func TestCopyUpIsBoundedInDepth(t *testing.T) {
	t.Parallel()
	root, dst := t.TempDir(), filepath.Join(t.TempDir(), "vol")
	must(t, os.MkdirAll(root+"/data/"+strings.Repeat("d/", maxDepth+5), 0o755))
	if err := CopyUp(context.Background(), root, "/data", dst); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}
