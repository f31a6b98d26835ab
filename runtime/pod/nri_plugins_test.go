package pod_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"

	"github.com/berth-runtime/berth/runtime/nri"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

func TestNRIAdjustments(t *testing.T) {
	n := newPluggedNode(t, nil)
	_, number := hostDevice(t)
	var major, minor int64
	if _, err := fmt.Sscanf(number, "%x:%x", &major, &minor); err != nil {
		t.Fatal(err)
	}
	data, ran := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(data, "file"), "data")
	if err := os.Mkdir(n.config.CDI[0], 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(n.config.CDI[0], "v.json"), `{"cdiVersion": "0.7.0", "kind": "vendor.example/x", "devices": [{"name": "0", "containerEdits": {"env": ["CDI=yes"]}}]}`)
	n.plug(t, &plugin{adjust: func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
		a := &api.ContainerAdjustment{}
		a.AddEnv("NEW", "1")
		a.RemoveEnv("HOSTNAME")
		a.AddAnnotation("example.com/a", "b")
		a.RemoveMount("/dev/mqueue")
		a.AddMount(&api.Mount{Destination: "/data", Type: "bind", Source: data, Options: []string{"rbind", "ro"}})
		a.AddMount(&api.Mount{Destination: "/data/file", Type: "bind", Source: "/dev/null", Options: []string{"bind"}})
		a.AddDevice(&api.LinuxDevice{Path: "/dev/theirs", Type: "c", Major: major, Minor: minor})
		a.AddCDIDevice(&api.CDIDevice{Name: "vendor.example/x=0"})
		a.AddRlimit("RLIMIT_NOFILE", 100, 50)
		a.SetLinuxOomScoreAdj(func() *int { n := 321; return &n }())
		a.SetLinuxMemoryLimit(64 << 20)
		a.SetLinuxPidLimits(77)
		a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >" + ran + "/hook"}}}})
		a.SetArgs([]string{"/bin/sleep", "601"})
		return a, nil
	}})
	_, id := n.up(t, "adjusted", "/bin/sh", "-c", "exit 9")
	n.wantSh(t, id, "cat /proc/1/cmdline | tr '\\0' ' '", "/bin/sleep 601")
	n.wantSh(t, id, "echo $NEW-$CDI; tr '\\0' '\\n' </proc/1/environ | grep -c HOSTNAME", "1-yes\n0")
	n.wantSh(t, id, "ls /data; stat -c %t:%T /data/file; : >/data/new || true", "file\n1:3\n/bin/sh: can't create /data/new: Read-only file system")
	n.wantSh(t, id, "stat -c %t:%T /dev/theirs; grep -c mqueue /proc/mounts", number+"\n0")
	n.wantSh(t, id, "grep -c 'Max open files *50 *100 ' /proc/1/limits; cat /proc/1/oom_score_adj", "1\n321")
	n.wantLimits(t, id, map[string]string{"memory": fmt.Sprint(64 << 20), "pids": "77"})
	if got := n.bundleSpec(t, id).Annotations["example.com/a"]; got != "b" {
		t.Errorf("annotation %q", got)
	}
	if b, err := os.ReadFile(filepath.Join(ran, "hook")); err != nil || !strings.Contains(string(b), id) {
		t.Errorf("the hook was told %q, %v", b, err)
	}
	if st, err := n.Container(pod.ViewAll, id); err != nil || st.Resources.Memory != 64<<20 || st.Resources.PidsLimit != 77 {
		t.Errorf("the status says %+v, %v", st.Resources, err)
	}
}

