package pod_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/cdi"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// cdiDir gives the node an empty directory of specifications.
func (n *node) cdiDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	n.with(t, func(c *pod.Config) { c.CDI = cdi.Dirs{"/nowhere/cdi", dir} })
	return dir
}

func writeFile(t *testing.T, path, format string, args ...any) {
	t.Helper()
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o644); err != nil {
		t.Fatal(err)
	}
}

func askCDI(names ...string) func(*spec.Pod, *spec.Container) {
	return func(_ *spec.Pod, c *spec.Container) { c.CDIDevices = names }
}

// Every kind of edit arrives, from a file that is younger than the daemon.
func TestCDIDevice(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	dir, data, ran := n.cdiDir(t), t.TempDir(), t.TempDir()
	host, number := hostDevice(t)
	writeFile(t, filepath.Join(data, "firmware"), "blob")
	hook := func(name, args string) string {
		return fmt.Sprintf(`{"hookName": %q, "path": "/bin/sh", "args": ["sh", "-c", %q]}`, name, args)
	}
	writeFile(t, filepath.Join(dir, "vendor.json"), `{"cdiVersion": "0.7.0", "kind": "vendor.example/x",
		"containerEdits": {"env": ["OF_ALL=1"]},
		"devices": [
			{"name": "unused", "containerEdits": {"env": ["UNUSED=1"]}},
			{"name": "k0", "containerEdits": {
				"env": ["K0=yes"], "additionalGids": [4321],
				"deviceNodes": [{"path": "/dev/theirs", "hostPath": %q, "permissions": "r"}],
				"mounts": [{"hostPath": %q, "containerPath": "/firmware", "options": ["ro", "bind"]}],
				"hooks": [%s, %s, %s, %s]}}]}`,
		host, data,
		hook("createRuntime", "cat >"+ran+"/createRuntime"),
		hook("createContainer", "readlink /proc/self/ns/mnt >"+ran+"/createContainer"),
		hook("startContainer", "echo inside >/startContainer"),
		hook("poststop", "echo over >"+ran+"/poststop"))

	podID, id := n.start(t, "cdi", askCDI("vendor.example/x=k0"))
	n.wantSh(t, id, "echo $OF_ALL $K0 $UNUSED", "1 yes")
	n.wantSh(t, id, "cat /firmware/firmware; : >/firmware/x || true", "blob/bin/sh: can't create /firmware/x: Read-only file system")
	n.wantSh(t, id, "stat -c %t:%T /dev/theirs; : </dev/theirs && echo readable", number+"\nreadable")
	n.wantRefused(t, id, ": >>/dev/theirs", "Operation not permitted")
	n.wantSh(t, id, "grep Groups: /proc/1/status | grep -c 4321", "1")
	n.wantSh(t, id, "cat /startContainer", "inside")
	if b, err := os.ReadFile(filepath.Join(ran, "createRuntime")); err != nil || !strings.Contains(string(b), id) {
		t.Errorf("createRuntime was told %q, %v; want the container's state", b, err)
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(ran, "createContainer")); err != nil || strings.TrimSpace(string(b)) == own {
		t.Errorf("createContainer ran in the mount namespace %q, %v; want the container's", b, err)
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(ran, "poststop")); err != nil || string(b) != "over\n" {
		t.Errorf("poststop: %q, %v", b, err)
	}
}

func TestUnknownCDIDevice(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	dir := n.cdiDir(t)
	writeFile(t, filepath.Join(dir, "broken.json"), `{"cdiVersion": "0.7.0"`)
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("unknown"))
	if err != nil {
		t.Fatal(err)
	}
	c := containerConfig("main", "/bin/sleep", "1")
	c.CDIDevices = []string{"vendor.example/gpu=0"}
	_, err = n.Create(t.Context(), pod.ViewAll, podID, c)
	if !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("got %v, want FailedPrecondition", err)
	}
	for _, want := range []string{"vendor.example/gpu=0", "/nowhere/cdi or " + dir, filepath.Join(dir, "broken.json")} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a text with %q", err, want)
		}
	}
	c.CDIDevices = []string{"/dev/nvidia0"}
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, c); !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), "/dev/nvidia0") {
		t.Errorf("got %v, want InvalidArgument", err)
	}
	// The device may come later, under the same name of the container.
	writeFile(t, filepath.Join(dir, "broken.json"), `{"cdiVersion": "0.7.0", "kind": "vendor.example/gpu", "devices": [{"name": "0", "containerEdits": {"env": ["GPU=0"]}}]}`)
	c.CDIDevices = []string{"vendor.example/gpu=0"}
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, c); err != nil {
		t.Error(err)
	}
}

