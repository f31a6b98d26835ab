//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// The tests of these files ask for one field of CRI at a time, through the
// daemon's socket, and observe it from inside a container or in the kernel.
// hack/contract.txt names them, field by field: a case bears its field's name.

// asked is a field that is asked for and what a process inside then finds.
type asked struct {
	ask    func(*criv1.ContainerConfig)
	script string // run inside
	want   string // printed by script, without the space around it
}

func ofSecurity(change func(*criv1.LinuxContainerSecurityContext)) func(*criv1.ContainerConfig) {
	return func(c *criv1.ContainerConfig) { change(c.Linux.SecurityContext) }
}

func ofResources(r *criv1.LinuxContainerResources) func(*criv1.ContainerConfig) {
	return func(c *criv1.ContainerConfig) { c.Linux.Resources = r }
}

func ofMount(m *criv1.Mount) func(*criv1.ContainerConfig) {
	return func(c *criv1.ContainerConfig) { c.Mounts = []*criv1.Mount{m} }
}

// ofImage leaves to the image what it runs.
func ofImage(change func(*criv1.ContainerConfig)) func(*criv1.ContainerConfig) {
	return func(c *criv1.ContainerConfig) { c.Command = nil; change(c) }
}

// hold observes each of the cases in a container of its own, in one pod that
// sandbox describes.
func (n *node) hold(sandbox *criv1.PodSandboxConfig, image string, cases map[string]asked) {
	n.t.Helper()
	pod, err := n.runtime().RunPodSandbox(n.t.Context(), &criv1.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		n.t.Fatal(err)
	}
	for field, c := range cases {
		n.t.Run(field, func(t *testing.T) {
			config := lab.ContainerConfig(field, image, "sleep", "600")
			config.Linux.SecurityContext.NamespaceOptions = sandbox.Linux.SecurityContext.NamespaceOptions
			c.ask(config)
			if err := n.holds(pod.PodSandboxId, config, sandbox, c); err != nil {
				t.Error(err)
			}
		})
	}
}

// holds starts a container in a pod, observes it and removes it.
func (n *node) holds(pod string, config *criv1.ContainerConfig, sandbox *criv1.PodSandboxConfig, c asked) error {
	rt, ctx := n.runtime(), n.t.Context()
	made, err := rt.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: sandbox})
	if err != nil {
		return err
	}
	if _, err := rt.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return err
	}
	if err := n.begun(made.ContainerId); err != nil {
		return err
	}
	if err := n.finds(made.ContainerId, c.script, c.want); err != nil {
		return err
	}
	_, err = rt.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: made.ContainerId})
	return err
}

// begun waits until the container's first process is the program that it runs:
// a start is answered before the last step of the process that becomes it.
func (n *node) begun(id string) error {
	r, err := n.runtime().ContainerStatus(n.t.Context(), &criv1.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return err
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil {
		return err
	}
	return lab.Eventually(n.t.Context(), 30*time.Second, func() error {
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", info.Pid))
		if err == nil && strings.HasPrefix(program, "/memfd:") {
			err = fmt.Errorf("process %d is still %s", info.Pid, program)
		}
		return err
	})
}

// finds compares what script prints inside a container.
func (n *node) finds(id, script, want string) error {
	out, err := n.runtime().ExecSync(n.t.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Timeout: 60})
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(out.Stdout)); got != want {
		return fmt.Errorf("%s: %q, want %q; %s", script, got, want, out.Stderr)
	}
	return nil
}

const (
	commandLine = `tr '\0' ' ' </proc/1/cmdline`
	environment = `tr '\0' '\n' </proc/1/environ | grep ^TEST_ | sort`
	noWrite     = "Read-only file system"
)

