package shm

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/mount"
	"github.com/berth-runtime/berth/runtime/sys/systest"
)

func TestMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(t.TempDir(), "pod", "shm")
	if err := Unmount(dir); err != nil {
		t.Errorf("unmount of an absent directory: %v", err)
	}
	for range 2 {
		if err := Mount(dir, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = Unmount(dir) })
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range table {
		if m.Target == dir {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d mounts at %s, want 1", n, dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	const want = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	if int64(st.Blocks)*st.Bsize != 1<<20 || st.Flags&want != want {
		t.Errorf("%d bytes, flags %#x", int64(st.Blocks)*st.Bsize, st.Flags)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode()&(os.ModePerm|os.ModeSticky) != 0o777|os.ModeSticky {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	for range 2 {
		if err := Unmount(dir); err != nil {
			t.Fatal(err)
		}
	}
	if mounted, err := systest.Mounted(dir); err != nil || mounted {
		t.Errorf("still mounted: %v, %v", mounted, err)
	}
}
