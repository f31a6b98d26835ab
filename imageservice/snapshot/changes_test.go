package snapshot

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// TestChanges changes a mounted snapshot of two layers as programs do.
func TestChanges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	lowers := []string{filepath.Join(dir, "upper-layer"), filepath.Join(dir, "base")}
	file := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"kept", "gone", "written", "etc/a", "etc/b", "anew/one", "anew/two", "between/hidden", "whole/x"} {
		file(filepath.Join(lowers[1], name))
	}
	file(filepath.Join(lowers[0], "between/shown"))
	if err := unix.Mknod(filepath.Join(lowers[0], "between/hidden"), unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	d, root := At(filepath.Join(dir, "s")), filepath.Join(dir, "root")
	if err := d.Create(lowers[1], nil); err != nil {
		t.Fatal(err)
	}
	if err := Mount(d, lowers, root, nil, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(root); err != nil {
			t.Error(err)
		}
	})
	file(root + "/new/deep/file")
	file(root + "/written")
	file(root + "/etc/c")
	for _, name := range []string{"gone", "etc/a", "between", "whole"} {
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	file(root + "/between/later")
	if err := os.RemoveAll(root + "/anew"); err != nil {
		t.Fatal(err)
	}
	file(root + "/anew/two")
	if err := os.MkdirAll(root+"/mounted/on", 0o755); err != nil {
		t.Fatal(err)
	}

	got, err := d.Changes(t.Context(), lowers, map[string]bool{"mounted": true, "mounted/on": true})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range got {
		lines = append(lines, string(c.Kind)+" "+c.Path)
	}
	want := []string{
		"C /anew", "D /anew/one", "C /anew/two",
		"C /between", "A /between/later", "D /between/shown",
		"C /etc", "D /etc/a", "A /etc/c",
		"D /gone",
		"A /new", "A /new/deep", "A /new/deep/file",
		"D /whole", "C /written",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got  %q\nwant %q", lines, want)
	}
}