// contractImage pushes and pulls an image that says of everything what is to be
// run and how.
func contractImage(t *testing.T, n *node) (ref, id string) {
	t.Helper()
	base, err := testimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	img, err := testimage.Image{
		Layers: []testimage.Layer{base, {Files: []testimage.File{{Path: "/which", Data: "this one\n"}}}},
		Config: v1.Config{Entrypoint: []string{"sleep"}, Cmd: []string{"1111"}, WorkingDir: "/var", StopSignal: "SIGQUIT",
			Env: []string{"PATH=/bin", "TEST_IMAGE=image", "TEST_BOTH=image"}},
	}.Build()
	if err != nil {
		t.Fatal(err)
	}
	ref = n.Registry + "/contract:1"
	if _, err := testimage.Push(t.Context(), ref, img); err != nil {
		t.Fatal(err)
	}
	return ref, n.pulled(ref)
}

// TestContainerFields observes the fields of ContainerConfig.
func TestContainerFields(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, id := contractImage(t, n)
	host, number := hostDevice(t)
	devices := filepath.Join(n.Dir, "devices")
	if err := os.Mkdir(devices, 0o755); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(devices, "one"), unix.S_IFCHR|0o600, int(st.Rdev)); err != nil {
		t.Fatal(err)
	}
	device := func(d *criv1.Device) func(*criv1.ContainerConfig) {
		return func(c *criv1.ContainerConfig) { c.Devices = []*criv1.Device{d} }
	}
	n.hold(n.podConfig("container"), ref, map[string]asked{
		"image": {ofImage(func(c *criv1.ContainerConfig) { c.Image.Image = id }), "cat /which", "this one"},
		// It replaces the entry point, and the image's arguments go with that.
		"command": {func(c *criv1.ContainerConfig) { c.Command = []string{"sleep", "2222"} }, commandLine, "sleep 2222"},
		"args":    {ofImage(func(c *criv1.ContainerConfig) { c.Args = []string{"3333"} }), commandLine, "sleep 3333"},
		"neither command nor args": {ofImage(func(*criv1.ContainerConfig) {}),
			commandLine + "; readlink /proc/1/cwd; " + environment, "sleep 1111 /var\nTEST_BOTH=image\nTEST_IMAGE=image"},
		"command and args": {func(c *criv1.ContainerConfig) { c.Args = []string{"1"} }, commandLine, "sleep 600 1"},
		"working_dir":      {func(c *criv1.ContainerConfig) { c.WorkingDir = "/made/for/it" }, "readlink /proc/1/cwd; pwd", "/made/for/it\n/made/for/it"},
		"envs": {func(c *criv1.ContainerConfig) {
			c.Envs = []*criv1.KeyValue{{Key: "TEST_TWICE", Value: []byte("first")}, {Key: "TEST_BOTH", Value: []byte("asked = ü\n$x")}, {Key: "TEST_TWICE", Value: []byte("last")}, {Key: "TEST_EMPTY"}}
		}, environment + `; echo "$TEST_BOTH"`, "TEST_BOTH=asked = ü\nTEST_EMPTY=\nTEST_IMAGE=image\nTEST_TWICE=last\nasked = ü\n$x"},
		"tty":      {func(c *criv1.ContainerConfig) { c.Tty = true }, "for f in 0 1 2; do readlink /proc/1/fd/$f; done", "/dev/pts/0\n/dev/pts/0\n/dev/pts/0"},
		"stdin":    {func(c *criv1.ContainerConfig) { c.Stdin = true }, "test -p /proc/1/fd/0 && echo open", "open"},
		"no stdin": {func(*criv1.ContainerConfig) {}, "readlink /proc/1/fd/0", "/dev/null"},

		"devices container_path": {device(&criv1.Device{HostPath: host, ContainerPath: "/dev/below/it", Permissions: "rw"}), "stat -c %t:%T /dev/below/it", number},
		"devices host_path":      {device(&criv1.Device{HostPath: devices, ContainerPath: "/dev/all", Permissions: "rw"}), "cd /dev/all; stat -c '%n %t:%T' *", "one " + number},
		"devices permissions": {device(&criv1.Device{HostPath: host, ContainerPath: "/dev/it", Permissions: "r"}),
			"(: </dev/it) 2>/dev/null && echo read; (: >/dev/it) 2>&1 | grep -o 'Operation not permitted'", "read\nOperation not permitted"},
		"no devices": {func(*criv1.ContainerConfig) {}, "find /dev -type b; test -e " + host + " || echo none", "none"},
	})
}

