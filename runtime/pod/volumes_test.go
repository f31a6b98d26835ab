package pod_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/mount"
	"github.com/berth-runtime/berth/volumes"
	"github.com/berth-runtime/berth/volumes/shm"
)

// realVolumes are those of package volumes, as the daemon wires them.
type realVolumes struct{ noVolumes }

func (realVolumes) Resolve(ctx context.Context, mounts []spec.Mount) ([]specs.Mount, error) {
	var reqs []volumes.Request
	for _, m := range mounts {
		reqs = append(reqs, volumes.Request{ContainerPath: m.ContainerPath, HostPath: m.HostPath, ReadOnly: m.ReadOnly,
			RecursiveReadOnly: m.RecursiveReadOnly, Propagation: string(m.Propagation), IDs: m.IDs, Options: m.Options})
	}
	return volumes.Resolver{}.Resolve(ctx, reqs)
}

func (realVolumes) CopyUp(ctx context.Context, rootfs, path, dst string) error {
	return volumes.CopyUp(ctx, rootfs, path, dst)
}
func (realVolumes) MountShm(dir string, _ int64) error { return shm.Mount(dir, shm.DefaultSize) }

// newVolumeNode is a node with real volumes.
func newVolumeNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t, pod.GroupNode)
	n.with(t, func(c *pod.Config) { c.Volumes = realVolumes{} })
	return n
}

// hostDir is a directory of the host with a file, on a tmpfs of its own with
// the given propagation.
func hostDir(t *testing.T, propagation uintptr) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", propagation, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func hostMount(at, path string, change ...func(*spec.Mount)) spec.Mount {
	m := spec.Mount{ContainerPath: at, HostPath: path, Propagation: spec.PropagationPrivate}
	for _, c := range change {
		c(&m)
	}
	return m
}

func readOnly(m *spec.Mount) { m.ReadOnly = true }

func options(o ...string) func(*spec.Mount) { return func(m *spec.Mount) { m.Options = o } }

func propagation(p spec.Propagation) func(*spec.Mount) {
	return func(m *spec.Mount) { m.Propagation = p }
}

func withMounts(mounts ...spec.Mount) func(*spec.Pod, *spec.Container) {
	return func(_ *spec.Pod, c *spec.Container) { c.Mounts = mounts }
}