// Annotations are anybody's who may make a pod: they choose no devices.
func TestAnnotationsInjectNoCDIDevices(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	dir := n.cdiDir(t)
	writeFile(t, filepath.Join(dir, "v.json"), `{"cdiVersion": "0.7.0", "kind": "vendor.example/gpu", "devices": [{"name": "0", "containerEdits": {"env": ["GPU=0"]}}]}`)
	_, id := n.start(t, "annotated", func(p *spec.Pod, c *spec.Container) {
		p.Annotations = map[string]string{"cdi.k8s.io/x": "vendor.example/gpu=0"}
		c.Annotations = p.Annotations
	})
	n.wantSh(t, id, "echo GPU:$GPU", "GPU:")
}

// A hook that fails keeps a container from being made, and none from going.
func TestCDIHooksThatFail(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	dir := n.cdiDir(t)
	device := func(name, hook, script string) {
		writeFile(t, filepath.Join(dir, name+".json"), `{"cdiVersion": "0.7.0", "kind": "vendor.example/%s", "devices": [{"name": "x", "containerEdits": {
			"hooks": [{"hookName": %q, "path": "/bin/sh", "args": ["sh", "-c", %q], "timeout": 1}]}}]}`, name, hook, script)
	}
	device("before", "createRuntime", "echo the device is on fire >&2; exit 3")
	device("hangs", "createRuntime", "exec sleep 600")
	device("after", "poststop", "exit 3")
	podID, _ := n.start(t, "after", askCDI("vendor.example/after=x"))
	for name, why := range map[string]string{"before": "the device is on fire", "hangs": "timeout"} {
		c := containerConfig(name, "/bin/sleep", "1")
		c.CDIDevices = []string{"vendor.example/" + name + "=x"}
		if _, err := n.Create(t.Context(), pod.ViewAll, podID, c); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("got %v, want an error with %q", err, why)
		}
		c.CDIDevices = nil // nothing is left of the first try, not even the name
		if _, err := n.Create(t.Context(), pod.ViewAll, podID, c); err != nil {
			t.Error(err)
		}
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Errorf("a hook keeps the pod: %v", err)
	}
}

// A CDI device in a pod with a user namespace, where nobody may make a node:
// the host's is there, under the name that the specification gives it.
func TestCDIDeviceInAUserNamespace(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	dir := n.cdiDir(t)
	host, number := hostDevice(t)
	node := filepath.Join(t.TempDir(), "node")
	mknod(t, host, node, 0o666)
	writeFile(t, filepath.Join(dir, "vendor.json"), `{"cdiVersion": "0.7.0", "kind": "vendor.example/x", "devices": [
		{"name": "there", "containerEdits": {"deviceNodes": [{"path": "/dev/below/theirs", "hostPath": %q, "permissions": "r"}]}},
		{"name": "same", "containerEdits": {"deviceNodes": [{"path": %q}]}},
		{"name": "absent", "containerEdits": {"deviceNodes": [{"path": "/dev/nosuch"}]}}]}`, node, host)
	podID, id := n.start(t, "mapped", inUserns)
	n.wantRefused(t, id, "ls "+host, "No such file")
	c := containerConfig("refused", "/bin/sleep", "600")
	inUserns(&spec.Pod{}, &c)
	given := func(name string) string {
		return n.second(t, podID, name, func(c *spec.Container) { inUserns(&spec.Pod{}, c); c.CDIDevices = []string{"vendor.example/x=" + name} })
	}
	there := given("there")
	n.wantSh(t, there, "stat -c %t:%T /dev/below/theirs; : </dev/below/theirs && echo readable", number+"\nreadable")
	n.wantRefused(t, there, ": >>/dev/below/theirs", "Operation not permitted")
	n.wantSh(t, given("same"), "stat -c %t:%T "+host, number)
	c.CDIDevices = []string{"vendor.example/x=absent"}
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, c); !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "/dev/nosuch") {
		t.Errorf("a device that the host has not: %v", err)
	}
}
