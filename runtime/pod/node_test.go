package pod_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/hack/fakecriu"
	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/nri"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/state"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// binaries are the shim and the pod init, built once for all tests.
// BERTH_BIN names a directory that has them, where nothing can be built: in
// the guest of hack/vm.
var binaries = sync.OnceValues(func() (string, error) {
	if built := os.Getenv("BERTH_BIN"); built != "" {
		return built, nil
	}
	dir, err := os.MkdirTemp("", "berth-pod-test-")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "seccomp runc_nocriu netgo osusergo",
		"-ldflags", "-s -w -extldflags '-static'", "-o", filepath.Join(dir, "berth-shim"), "../../cmd/berth-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	for _, cmd := range []*exec.Cmd{build, exec.Command("make", "-C", "../..", "INIT="+filepath.Join(dir, "berth-init"), "init")} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("%v: %w: %s", cmd.Args, err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	if os.Getenv(api.PluginNameEnvVar) != "" { // started by NRI from a plugin directory
		os.Exit(beAPlugin())
	}
	if notes, args, ok := fakecriu.Called(); ok {
		os.Exit(fakecriu.Restore(notes, args))
	}
	nri.LogTo(klog.Background())
	code := m.Run()
	if os.Geteuid() == 0 {
		if dir, _ := binaries(); dir != "" && dir != os.Getenv("BERTH_BIN") {
			_ = os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// images is a small real store: every container gets a bind mount of its own
// directory with a static busybox.
type images struct {
	root   string
	config spec.ImageConfig       // of busybox; id and names are filled in where they lack
	fill   func(dir string) error // if set, puts more files into a container's directory
	mu     sync.Mutex
	fail   error // of the next Mount
}

func (s *images) Mountpoint() string { return s.root }

func (s *images) Resolve(_ context.Context, ref string) (*spec.ImageConfig, error) {
	if ref == "model" {
		return &spec.ImageConfig{ID: "sha256:" + strings.Repeat("cd", 32), Ref: "model@sha256:2", Name: "model:latest", Artifact: "application/x-model"}, nil
	}
	if ref != "busybox" {
		return nil, errkind.New(errkind.NotFound, "image %s is not on the node", ref)
	}
	out := s.config
	if out.ID == "" {
		out.ID, out.Ref, out.Name = "sha256:"+strings.Repeat("ab", 32), "busybox@sha256:1", "busybox:latest"
	}
	return &out, nil
}

func (s *images) Prepare(_ context.Context, id, _ string) error {
	dir := filepath.Join(s.root, id)
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	for _, applet := range []string{"sh", "sleep", "cat", "echo", "mount"} {
		if err := os.WriteFile(filepath.Join(dir, "bin", applet), b, 0o755); err != nil {
			return err
		}
	}
	if s.fill != nil {
		return s.fill(dir)
	}
	return nil
}

func (s *images) Mount(_ context.Context, id, target string, in *idmap.Pinned, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail; err != nil {
		s.fail = nil
		return err
	}
	return s.bind(id, target, 0, in)
}

// bind binds a container's directory, with mapped owners in a user namespace.
func (s *images) bind(id, target string, flags uintptr, in *idmap.Pinned) error {
	if in == nil {
		return mount.Bind(filepath.Join(s.root, id), target, flags)
	}
	ns, err := in.Open()
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	tree, err := idmap.Tree(filepath.Join(s.root, id), ns)
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil || flags == 0 {
		return err
	}
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
}

func (s *images) Inherit(ctx context.Context, id, from string, keep bool) error {
	if !keep {
		return s.Prepare(ctx, id, "")
	}
	return os.Rename(filepath.Join(s.root, from), filepath.Join(s.root, id))
}

func (s *images) GiveBack(_ context.Context, id, from string) error {
	err := os.Rename(filepath.Join(s.root, id), filepath.Join(s.root, from))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (s *images) Discard(_ context.Context, id string) error {
	return os.RemoveAll(filepath.Join(s.root, id))
}
func (s *images) SnapshotUsage(context.Context, string) (uint64, uint64, error) { return 1, 1, nil }
func (s *images) Snapshots(context.Context) ([]string, error) {
	entries, err := os.ReadDir(s.root)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}

// noVolumes gives a pod its files and no volumes.
type noVolumes struct{}

func (noVolumes) Resolve(context.Context, []spec.Mount) ([]specs.Mount, error) { return nil, nil }
func (noVolumes) CopyUp(context.Context, string, string, string) error         { return nil }
func (noVolumes) WriteFiles(dir string, f pod.EtcFiles) error {
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(f.Hostname+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}
func (noVolumes) RewriteHosts(dir string, f pod.EtcFiles) error {
	var lines string
	for _, h := range f.Hosts {
		lines += fmt.Sprintln(h.Address, h.Names)
	}
	return os.WriteFile(filepath.Join(dir, "hosts"), []byte(lines), 0o644)
}
func (noVolumes) MountShm(dir string, _ int64) error { return mount.Bind(dir, dir, 0) }
func (noVolumes) IsNamed(string) bool                { return false }
func (noVolumes) UnmountShm(dir string) error        { return mount.Unmount(dir) }

// noNetwork grants leases and attaches nothing.
type noNetwork struct {
	mu       sync.Mutex
	leases   map[string]bool
	attached map[string]bool
	slow     chan struct{} // if set, Attach waits for it
	fail     error         // of the next Attach
}

func (n *noNetwork) Reserve(_ context.Context, r network.Request) (network.Lease, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leases[r.PodID] = true
	return network.Lease{PodID: r.PodID, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}, nil
}
func (n *noNetwork) Restore(l network.Lease) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leases[l.PodID] = true
	return nil
}
func (n *noNetwork) Attach(_ context.Context, r network.Request, l network.Lease) (network.Lease, error) {
	if n.slow != nil {
		<-n.slow
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached[r.PodID] = true
	err := n.fail
	n.fail = nil
	return l, err
}
func (n *noNetwork) Detach(_ context.Context, l network.Lease, _ string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, l.PodID)
	return nil
}
func (n *noNetwork) Release(podID string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.leases, podID)
}
func (*noNetwork) Status(context.Context) error            { return nil }
func (*noNetwork) Check(context.Context) ([]string, error) { return nil, nil }
func (*noNetwork) Repair(context.Context) error            { return nil }

// node is a Table with its own directories and cgroup parent.
type node struct {
	*pod.Table
	cfg     pod.Config
	images  *images
	network *noNetwork
}

func newNode(t *testing.T, group pod.ShimGroup) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := state.BootID()
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: a unix socket's path ends at 107 bytes.
	dir, err := os.MkdirTemp("", "bpt-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{images: &images{root: filepath.Join(dir, "images")}, network: &noNetwork{leases: map[string]bool{}, attached: map[string]bool{}}}
	if err := os.MkdirAll(n.images.root, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	n.cfg = pod.Config{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), NetnsDir: filepath.Join(dir, "netns"),
		CgroupParent: "/" + filepath.Base(dir), BootID: boot, InitPath: filepath.Join(bin, "berth-init"),
		Shim:   pod.ShimConfig{Group: group, Binary: filepath.Join(bin, "berth-shim"), LogFile: filepath.Join(dir, "shim.log")},
		Images: n.images, Volumes: noVolumes{}, Network: n.network}
	if systemdRuns() {
		n.cfg.SystemdCgroup, n.cfg.CgroupParent = true, "/bpt.slice/"+filepath.Base(dir)+".slice"
	}
	n.boot(t)
	t.Cleanup(func() {
		n.clean(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		if n.cfg.SystemdCgroup { // as the kubelet does with a pod's
			if out, err := exec.Command("systemctl", "stop", filepath.Base(n.cfg.CgroupParent)).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
		if err := cgroup.Remove(n.cfg.CgroupParent); err != nil {
			t.Error(err)
		}
	})
	return n
}

// systemdRuns tells whether systemd runs the machine, as the daemon finds out:
// the driver under test is systemd's then.
func systemdRuns() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// group is the cgroup of a container in the node's own parent.
func (n *node) group(id string) string {
	if n.cfg.SystemdCgroup {
		id = "berth-" + id + ".scope"
	}
	return filepath.Join(n.cfg.CgroupParent, id)
}

// parentBelow is a cgroup parent for pods below the node's own.
func (n *node) parentBelow(name string) string {
	if n.cfg.SystemdCgroup {
		slice := strings.TrimSuffix(filepath.Base(n.cfg.CgroupParent), ".slice")
		name = slice + "-" + name + ".slice"
	}
	return filepath.Join(n.cfg.CgroupParent, name)
}

// boot opens the Table anew, as a daemon that starts does.
func (n *node) boot(t *testing.T) {
	t.Helper()
	var err error
	if n.Table, err = pod.New(n.cfg); err != nil {
		t.Fatal(err)
	}
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// clean removes every pod and proves that nothing is left.
func (n *node) clean(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	for _, p := range n.Pods(pod.ViewAll, pod.PodFilter{}) {
		if err := n.Remove(ctx, pod.ViewAll, p.ID); err != nil {
			t.Errorf("cannot remove pod: %v", err)
		}
	}
	problems, err := n.Check(ctx)
	if err != nil || len(problems) > 0 {
		t.Errorf("left behind: %v, %v", problems, err)
	}
	if len(n.network.leases)+len(n.network.attached) > 0 {
		t.Errorf("left in the network: %v %v", n.network.leases, n.network.attached)
	}
	n.Close()
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range table {
		if strings.HasPrefix(m.Target, n.cfg.State) || strings.HasPrefix(m.Target, n.cfg.NetnsDir) {
			t.Errorf("mount %s is left", m.Target)
		}
	}
}

func podConfig(name string) spec.Pod {
	return spec.Pod{Metadata: spec.PodMetadata{Name: name, UID: "uid-" + name, Namespace: "test"}, Hostname: name,
		Namespaces: spec.Namespaces{Network: spec.ModePod, PID: spec.ModeContainer, IPC: spec.ModePod}}
}

func containerConfig(name string, command ...string) spec.Container {
	return spec.Container{Metadata: spec.ContainerMetadata{Name: name}, Image: "busybox", Command: command,
		Security: spec.Security{GroupsPolicy: spec.GroupsMerge, Seccomp: &spec.Seccomp{Mode: spec.SeccompDefault},
			Namespaces: spec.Namespaces{Network: spec.ModePod, PID: spec.ModeContainer, IPC: spec.ModePod}}}
}

// up runs a pod with one started container.
func (n *node) up(t *testing.T, name string, command ...string) (podID, id string) {
	t.Helper()
	ctx := t.Context()
	podID, err := n.Run(ctx, pod.ViewAll, podConfig(name))
	if err != nil {
		t.Fatal(err)
	}
	if id, err = n.Create(ctx, pod.ViewAll, podID, containerConfig("main", command...)); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(ctx, pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	return podID, id
}

// ended waits for the container's exit to be published.
func (n *node) ended(t *testing.T, id string) *pod.ContainerStatus {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if st, err := n.Container(pod.ViewAll, id); err != nil {
			t.Fatal(err)
		} else if st.State == pod.StateExited {
			return st
		}
	}
	t.Fatalf("container %s has not ended", id)
	return nil
}

func groups(t *testing.T, f func(t *testing.T, g pod.ShimGroup)) {
	for _, g := range []pod.ShimGroup{pod.GroupNode, pod.GroupPod} {
		t.Run("shim per "+string(g), func(t *testing.T) { f(t, g) })
	}
}

func TestLifeOfAContainer(t *testing.T) {
	groups(t, func(t *testing.T, g pod.ShimGroup) {
		n := newNode(t, g)
		ctx := t.Context()
		_, id := n.up(t, "life", "/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done")
		res, err := n.ExecSync(ctx, pod.ViewAll, id, []string{"/bin/sh", "-c", "cat /etc/hostname; echo oops >&2; exit 3"}, 10*time.Second)
		if err != nil || string(res.Stdout) != "life\n" || string(res.Stderr) != "oops\n" || res.Code != 3 {
			t.Fatalf("exec: %q %q %d %v", res.Stdout, res.Stderr, res.Code, err)
		}
		if err := n.StopContainer(ctx, pod.ViewAll, id, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		if st := n.ended(t, id); st.ExitCode != 7 || st.Reason != "Error" || st.FinishedAt.Before(st.StartedAt) {
			t.Fatalf("exit %d, reason %s, from %v to %v", st.ExitCode, st.Reason, st.StartedAt, st.FinishedAt)
		}
		for range 2 { // both idempotent
			if err := n.StopContainer(ctx, pod.ViewAll, id, time.Second); err != nil {
				t.Fatal(err)
			}
			if err := n.RemoveContainer(ctx, pod.ViewAll, id); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestExecTimeoutKillsTheWholeTree(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "exec", "/bin/sleep", "600")
	_, err := n.ExecSync(t.Context(), pod.ViewAll, id, []string{"/bin/sh", "-c", "sleep 601 & sleep 602"}, time.Second)
	if !errkind.Is(err, errkind.DeadlineExceeded) {
		t.Fatalf("got %v, want DeadlineExceeded", err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		pids, err := cgroup.Procs(n.cfg.CgroupParent)
		if err == nil && len(pids) == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("processes of the exec are left: %v, %v", pids, err)
		}
	}
}

func TestRetriedRunAndCreateJoin(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.network.slow = make(chan struct{})
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.Run(short, pod.ViewAll, podConfig("join")); !errkind.Is(err, errkind.DeadlineExceeded) {
		t.Fatalf("got %v, want DeadlineExceeded", err)
	}
	if got := n.Pods(pod.ViewAll, pod.PodFilter{}); len(got) != 0 {
		t.Fatal("a half-made pod is listed")
	}
	close(n.network.slow)
	first, err := n.Run(t.Context(), pod.ViewAll, podConfig("join"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := n.Run(t.Context(), pod.ViewAll, podConfig("join"))
	if err != nil || again != first {
		t.Fatalf("the retry gave %s, %v; want %s", again, err, first)
	}
	ids := make(chan string, 4)
	for range 4 {
		go func() {
			id, err := n.Create(context.Background(), pod.ViewAll, first, containerConfig("main", "/bin/sleep", "1"))
			ids <- fmt.Sprint(id, err)
		}()
	}
	one := <-ids
	for range 3 {
		if other := <-ids; other != one {
			t.Fatalf("two creates gave %s and %s", one, other)
		}
	}
	if err := n.Stop(t.Context(), pod.ViewAll, first); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Run(t.Context(), pod.ViewAll, podConfig("join")); !errkind.Is(err, errkind.AlreadyExists) {
		t.Fatalf("running a stopped pod's attempt: %v, want AlreadyExists", err)
	}
}

func TestFailureLeavesNothingAndTheNameIsFree(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.network.fail = errors.New("no cable")
	if _, err := n.Run(t.Context(), pod.ViewAll, podConfig("fail")); err == nil || !strings.Contains(err.Error(), "no cable") {
		t.Fatalf("got %v", err)
	}
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("fail"))
	if err != nil {
		t.Fatal(err)
	}
	n.images.fail = errors.New("disk on fire")
	cfg := containerConfig("main", "/bin/sleep", "1")
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, cfg); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Fatalf("got %v", err)
	}
	if problems, err := n.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Fatalf("left behind: %v, %v", problems, err)
	}
	missing := cfg
	missing.Image = "nosuch"
	missing.Metadata.Name = "other"
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, missing); !errkind.Is(err, errkind.NotFound) {
		t.Fatalf("got %v, want NotFound", err)
	}
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, cfg); err != nil {
		t.Fatal(err)
	}
}

// A daemon that starts finds what runs, and what ended while there was none.
func TestRestartAdoptsAndReports(t *testing.T) {
	groups(t, func(t *testing.T, g pod.ShimGroup) {
		n := newNode(t, g)
		podID, stays := n.up(t, "stays", "/bin/sleep", "600")
		_, ends := n.up(t, "ends", "/bin/sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; exit 9")
		before, err := n.Container(pod.ViewAll, stays)
		if err != nil {
			t.Fatal(err)
		}
		n.Close() // what a kill leaves is tried by the crash test
		if err := os.WriteFile(filepath.Join(n.images.root, ends, "go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		n.boot(t)
		if st := n.ended(t, ends); st.ExitCode != 9 || st.Reason != "Error" {
			t.Fatalf("exit %d, reason %s", st.ExitCode, st.Reason)
		}
		after, err := n.Container(pod.ViewAll, stays)
		if err != nil || after.State != pod.StateRunning || after.Pid != before.Pid || !after.StartedAt.Equal(before.StartedAt) {
			t.Fatalf("%+v, %v; before %+v", after, err, before)
		}
		if _, err := n.ExecSync(t.Context(), pod.ViewAll, stays, []string{"/bin/echo"}, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		if again, err := n.Run(t.Context(), pod.ViewAll, podConfig("stays")); err != nil || again != podID {
			t.Fatalf("the retry gave %s, %v; want %s", again, err, podID)
		}
	})
}

// After a reboot pods and containers are listed as ended until removed.
func TestRebootEndsEverything(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "reboot", "/bin/sleep", "600")
	n.Close()
	n.cfg.BootID = "another boot"
	n.boot(t)
	if st := n.ended(t, id); st.ExitCode != 255 || st.Reason != "Unknown" {
		t.Fatalf("exit %d, reason %s", st.ExitCode, st.Reason)
	}
	if pods := n.Pods(pod.ViewAll, pod.PodFilter{}); len(pods) != 1 || pods[0].Ready {
		t.Fatalf("pods %v", pods)
	}
}

func TestSharedPIDNamespaceHasAnInit(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	cfg := podConfig("shared")
	cfg.Namespaces.PID = spec.ModePod
	podID, err := n.Run(t.Context(), pod.ViewAll, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := containerConfig("main", "/bin/sleep", "600")
	c.Security.Namespaces.PID = spec.ModePod
	id, err := n.Create(t.Context(), pod.ViewAll, podID, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context(), pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	res, err := n.ExecSync(t.Context(), pod.ViewAll, id, []string{"/bin/cat", "/proc/1/comm"}, 10*time.Second)
	if err != nil || strings.TrimSpace(string(res.Stdout)) != "init" {
		t.Fatalf("process 1 is %q, %v", res.Stdout, err)
	}
	if err := n.Stop(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	if st := n.ended(t, id); st.ExitCode != 137 {
		t.Fatalf("exit %d, want 137", st.ExitCode)
	}
}

func TestTheKubeletDoesNotSeeLocalPods(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, id := n.up(t, "local", "/bin/sleep", "600")
	v := pod.ViewKubelet
	if len(n.Pods(v, pod.PodFilter{})) != 0 || len(n.Containers(v, pod.ContainerFilter{})) != 0 {
		t.Error("a local pod is listed in the kubelet's view")
	}
	if _, err := n.Container(v, id); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("status: %v, want NotFound", err)
	}
	if err := n.Remove(t.Context(), v, podID); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
	if _, err := n.Pod(pod.ViewAll, podID); err != nil {
		t.Errorf("the local pod was removed through the kubelet's view: %v", err)
	}
}

func (noVolumes) Prepare(context.Context, string, string, string, bool, func() bool) error {
	return nil
}