// TestHostPaths mounts directories, a file, a link and what does not exist.
func TestHostPaths(t *testing.T) {
	n := newVolumeNode(t)
	dir := hostDir(t, unix.MS_PRIVATE)
	log := filepath.Join(dir, "termination-log")
	if err := os.WriteFile(log, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	link, missing := filepath.Join(t.TempDir(), "link"), filepath.Join(dir, "not", "yet")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	_, id := n.start(t, "paths", withMounts(
		hostMount("/rw", dir), hostMount("/ro", dir, readOnly), hostMount("/link", link), hostMount("/new", missing),
		hostMount("/dev/termination-log", log),
		// Asked for in an order in which the first would hide under the second.
		hostMount("/deep/below/it", dir), hostMount("/deep", missing)))
	n.wantSh(t, id, "cat /rw/file /ro/file /link/file /deep/below/it/file", "host\nhost\nhost\nhost")
	n.wantSh(t, id, "echo from inside >/rw/written && cat /ro/written", "from inside")
	n.wantRefused(t, id, "echo x >/ro/file", "Read-only file system")
	n.shOut(t, id, "echo died of joy >/dev/termination-log; echo x >/new/x")
	for path, want := range map[string]string{log: "died of joy\n", filepath.Join(missing, "x"): "x\n", filepath.Join(dir, "written"): "from inside\n"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if st, err := os.Stat(missing); err != nil || st.Mode() != os.ModeDir|0o755 {
		t.Errorf("the missing path became %v, %v", st.Mode(), err)
	}
}

// TestMountOptions observes each option, and that no other mount has it.
func TestMountOptions(t *testing.T) {
	n := newVolumeNode(t)
	dir := hostDir(t, unix.MS_PRIVATE)
	if err := os.WriteFile(filepath.Join(dir, "run"), []byte("#!/bin/sh\necho ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	_, id := n.start(t, "options", withMounts(hostMount("/plain", dir), hostMount("/noexec", dir, options("noexec")),
		hostMount("/nodev", dir, options("nodev")), hostMount("/nosuid", dir, options("nosuid")),
		hostMount("/all", dir, readOnly, options("nosuid", "nodev", "noexec")),
		func() spec.Mount { m := imageMount("/image", "busybox", ""); m.Options = []string{"noexec"}; return m }()))
	n.wantSh(t, id, "/plain/run; cat /plain/null; echo $?", "ran\n0")
	n.wantRefused(t, id, "/noexec/run", "ermission denied")
	n.wantRefused(t, id, "/all/run", "ermission denied")
	n.wantRefused(t, id, "/image/bin/echo x", "ermission denied")
	n.wantRefused(t, id, "cat /nodev/null", "ermission denied")
	for at, want := range map[string]string{"/plain": "rw,relatime", "/noexec": "rw,noexec,relatime", "/nodev": "rw,nodev,relatime", "/nosuid": "rw,nosuid,relatime",
		"/all": "ro,nosuid,nodev,noexec,relatime", "/image": "ro,nosuid,nodev,noexec,relatime"} {
		n.wantSh(t, id, "while read a b c d at o rest; do [ $at = "+at+" ] && echo $o; done </proc/self/mountinfo", want)
	}
}

// TestRecursiveReadOnly: read-only leaves the mounts below a volume writable,
// recursive read-only does not.
func TestRecursiveReadOnly(t *testing.T) {
	n := newVolumeNode(t)
	dir := hostDir(t, unix.MS_PRIVATE)
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mount.Unmount(below) })
	_, id := n.start(t, "rro", withMounts(hostMount("/ro", dir, readOnly),
		hostMount("/rro", dir, readOnly, func(m *spec.Mount) { m.RecursiveReadOnly = true })))
	n.wantRefused(t, id, "echo x >/ro/x", "Read-only file system")
	n.wantSh(t, id, "echo x >/ro/below/x && cat /rro/below/x", "x")
	n.wantRefused(t, id, "echo x >/rro/x", "Read-only file system")
	n.wantRefused(t, id, "echo x >/rro/below/x", "Read-only file system")
}