// What a plugin asks for and cannot have fails the create and leaves nothing.
func TestNRIAdjustmentsThatCannotBe(t *testing.T) {
	n := newPluggedNode(t, nil)
	var ask *api.ContainerAdjustment
	n.plug(t, &plugin{adjust: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) { return ask, nil }})
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("cannot"))
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*api.ContainerAdjustment){
		"cgroup's path":         func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/elsewhere") },
		"namespaces":            func(a *api.ContainerAdjustment) { a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "network"}) },
		"class of block I/O":    func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("gold") },
		"no place for a mount":  func(a *api.ContainerAdjustment) { a.AddMount(&api.Mount{Destination: "/", Type: "bind", Source: "/"}) },
		"no device node":        func(a *api.ContainerAdjustment) { a.AddDevice(&api.LinuxDevice{Path: "dev/x", Type: "c"}) },
		"no resource limit":     func(a *api.ContainerAdjustment) { a.AddRlimit("RLIMIT_NOFILE", 1, 2) },
		"not an absolute path":  func(a *api.ContainerAdjustment) { a.AddHooks(&api.Hooks{Poststop: []*api.Hook{{Path: "sh"}}}) },
		"not a variable":        func(a *api.ContainerAdjustment) { a.AddEnv("A\x00", "") },
		"oom_score_adj":         func(a *api.ContainerAdjustment) { a.SetLinuxOomScoreAdj(func() *int { n := 4000; return &n }()) },
		"vendor.example/none=0": func(a *api.ContainerAdjustment) { a.AddCDIDevice(&api.CDIDevice{Name: "vendor.example/none=0"}) },
		"Intel RDT":             func(a *api.ContainerAdjustment) { a.SetLinuxRDTClosID("x") },
	} {
		ask = &api.ContainerAdjustment{}
		change(ask)
		if _, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("main", "/bin/sleep", "1")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if problems, err := n.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("left behind: %v, %v", problems, err)
	}
}

// In a user namespace a node cannot be made, only the host's of the same path
// be bound: any other device of that name would be the wrong one.
func TestNRIDeviceInAUserNamespace(t *testing.T) {
	n := newPluggedNode(t, nil)
	host, number := hostDevice(t)
	var major, minor int64
	if _, err := fmt.Sscanf(number, "%x:%x", &major, &minor); err != nil {
		t.Fatal(err)
	}
	at := host
	n.plug(t, &plugin{adjust: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
		a := &api.ContainerAdjustment{}
		a.AddDevice(&api.LinuxDevice{Path: at, Type: "c", Major: major, Minor: minor})
		return a, nil
	}})
	podID, id := n.start(t, "mapped", inUserns)
	n.wantSh(t, id, "stat -c %t:%T "+host, number)
	for _, at = range []string{"/dev/null", "/dev/nosuch"} {
		c := containerConfig("other", "/bin/sleep", "1")
		inUserns(&spec.Pod{}, &c)
		if _, err := n.Create(t.Context(), pod.ViewAll, podID, c); err == nil || !strings.Contains(err.Error(), at+" must be what the host has") {
			t.Errorf("got %v, want the device refused", err)
		}
	}
}

// Limits of others may come with the answer to a create, and are set after it.
func TestNRIAnswersWithLimitsOfOthers(t *testing.T) {
	n := newPluggedNode(t, nil)
	podID, first := n.up(t, "others", "/bin/sleep", "600")
	n.plug(t, &plugin{adjust: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
		u := &api.ContainerUpdate{}
		u.SetContainerId(first)
		u.SetLinuxMemoryLimit(40 << 20)
		return nil, []*api.ContainerUpdate{u}
	}})
	n.second(t, podID, "second", func(*spec.Container) {})
	for end := time.Now().Add(20 * time.Second); n.limits(t, first)["memory"] != fmt.Sprint(40<<20); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the limits of the first are %v", n.limits(t, first))
		}
	}
}