// TestEnvOfBytes: CRI allows any bytes as a value, which a container here could
// only get changed; it is refused, and the variable named.
func TestEnvOfBytes(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	config := lab.ContainerConfig("c", n.shell, "sleep", "600")
	config.Envs = []*criv1.KeyValue{{Key: "TEXT", Value: []byte("ü")}, {Key: "LATIN", Value: []byte("\xfc")}}
	_, _, err := n.RunPod(t.Context(), n.podConfig("bytes"), config)
	refused(t, "a variable that is not UTF-8", err, codes.InvalidArgument)
	if err == nil || !strings.Contains(err.Error(), "LATIN") || strings.Contains(err.Error(), "TEXT") {
		t.Errorf("it does not name the variable: %v", err)
	}
}

// hostDevice finds a device that whoever has its node may read, and that no
// container has by itself; number is as stat prints it, in hex.
func hostDevice(t *testing.T) (path, number string) {
	t.Helper()
	for _, d := range []struct{ path, number string }{{"/dev/fuse", "a:e5"}, {"/dev/net/tun", "a:c8"}} {
		f, err := os.Open(d.path)
		if err == nil {
			_ = f.Close()
			return d.path, d.number
		}
	}
	t.Skip("the machine has neither /dev/fuse nor /dev/net/tun")
	return "", ""
}

// TestMountFields observes the fields of Mount.
func TestMountFields(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, id := contractImage(t, n)
	// Of a tmpfs of its own, shared, as propagation needs it.
	dir := filepath.Join(n.Dir, "volume")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "file"), 1000, 2000); err != nil {
		t.Fatal(err)
	}
	const (
		private, slave, shared = criv1.MountPropagation_PROPAGATION_PRIVATE, criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL
		// Of the mount at /v: its options, and what it shares with others.
		of     = "while read a b c d at o rest; do [ $at = /v ] && echo $o $rest; done </proc/self/mountinfo | "
		write  = "(: >>/v/file) 2>&1 | grep -o '" + noWrite + "'; "
		deeper = "(: >>/v/below/x) 2>&1 | grep -o '" + noWrite + "'; [ -e /v/below/x ] && echo written"
	)
	ids := []*criv1.IDMapping{{HostId: 1 << 20, Length: 65536}}
	n.hold(n.podConfig("mounts"), ref, map[string]asked{
		"container_path host_path": {ofMount(&criv1.Mount{ContainerPath: "/v", HostPath: dir}), "cat /v/file; : >>/v/file && echo written", "host\nwritten"},
		"readonly":                 {ofMount(&criv1.Mount{ContainerPath: "/v", HostPath: dir, Readonly: true}), write + deeper, noWrite + "\nwritten"},
		"recursive_read_only":      {ofMount(&criv1.Mount{ContainerPath: "/v", HostPath: dir, Readonly: true, RecursiveReadOnly: true}), write + "(: >>/v/below/y) 2>&1 | grep -o '" + noWrite + "'", noWrite + "\n" + noWrite},
		"propagation private":      {ofMount(&criv1.Mount{ContainerPath: "/v", HostPath: dir, Propagation: private}), of + "grep -c -e shared: -e master:", "0"},
		"propagation slave":        {ofMount(&criv1.Mount{ContainerPath: "/v", HostPath: dir, Propagation: slave}), of + "grep -o -e shared: -e master:", "master:"},
		"propagation shared":       {ofMount(&criv1.Mount{ContainerPath: "/v", HostPath: dir, Propagation: shared}), of + "grep -o -e shared: -e master:", "shared:"},
		"mount_options":            {ofMount(&criv1.Mount{ContainerPath: "/v", HostPath: dir, MountOptions: []string{"noexec", "nodev", "nosuid"}}), of + "grep -o 'rw,nosuid,nodev,noexec,relatime'", "rw,nosuid,nodev,noexec,relatime"},
		"no mount_options":         {ofMount(&criv1.Mount{ContainerPath: "/v", HostPath: dir}), of + "grep -o '^rw,relatime'", "rw,relatime"},
		"image":                    {ofMount(&criv1.Mount{ContainerPath: "/v", Readonly: true, Image: &criv1.ImageSpec{Image: ref}}), "cat /v/which; (: >/v/x) 2>&1 | grep -o '" + noWrite + "'", "this one\n" + noWrite},
		"image_sub_path":           {ofMount(&criv1.Mount{ContainerPath: "/v", Readonly: true, Image: &criv1.ImageSpec{Image: id}, ImageSubPath: "etc"}), "ls /v", "group\npasswd"},
		"uidMappings gidMappings":  {ofMount(&criv1.Mount{ContainerPath: "/v", HostPath: dir, UidMappings: ids, GidMappings: ids}), "stat -c %u:%g /v/file", "1049576:1050576"},
	})
}