// TestMountPropagation mounts on the host and in the container, below volumes
// of each mode, and looks from the other side.
func TestMountPropagation(t *testing.T) {
	n := newVolumeNode(t)
	dir := hostDir(t, unix.MS_SHARED)
	for _, name := range []string{"from-host", "from-private", "from-slave", "from-shared"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, id := n.start(t, "propagation", func(p *spec.Pod, c *spec.Container) {
		privileged(p, c)
		c.Mounts = []spec.Mount{hostMount("/private", dir), hostMount("/slave", dir, propagation(spec.PropagationSlave)), hostMount("/shared", dir, propagation(spec.PropagationShared))}
	})
	fromHost := filepath.Join(dir, "from-host")
	if err := unix.Mount("tmpfs", fromHost, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mount.Unmount(fromHost) })
	if err := os.WriteFile(filepath.Join(fromHost, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	n.wantSh(t, id, "cd /; ls -d */from-host/x | sort", "shared/from-host/x\nslave/from-host/x")
	n.shOut(t, id, "for m in private slave shared; do mount -t tmpfs none /$m/from-$m && echo x >/$m/from-$m/x || exit 1; done")
	found, err := filepath.Glob(filepath.Join(dir, "from-[ps]*", "x"))
	if err != nil || len(found) != 1 || !strings.HasSuffix(found[0], "/from-shared/x") {
		t.Errorf("the host sees %q (%v), want what was mounted below the shared volume only", found, err)
	}
	if err := mount.Unmount(filepath.Join(dir, "from-shared")); err != nil {
		t.Fatal(err)
	}
}

// TestVolumesOfAUserNamespace: files keep their owners on the host, and inside
// they are those of the same number.
func TestVolumesOfAUserNamespace(t *testing.T) {
	n := newVolumeNode(t)
	n.images.config.Volumes = []string{"/bin/data", "/fresh"}
	n.images.fill = func(dir string) error {
		made := filepath.Join(dir, "bin", "data", "made")
		return errors.Join(os.Mkdir(filepath.Dir(made), 0o755), os.WriteFile(made, []byte("by the image\n"), 0o644), os.Chown(made, 5, 6))
	}
	dir := hostDir(t, unix.MS_PRIVATE)
	if err := os.Chown(filepath.Join(dir, "file"), 1000, 1001); err != nil {
		t.Fatal(err)
	}
	mapped := func(ids idmap.Map) func(*spec.Mount) { return func(m *spec.Mount) { m.IDs = &ids } }
	podID, id := n.start(t, "volumes", func(p *spec.Pod, c *spec.Container) {
		inUserns(p, c)
		other := idmap.Map{UID: idmap.Range{Host: 300000, Length: 65536}, GID: idmap.Range{Host: 400007, Length: 65536}}
		c.Mounts = []spec.Mount{hostMount("/mapped", dir, mapped(p.Namespaces.IDs)), hostMount("/plain", dir), hostMount("/other", dir, readOnly, mapped(other))}
	})
	n.wantSh(t, id, "stat -c %u:%g /mapped /mapped/file /plain /plain/file /other/file", "0:0\n1000:1001\n65534:65534\n65534:65534\n1000:1008")
	n.shOut(t, id, "echo x >/mapped/new; chown 7:8 /mapped/new")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "new"), &st); err != nil || st.Uid != 7 || st.Gid != 8 {
		t.Errorf("on the host the file belongs to %d:%d, %v", st.Uid, st.Gid, err)
	}
	n.wantRefused(t, id, "echo x >/plain/new", "ermission denied")

	// The image's own volumes: with its content, or empty, always root's.
	n.wantSh(t, id, "stat -c %u:%g /fresh /bin/data /bin/data/made; cat /bin/data/made", "0:0\n0:0\n5:6\nby the image")
	n.shOut(t, id, "echo x >/fresh/x && echo x >/bin/data/x")
	if err := unix.Stat(filepath.Join(n.cfg.Root, "volumes", id, "0", "x"), &st); err != nil || st.Uid != 300000 || st.Gid != 400000 {
		t.Errorf("on the host the volume's file belongs to %d:%d, %v", st.Uid, st.Gid, err)
	}

	// A file system that cannot map owners is an error, never shown plainly.
	cfg := containerConfig("cannot", "/bin/sleep", "600")
	inUserns(new(spec.Pod), &cfg)
	cfg.Mounts = []spec.Mount{hostMount("/proc2", "/proc", mapped(cfg.Security.Namespaces.IDs))}
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, cfg); err == nil || !strings.Contains(err.Error(), "idmap") {
		t.Errorf("a file system that cannot map owners: %v", err)
	}
}

// TestMappedVolumeOutsideAUserNamespace: a mapping is the mount's own.
func TestMappedVolumeOutsideAUserNamespace(t *testing.T) {
	n := newVolumeNode(t)
	dir := hostDir(t, unix.MS_PRIVATE)
	_, id := n.start(t, "mapped", withMounts(hostMount("/mapped", dir, func(m *spec.Mount) {
		m.IDs = &idmap.Map{UID: idmap.Range{Host: 5000, Length: 10}, GID: idmap.Range{Host: 6000, Length: 10}}
	})))
	n.wantSh(t, id, "stat -c %u:%g /mapped/file", "5000:6000")
}

// TestSharedMemory: one /dev/shm for the pod, of the default size.
func TestSharedMemory(t *testing.T) {
	n := newVolumeNode(t)
	podID, a := n.start(t, "shm", func(*spec.Pod, *spec.Container) {})
	b := n.second(t, podID, "second", func(*spec.Container) {})
	n.wantSh(t, a, "df -k /dev/shm | { read head; read fs size rest; echo $size; }", "65536")
	n.wantSh(t, a, "echo x >/dev/shm/x; stat -c %a /dev/shm", "1777")
	n.wantSh(t, b, "cat /dev/shm/x", "x")
	n.wantRefused(t, a, "dd if=/dev/zero of=/dev/shm/big bs=1M count=65", "No space left")
}

func (realVolumes) Prepare(context.Context, string, string, string, bool, func() bool) error {
	return nil
}
