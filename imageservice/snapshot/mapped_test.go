package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// inUserNamespace runs fn while a user namespace is pinned.
func inUserNamespace(t *testing.T, fn func(in *idmap.Pinned)) {
	t.Helper()
	in := idmap.Pinned{Map: idmap.Map{UID: idmap.Range{Host: 300000, Length: 65536}, GID: idmap.Range{Host: 400000, Length: 65536}},
		Path: filepath.Join(t.TempDir(), "user")}
	if err := os.WriteFile(in.Path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := idmap.With(in.Map, 0, func(path func(string) string) error { return mount.Bind(path("user"), in.Path, 0) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mount.Unmount(in.Path) })
	fn(&in)
}

// kernelFrom tells whether the kernel is at least that one.
func kernelFrom(t *testing.T, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a > major || a == major && b >= minor
}

func owner(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

// Each way to mount with mapped owners shows the same, and leaves the layers
// and the mount table as they were.
func TestWaysToMountMapped(t *testing.T) {
	ways := map[string]func([]option, []*os.File, string) error{"attached": mountTreesAttached}
	if kernelFrom(t, 6, 13) {
		ways["by descriptor"] = mountTrees
	}
	for name, do := range ways {
		for _, n := range []int{2, 200} {
			lowers, root := layers(t, n)
			inUserNamespace(t, func(in *idmap.Pinned) { mountMappedOneWay(t, do, lowers, root, in) })
			if t.Failed() {
				t.Fatalf("%s, %d layers", name, n)
			}
		}
	}
}

func mountMappedOneWay(t *testing.T, do func([]option, []*os.File, string) error, lowers []string, root string, in *idmap.Pinned) {
	d, target := At(filepath.Join(root, "s")), filepath.Join(root, "m")
	if err := os.Chown(lowers[0], 5, 6); err != nil { // the root directory of the image
		t.Fatal(err)
	}
	if err := d.Create(lowers[0], in); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	trees, err := mappedTrees(lowers, in)
	defer closeAll(trees)
	if err != nil {
		t.Fatal(err)
	}
	if err := do(options(d, ""), trees, target); err != nil {
		t.Fatal(err)
	}
	for i := range lowers {
		if got := owner(t, filepath.Join(target, fmt.Sprint("f", i))); got != "300000:400000" {
			t.Errorf("f%d belongs to %s", i, got)
		}
	}
	if got := owner(t, target); got != "300005:400006" {
		t.Errorf("the root belongs to %s", got)
	}
	// Copied up: the owner is kept, the layer is not touched.
	if err := os.WriteFile(filepath.Join(target, "f0"), []byte("more"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := owner(t, filepath.Join(d.Upper, "f0")); got != "300000:400000" {
		t.Errorf("the copy belongs to %s on the host", got)
	}
	if got := owner(t, filepath.Join(lowers[0], "f0")); got != "0:0" {
		t.Errorf("the layer's file belongs to %s", got)
	}
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range table {
		if rel, err := filepath.Rel(root, m.Target); err == nil && filepath.IsLocal(rel) && m.Target != target {
			t.Errorf("%s is left mounted", m.Target)
		}
	}
	if err := Unmount(target); err != nil {
		t.Fatal(err)
	}
}

func TestReadOnlyMapped(t *testing.T) {
	for _, n := range []int{1, 2} {
		lowers, root := layers(t, n)
		target := filepath.Join(root, "m")
		inUserNamespace(t, func(in *idmap.Pinned) {
			for range 2 {
				if err := MountReadOnly(lowers, target, in, ""); err != nil {
					t.Fatal(err)
				}
			}
			if got := owner(t, filepath.Join(target, "f0")); got != "300000:400000" {
				t.Errorf("%d layers: f0 belongs to %s", n, got)
			}
			if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o644); err == nil {
				t.Errorf("%d layers: the mount can be written", n)
			}
			if err := Unmount(target); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The probe answers as the file system does, and leaves nothing.
func TestProbeMapped(t *testing.T) {
	_, root := layers(t, 1)
	if err := ProbeMapped(root); err != nil {
		t.Errorf("this file system maps owners, the probe says: %v", err)
	}
	// An overlay is a file system that cannot.
	lowers, at := layers(t, 2)
	target, d := filepath.Join(at, "m"), At(filepath.Join(at, "s"))
	if err := d.Create(lowers[0], nil); err != nil {
		t.Fatal(err)
	}
	if err := Mount(d, lowers, target, nil, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Unmount(target) })
	if err := ProbeMapped(target); err == nil {
		t.Error("overlayfs maps no owners, the probe says it does")
	}
	for dir, want := range map[string]int{root: 1, target: 2} {
		if names, err := os.ReadDir(dir); err != nil || len(names) != want {
			t.Errorf("%s has %d names after the probe (%v)", dir, len(names), err)
		}
	}
}
