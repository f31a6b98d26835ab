package mount_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/mount"
	"github.com/berth-runtime/berth/runtime/sys/systest"
)

func TestBindTableAndUnmount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "tar get\t\\x") // what mountinfo escapes
	for _, d := range []string{source, target} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // stacked, on purpose
		if err := mount.Bind(source, target, unix.MS_RDONLY|unix.MS_NOSUID); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = mount.Unmount(target) })
	if ok, err := systest.Mounted(target); err != nil || !ok {
		t.Fatalf("%q is not in the table: %v", target, err)
	}
	if err := os.WriteFile(filepath.Join(target, "f"), nil, 0o644); err == nil {
		t.Error("a read-only bind mount was written to")
	}
	for range 2 { // idempotent
		if err := mount.Unmount(target); err != nil {
			t.Fatal(err)
		}
		if ok, err := systest.Mounted(target); err != nil || ok {
			t.Fatalf("%q is still mounted: %v", target, err)
		}
	}
	if err := mount.Unmount(filepath.Join(dir, "absent")); err != nil {
		t.Errorf("unmounting what is absent: %v", err)
	}
}

func TestUnmountFollowsNoLink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mount.Bind(real, real, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mount.Unmount(real) })
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	_ = mount.Unmount(link) // may refuse, must not follow
	if ok, err := systest.Mounted(real); err != nil || !ok {
		t.Errorf("a link led the unmount to its target: %v", err)
	}
}