// TestResourceFields observes the fields of LinuxContainerResources.
func TestResourceFields(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, _ := contractImage(t, n)
	// Of the kernel's two interfaces the one that the machine has.
	read := func(one, two string) string {
		if cgroup.Unified() {
			return "cat /sys/fs/cgroup/" + two
		}
		return "cat /sys/fs/cgroup/" + one
	}
	is := func(one, two string) string {
		if cgroup.Unified() {
			return two
		}
		return one
	}
	swap := asked{ofResources(&criv1.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 80 << 20}),
		read("memory/memory.memsw.limit_in_bytes", "memory.swap.max"), is("83886080", "16777216")}
	last := strconv.Itoa(runtime.NumCPU() - 1) // one alone of the machine's
	cases := map[string]asked{
		"cpu_quota cpu_period": {ofResources(&criv1.LinuxContainerResources{CpuPeriod: 50000, CpuQuota: 20000}),
			is("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us", "cat /sys/fs/cgroup/cpu.max"), is("20000\n50000", "20000 50000")},
		"cpu_quota -1":               {ofResources(&criv1.LinuxContainerResources{CpuPeriod: 50000, CpuQuota: -1}), read("cpu/cpu.cfs_quota_us", "cpu.max"), is("-1", "max 50000")},
		"cpu_shares":                 {ofResources(&criv1.LinuxContainerResources{CpuShares: 512}), read("cpu/cpu.shares", "cpu.weight"), is("512", "59")},
		"memory_limit_in_bytes":      {ofResources(&criv1.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}), read("memory/memory.limit_in_bytes", "memory.max"), "67108864"},
		"memory_swap_limit_in_bytes": swap,
		"oom_score_adj":              {ofResources(&criv1.LinuxContainerResources{OomScoreAdj: 900}), "cat /proc/1/oom_score_adj /proc/self/oom_score_adj", "900\n900"},
		"cpuset_cpus":                {ofResources(&criv1.LinuxContainerResources{CpusetCpus: last}), "grep Cpus_allowed_list /proc/1/status", "Cpus_allowed_list:\t" + last},
		"cpuset_mems":                {ofResources(&criv1.LinuxContainerResources{CpusetMems: "0"}), read("cpuset/cpuset.mems", "cpuset.mems"), "0"},
	}
	if !cgroup.SwapLimit() {
		delete(cases, "memory_swap_limit_in_bytes")
	}
	if cgroup.Unified() {
		cases["unified"] = asked{ofResources(&criv1.LinuxContainerResources{Unified: map[string]string{"memory.high": "67108864"}}), "cat /sys/fs/cgroup/memory.high", "67108864"}
	}
	n.hold(n.podConfig("resources"), ref, cases)

	// What the kernel refuses has reached it.
	config := lab.ContainerConfig("mems", ref)
	config.Linux.Resources = &criv1.LinuxContainerResources{CpusetMems: "63"}
	if _, _, err := n.RunPod(t.Context(), n.podConfig("mems"), config); err == nil || !strings.Contains(err.Error(), "cpuset.mems") {
		t.Errorf("a container on memory that the machine lacks: %v", err)
	}
}
