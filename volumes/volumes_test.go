package volumes

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// tmpfs mounts a file system of the test's own with a propagation.
func tmpfs(t *testing.T, dir string, propagation uintptr) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(dir); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", propagation, ""); err != nil {
		t.Fatal(err)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, "real")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "not", "yet")
	rro := "ro"
	if ProbeRRO() {
		rro = "rro"
	}
	got, err := Resolver{}.Resolve(context.Background(), []Request{
		{ContainerPath: "/a//b/", HostPath: link, ReadOnly: true, Propagation: "private"},
		{ContainerPath: "/rro", HostPath: target, ReadOnly: true, RecursiveReadOnly: ProbeRRO()},
		{ContainerPath: "/new", HostPath: missing},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		place, source string
		options       []string
	}{
		{"/a/b", target, []string{"rbind", "ro", "rprivate"}},
		{"/rro", target, []string{"rbind", rro, "rprivate"}},
		{"/new", missing, []string{"rbind", "rw", "rprivate"}},
	} {
		if m := got[i]; m.Destination != want.place || m.Source != want.source || m.Type != "bind" || !slices.Equal(m.Options, want.options) {
			t.Errorf("got %+v, want %+v", m, want)
		}
	}
	if st, err := os.Stat(missing); err != nil || !st.IsDir() || st.Mode().Perm() != 0o755 {
		t.Errorf("the missing path was not made: %v, %v", st, err)
	}
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		strict bool
		req    Request
		want   errkind.Kind
	}{
		{false, Request{ContainerPath: "rel", HostPath: dir}, errkind.InvalidArgument},
		{false, Request{ContainerPath: "/", HostPath: dir}, errkind.InvalidArgument},
		{false, Request{ContainerPath: "/..", HostPath: dir}, errkind.InvalidArgument},
		{false, Request{ContainerPath: "/a", HostPath: "rel"}, errkind.InvalidArgument},
		{false, Request{ContainerPath: "/a", HostPath: ""}, errkind.InvalidArgument},
		{false, Request{ContainerPath: "/a\x00", HostPath: dir}, errkind.InvalidArgument},
		{false, Request{ContainerPath: "/a", HostPath: dir, Propagation: "rshared"}, errkind.InvalidArgument},
		{false, Request{ContainerPath: "/a", HostPath: dir, RecursiveReadOnly: true}, errkind.InvalidArgument},
		{false, Request{ContainerPath: "/a", HostPath: dir, ReadOnly: true, RecursiveReadOnly: true, Propagation: "slave"}, errkind.InvalidArgument},
		{false, Request{ContainerPath: "/a", HostPath: dangling}, errkind.FailedPrecondition},
		{false, Request{ContainerPath: "/a", HostPath: file + "/below"}, errkind.FailedPrecondition},
		{true, Request{ContainerPath: "/a", HostPath: dir + "/missing"}, errkind.NotFound},
	} {
		if _, err := (Resolver{Strict: c.strict}).Resolve(context.Background(), []Request{c.req}); !errkind.Is(err, c.want) {
			t.Errorf("%+v: %v, want kind %d", c.req, err, c.want)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "missing")); err == nil {
		t.Error("strict made a missing path")
	}
}

func TestPropagation(t *testing.T) {
	needsRoot(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	private, shared := filepath.Join(dir, "private"), filepath.Join(dir, "shared")
	tmpfs(t, private, unix.MS_PRIVATE)
	tmpfs(t, shared, unix.MS_SHARED)
	slave := filepath.Join(dir, "slave")
	if err := os.Mkdir(slave, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mount.Bind(shared, slave, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mount.Unmount(slave) })
	if err := unix.Mount("", slave, "", unix.MS_SLAVE, ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		source, propagation string
		ok                  bool
	}{
		{private, "private", true}, {private, "slave", false}, {private, "shared", false},
		{slave, "private", true}, {slave, "slave", true}, {slave, "shared", false},
		{shared, "private", true}, {shared, "slave", true}, {shared, "shared", true},
	} {
		// A directory below the mount, not the mount point itself.
		req := Request{ContainerPath: "/a", HostPath: filepath.Join(c.source, "below"), Propagation: c.propagation}
		got, err := Resolver{}.Resolve(context.Background(), []Request{req})
		switch {
		case c.ok && (err != nil || !slices.Contains(got[0].Options, "r"+c.propagation)):
			t.Errorf("%s as %s: %v, %v", filepath.Base(c.source), c.propagation, got, err)
		case !c.ok && (!errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "mount --make-shared "+c.source)):
			t.Errorf("%s as %s: %v, want FailedPrecondition with the remedy", filepath.Base(c.source), c.propagation, err)
		}
	}
}

// A mount that was covered by a later one further up is in the table still.
func TestMountOfWhatHidesAnother(t *testing.T) {
	needsRoot(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	upper := filepath.Join(dir, "a")
	source := filepath.Join(upper, "b")
	if err := os.MkdirAll(source, 0o755); err != nil {
		t.Fatal(err)
	}
	tmpfs(t, source, unix.MS_SHARED)
	tmpfs(t, upper, unix.MS_PRIVATE)
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = Resolver{}.Resolve(context.Background(), []Request{{ContainerPath: "/a", HostPath: source, Propagation: "shared"}})
	if !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "its mount "+upper+" is not shared") {
		t.Errorf("got %v, want it told of %s", err, upper)
	}
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/": "/", upper: upper, "/proc/self": "/proc"} {
		if got, err := mountOf(table, path); err != nil || got.Target != want {
			t.Errorf("%s is on %s, %v, want %s", path, got.Target, err, want)
		}
	}
}

func TestProbeRRO(t *testing.T) {
	needsRoot(t)
	// The rest of the table is other tests' too.
	root := func() []mount.Info {
		table, err := mount.Table()
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(table, func(m mount.Info) bool { return m.Target != "/" })
	}
	before := root()
	if !ProbeRRO() {
		t.Log("this kernel cannot make mounts read-only recursively")
	}
	if after := root(); len(before) == 0 || !slices.Equal(before, after) {
		t.Errorf("the probe changed %v to %v", before, after)
	}
}
