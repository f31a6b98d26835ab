package inroot_test

import (
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/inroot"
)

// tree makes root/etc/passwd with the text "inside", and beside root a file
// "outside" that no path may reach.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{filepath.Join(root, "etc/passwd"): "inside", filepath.Join(dir, "outside"): "outside"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func read(root, path string) (string, error) {
	f, err := inroot.Open(root, path, unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

func TestLinksResolveInside(t *testing.T) {
	t.Parallel()
	root := tree(t)
	for name, target := range map[string]string{
		"abs": "/etc/passwd", "climb": "../../../../etc/passwd", "up": "../outside", "out": filepath.Join(filepath.Dir(root), "outside"), "proc": "/proc/self/root/etc/passwd",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"etc/passwd": "inside", "/etc/passwd": "inside", "../../etc/passwd": "inside", "abs": "inside", "climb": "inside",
		"up": "", "out": "", "proc": "", "../outside": "", "/absent": "",
	} {
		got, err := read(root, path)
		if got != want || (want == "") != (err != nil) {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	f, err := inroot.Open(root, "out", unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err == nil {
		f.Close()
	}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(root), "outside")); err != nil || string(b) != "outside" {
		t.Errorf("the file outside is %q, %v", b, err)
	}
}

// An attacker swaps a directory for a link to the host's while we look.
func TestSwappedLinksDoNotLeadOut(t *testing.T) {
	t.Parallel()
	root := tree(t)
	evil := filepath.Join(root, "evil")
	if err := os.Symlink(filepath.Dir(root), evil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/outside"), []byte("decoy"), 0o644); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_ = unix.Renameat2(unix.AT_FDCWD, evil, unix.AT_FDCWD, filepath.Join(root, "etc"), unix.RENAME_EXCHANGE)
		}
	}()
	for range 5000 {
		if got, _ := read(root, "etc/outside"); got == "outside" {
			t.Error("a swapped link led out of the root")
			break
		}
	}
	stop.Store(true)
	<-done
}
