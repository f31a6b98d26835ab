package snapshot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func layers(t *testing.T, n int) (lowers []string, root string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root = t.TempDir()
	for i := range n {
		dir := filepath.Join(root, "l", fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		lowers = append(lowers, dir)
	}
	return lowers, root
}

// Each way to mount shows the same.
func TestWaysToMount(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func([]option, []string, string) error{
		"whichever": overlay, "stepwise": mountStepwise, "from within": mountFromWithin,
	} {
		for _, n := range []int{1, 2, 200} {
			lowers, root := layers(t, n)
			d, target := At(filepath.Join(root, "s")), filepath.Join(root, "m")
			if err := d.Create(lowers[0], nil); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(target, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := do(options(d, ""), lowers, target); err != nil {
				t.Errorf("%s, %d layers: %v", name, n, err)
				continue
			}
			entries, err := os.ReadDir(target)
			if err != nil || len(entries) != n {
				t.Errorf("%s, %d layers: %d files show (%v)", name, n, len(entries), err)
			}
			if err := Unmount(target); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestReadOnlyIsIdempotent(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2} {
		lowers, root := layers(t, n)
		target := filepath.Join(root, "m")
		for range 2 {
			if err := MountReadOnly(lowers, target, nil, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o644); err == nil {
			t.Errorf("%d layers: the mount can be written", n)
		}
		if err := Unmount(target); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(target); !os.IsNotExist(err) {
			t.Errorf("%d layers: the mount point is still there", n)
		}
	}
}

// A container cannot lead the walk out of its tree.
func TestUsageFollowsNoLink(t *testing.T) {
	t.Parallel()
	lowers, root := layers(t, 1)
	d := At(filepath.Join(root, "s"))
	if err := d.Create(lowers[0], nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(d.Upper, "out")); err != nil {
		t.Fatal(err)
	}
	if _, inodes, err := d.Usage(context.Background()); err != nil || inodes != 2 {
		t.Errorf("counted %d inodes (%v)", inodes, err)
	}
}

// What lies deeper than any path reaches takes up space all the same.
func TestUsageOfDeepDirectories(t *testing.T) {
	lowers, root := layers(t, 1)
	d := At(filepath.Join(root, "s"))
	if err := d.Create(lowers[0], nil); err != nil {
		t.Fatal(err)
	}
	const depth, name = 500, "directory"
	dir, err := os.Open(d.Upper)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		// Each has a sibling, so that the walk comes back to every height.
		for _, name := range []string{name, "beside"} {
			if err := unix.Mkdirat(int(dir.Fd()), name, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = dir.Close()
		dir = os.NewFile(uintptr(fd), name)
	}
	defer func() { _ = dir.Close() }()
	fd, err := unix.Openat(int(dir.Fd()), "hidden", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "hidden")
	defer func() { _ = f.Close() }()
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	if bytes, inodes, err := d.Usage(context.Background()); err != nil || inodes != 1+2*depth+1 || bytes < 1<<20 {
		t.Errorf("counted %d bytes in %d inodes, %v", bytes, inodes, err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d files were open, and then %d", before, after)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// Of a label's categories the comma would end the option.
func TestLabelsAreQuoted(t *testing.T) {
	t.Parallel()
	opts := append(options(Dirs{Upper: "/u", Work: "/w"}, "u:r:t:s0:c1,c2"), option{"last", ""})
	if got := joined(opts, []string{"/a", "/b"}); !strings.HasSuffix(got, `,upperdir=/u,workdir=/w,context="u:r:t:s0:c1,c2",last`) {
		t.Errorf("the options are %s", got)
	}
	if got := joined(options(Dirs{}, ""), nil); strings.Contains(got, "context") {
		t.Errorf("without a label the options are %s", got)
	}
}