func TestNRIUpdates(t *testing.T) {
	n := newPluggedNode(t, nil)
	p := n.plug(t, &plugin{limit: func(c *api.Container, r *api.LinuxResources) []*api.ContainerUpdate {
		u := &api.ContainerUpdate{ContainerId: c.GetId(), Linux: &api.LinuxContainerUpdate{Resources: r}}
		u.SetLinuxMemoryLimit(48 << 20)
		return []*api.ContainerUpdate{u}
	}})
	podID, id := n.up(t, "update", "/bin/sleep", "600")
	p.want(t, p.events()...)
	if err := n.Update(t.Context(), pod.ViewAll, id, spec.Resources{CPUShares: 512, PidsLimit: 44}); err != nil {
		t.Fatal(err)
	}
	p.want(t, "UpdateContainer update/main", "PostUpdateContainer update/main")
	n.wantLimits(t, id, map[string]string{"pids": "44", "memory": fmt.Sprint(48 << 20)})
	if !cgroup.Unified() {
		n.wantLimits(t, id, map[string]string{"shares": "512"})
	}
	if err := n.UpdatePod(t.Context(), pod.ViewAll, podID, spec.Resources{Memory: 1}, spec.Resources{Memory: 2}); err != nil {
		t.Fatal(err)
	}
	p.want(t, "UpdatePodSandbox 1 2 update", "PostUpdatePodSandbox update")

	// What a plugin asks for by itself; a container that does not exist is told back.
	var own, none api.ContainerUpdate
	own.SetContainerId(id)
	own.SetLinuxPidLimits(66)
	none.SetContainerId(strings.Repeat("0", 64))
	none.SetLinuxPidLimits(1)
	failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{&own})
	if err != nil || len(failed) != 0 {
		t.Errorf("got %v, %v", failed, err)
	}
	n.wantLimits(t, id, map[string]string{"pids": "66"})
	if st, err := n.Container(pod.ViewAll, id); err != nil || st.Resources.PidsLimit != 66 {
		t.Errorf("the status says %+v, %v", st.Resources, err)
	}
	if _, err = p.stub.UpdateContainers([]*api.ContainerUpdate{&none}); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("got %v, want an error", err)
	}
	p.want(t) // no turn of anybody else
}

// A refused start is one that failed.
func TestNRIRefusesAStart(t *testing.T) {
	n := newPluggedNode(t, nil)
	n.plug(t, &plugin{on: refuse("StartContainer")})
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("start"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("main", "/bin/sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context(), pod.ViewAll, id); err == nil || !strings.Contains(err.Error(), "the plugin says no") {
		t.Fatalf("got %v, want the plugin's error", err)
	}
	if st := n.ended(t, id); st.ExitCode != 128 || st.Reason != "StartError" {
		t.Errorf("exit %d, reason %s", st.ExitCode, st.Reason)
	}
}

// A plugin that hangs is cut off at its timeout. Meanwhile lists and execs in
// other pods go on, and after it so do their creates.
func TestNRIPluginThatHangs(t *testing.T) {
	n := newPluggedNode(t, func(c *nri.Config) { c.RequestTimeout = time.Second })
	_, other := n.up(t, "other", "/bin/sleep", "600")
	g := newGate("RunPodSandbox")
	p := n.plug(t, &plugin{on: g.on})
	defer func() { g.open <- nil }()
	done := make(chan error, 1)
	go func() {
		_, err := n.Run(context.Background(), pod.ViewAll, podConfig("hangs"))
		done <- err
	}()
	<-g.entered
	n.wantSh(t, other, "echo alive", "alive")
	if got := n.Pods(pod.ViewAll, pod.PodFilter{}); len(got) != 1 {
		t.Errorf("%d pods are listed during the hook, want the other", len(got))
	}
	if err := <-done; err != nil { // containerd's policy too: the plugin goes, the pod comes
		t.Errorf("the pod of a plugin that hangs: %v", err)
	}
	<-p.closed
	n.start(t, "after", func(*spec.Pod, *spec.Container) {})
}

// A daemon that starts again shows its plugins what there is: those that
// connect anew, and those of the directory, each a process of its own.
func TestNRIAfterARestart(t *testing.T) {
	n := newPluggedNode(t, nil)
	n.plug(t, &plugin{})
	podID, id := n.up(t, "stays", "/bin/sleep", "600")
	n.Close()
	n.service.Stop()

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{n.config.PluginPath, n.config.PluginConfigPath} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(self, filepath.Join(n.config.PluginPath, "20-process")); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	writeFile(t, filepath.Join(n.config.PluginConfigPath, "process.conf"), "%s\n", log)
	n.restart(t)
	pods, containers := n.plug(t, &plugin{}).shown()
	if !slices.Equal(pods, []string{podID}) || !slices.Equal(containers, []string{id + " /bin/sleep 600"}) {
		t.Errorf("the plugin was shown the pods %v and containers %v", pods, containers)
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	want := "berth Synchronize \nberth StopContainer 137 stays\nberth StopPodSandbox stays\nberth RemoveContainer stays\nberth RemovePodSandbox stays\n"
	if b, err := os.ReadFile(log); err != nil || string(b) != want {
		t.Errorf("the process was told %q, %v; want %q", b, err, want)
	}
}
