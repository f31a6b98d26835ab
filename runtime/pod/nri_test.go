package pod_test

import (
	"context"
	"errors"
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
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// gate holds a plugin in one event until it is opened.
type gate struct {
	event   string
	entered chan *api.PodSandbox
	open    chan error
}

func newGate(event string) *gate {
	return &gate{event: event, entered: make(chan *api.PodSandbox, 1), open: make(chan error, 1)}
}

func (g *gate) on(event string, p *api.PodSandbox, _ *api.Container) error {
	if event != g.event {
		return nil
	}
	g.entered <- p
	return <-g.open
}

// refuse answers one event with an error, once.
func refuse(event string) func(string, *api.PodSandbox, *api.Container) error {
	done := false
	return func(e string, _ *api.PodSandbox, _ *api.Container) error {
		if e != event || done {
			return nil
		}
		done = true
		return errors.New("the plugin says no")
	}
}

// TestNRI holds to the 13 specifications that critest has for NRI, by their
// names, with a plugin on the real wire.
func TestNRI(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *pluggedNode){
		"pod lifecycle: Run, Stop, Remove in strict order with metadata":                                           testNRIPodLife,
		"container lifecycle: Create, Start, Stop, Remove strict order":                                            testNRIContainerLife,
		"container lifecycle for a container that exits with a non-zero code":                                      testNRIExitCode,
		"should not expose sandbox while RunPodSandbox hook is in progress":                                        testNRIHiddenPod,
		"should not start workload containers until RunPodSandbox hook completes":                                  testNRINoWorkloadBefore,
		"should fail RunPodSandbox and clean up when the NRI hook errors, then allow retry":                        testNRIRunRefused,
		"should stop all workload containers and keep sandbox accessible while StopPodSandbox hook is in progress": testNRIStopHeld,
		"should handle StopPodSandbox idempotently and never reuse sandbox":                                        testNRIStopTwice,
		"should not expose container while CreateContainer hook is in progress":                                    testNRIHiddenContainer,
		"should fail CreateContainer when the NRI hook errors, leak nothing, and allow retry":                      testNRICreateRefused,
		"should synchronize a newly connected plugin with existing pods and containers":                            testNRILatePlugin,
		"callback for container created during the Synchronize call":                                               testNRICreatedDuringSync,
		"information about all containers without the race during initialization":                                  testNRISyncRace,
	} {
		t.Run(name, func(t *testing.T) { test(t, newPluggedNode(t, nil)) })
	}
}

func testNRIPodLife(t *testing.T, n *pluggedNode) {
	var seen *api.PodSandbox
	p := n.plug(t, &plugin{on: func(event string, sb *api.PodSandbox, _ *api.Container) error {
		if event == "RunPodSandbox" {
			seen = sb
		}
		return nil
	}})
	cfg := podConfig("life")
	cfg.Labels, cfg.Annotations = map[string]string{"l": "1"}, map[string]string{"a": "2"}
	id, err := n.Run(t.Context(), pod.ViewKubelet, cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.want(t, "RunPodSandbox life")
	if seen.GetId() != id || seen.GetUid() != "uid-life" || seen.GetNamespace() != "test" || seen.GetLabels()["l"] != "1" ||
		seen.GetAnnotations()["a"] != "2" || !slices.Equal(seen.GetIps(), []string{"192.0.2.7"}) || len(seen.GetLinux().GetNamespaces()) != 1 {
		t.Errorf("the plugin was shown %v", seen)
	}
	if err := n.Stop(t.Context(), pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	p.want(t, "StopPodSandbox life")
	if err := n.Remove(t.Context(), pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	p.want(t, "RemovePodSandbox life")
}

func testNRIContainerLife(t *testing.T, n *pluggedNode) {
	p := n.plug(t, &plugin{})
	podID, id := n.up(t, "life", "/bin/sleep", "600")
	p.want(t, "RunPodSandbox life", "CreateContainer life/main", "PostCreateContainer life/main", "StartContainer life/main", "PostStartContainer life/main")
	if err := n.StopContainer(t.Context(), pod.ViewAll, id, 0); err != nil {
		t.Fatal(err)
	}
	p.want(t, "StopContainer 137 life/main")
	if err := n.RemoveContainer(t.Context(), pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	p.want(t, "RemoveContainer life/main")
	n.second(t, podID, "other", func(*spec.Container) {})
	p.want(t, "CreateContainer life/other", "PostCreateContainer life/other", "StartContainer life/other", "PostStartContainer life/other")
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil { // the order holds also where the pod's removal does it all
		t.Fatal(err)
	}
	p.want(t, "StopContainer 137 life/other", "StopPodSandbox life", "RemoveContainer life/other", "RemovePodSandbox life")
}

func testNRIExitCode(t *testing.T, n *pluggedNode) {
	p := n.plug(t, &plugin{})
	_, id := n.up(t, "exit", "/bin/sh", "-c", "exit 3")
	n.ended(t, id)
	if err := n.RemoveContainer(t.Context(), pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	p.want(t, "RunPodSandbox exit", "CreateContainer exit/main", "PostCreateContainer exit/main", "StartContainer exit/main", "PostStartContainer exit/main",
		"StopContainer 3 exit/main", "RemoveContainer exit/main")
}

func testNRIHiddenPod(t *testing.T, n *pluggedNode) {
	g := newGate("RunPodSandbox")
	n.plug(t, &plugin{on: g.on})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := n.Subscribe(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := n.Run(context.Background(), pod.ViewAll, podConfig("hidden"))
		done <- err
	}()
	sb := <-g.entered
	if got := n.Pods(pod.ViewAll, pod.PodFilter{}); len(got) != 0 {
		t.Errorf("%d pods are listed during the hook", len(got))
	}
	if _, err := n.Pod(pod.ViewAll, sb.GetId()); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("its status: %v, want NotFound", err)
	}
	select {
	case e := <-events:
		t.Errorf("event %v during the hook", e.Kind)
	default:
	}
	g.open <- nil
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Kind != pod.EventCreated || e.ContainerID != sb.GetId() {
		t.Errorf("got event %v of %s", e.Kind, e.ContainerID)
	}
}

func testNRINoWorkloadBefore(t *testing.T, n *pluggedNode) {
	g := newGate("RunPodSandbox")
	p := n.plug(t, &plugin{on: g.on})
	done := make(chan error, 1)
	go func() {
		_, err := n.Run(context.Background(), pod.ViewAll, podConfig("first"))
		done <- err
	}()
	sb := <-g.entered
	if _, err := n.Create(t.Context(), pod.ViewAll, sb.GetId(), containerConfig("main", "/bin/sleep", "600")); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("a container in a pod of which the hook has not ended: %v, want NotFound", err)
	}
	g.open <- nil
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	n.second(t, sb.GetId(), "main", func(*spec.Container) {})
	p.want(t, "RunPodSandbox first", "CreateContainer first/main", "PostCreateContainer first/main", "StartContainer first/main", "PostStartContainer first/main")
}

func testNRIRunRefused(t *testing.T, n *pluggedNode) {
	p := n.plug(t, &plugin{on: refuse("RunPodSandbox")})
	if _, err := n.Run(t.Context(), pod.ViewAll, podConfig("no")); err == nil || !strings.Contains(err.Error(), "the plugin says no") {
		t.Fatalf("got %v, want the plugin's error", err)
	}
	if problems, err := n.Check(t.Context()); err != nil || len(problems) > 0 || len(n.network.leases)+len(n.network.attached) > 0 || len(n.Pods(pod.ViewAll, pod.PodFilter{})) > 0 {
		t.Errorf("left behind: %v %v, %v", problems, n.network.leases, err)
	}
	if _, err := n.Run(t.Context(), pod.ViewAll, podConfig("no")); err != nil {
		t.Errorf("the retry: %v", err)
	}
	p.want(t, "RunPodSandbox no", "RemovePodSandbox no", "RunPodSandbox no")
}

func testNRIStopHeld(t *testing.T, n *pluggedNode) {
	g := newGate("StopPodSandbox")
	n.plug(t, &plugin{on: g.on})
	podID, id := n.up(t, "held", "/bin/sleep", "600")
	done := make(chan error, 1)
	go func() { done <- n.Stop(context.Background(), pod.ViewAll, podID) }()
	<-g.entered
	if st, err := n.Container(pod.ViewAll, id); err != nil || st.State != pod.StateExited {
		t.Errorf("the container is %v, %v; want exited", st, err)
	}
	if st, err := n.Pod(pod.ViewAll, podID); err != nil || st.Ready {
		t.Errorf("the pod: %v, %v; want one that is not ready", st, err)
	}
	if !n.network.attached[podID] {
		t.Error("the network went before the hook had ended")
	}
	g.open <- nil
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func testNRIStopTwice(t *testing.T, n *pluggedNode) {
	p := n.plug(t, &plugin{})
	id, err := n.Run(t.Context(), pod.ViewAll, podConfig("twice"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Stop(t.Context(), pod.ViewAll, id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Run(t.Context(), pod.ViewAll, podConfig("twice")); !errkind.Is(err, errkind.AlreadyExists) {
		t.Errorf("running it again: %v, want AlreadyExists", err)
	}
	next := podConfig("twice")
	next.Metadata.Attempt = 1
	if other, err := n.Run(t.Context(), pod.ViewAll, next); err != nil || other == id {
		t.Errorf("the next attempt gave %s, %v", other, err)
	}
	p.want(t, "RunPodSandbox twice", "StopPodSandbox twice", "RunPodSandbox twice")
}

func testNRIHiddenContainer(t *testing.T, n *pluggedNode) {
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("hidden"))
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"CreateContainer", "PostCreateContainer"} {
		g := newGate(event)
		p := n.plug(t, &plugin{on: g.on})
		done := make(chan error, 1)
		cfg := containerConfig(strings.ToLower(event), "/bin/sleep", "600")
		go func() {
			_, err := n.Create(context.Background(), pod.ViewAll, podID, cfg)
			done <- err
		}()
		<-g.entered
		for _, c := range n.Containers(pod.ViewAll, pod.ContainerFilter{}) {
			if c.Config.Metadata == cfg.Metadata {
				t.Errorf("the container is listed during %s", event)
			}
		}
		g.open <- nil
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		p.stub.Stop()
		<-p.closed
	}
}

func testNRICreateRefused(t *testing.T, n *pluggedNode) {
	p := n.plug(t, &plugin{on: refuse("CreateContainer")})
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("no"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := containerConfig("main", "/bin/sleep", "600")
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, cfg); err == nil || !strings.Contains(err.Error(), "the plugin says no") {
		t.Fatalf("got %v, want the plugin's error", err)
	}
	if problems, err := n.Check(t.Context()); err != nil || len(problems) > 0 || len(n.Containers(pod.ViewAll, pod.ContainerFilter{})) > 0 {
		t.Errorf("left behind: %v, %v", problems, err)
	}
	if left, _ := n.images.Snapshots(t.Context()); len(left) > 0 {
		t.Errorf("writable layers are left: %v", left)
	}
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, cfg); err != nil {
		t.Errorf("the retry: %v", err)
	}
	p.want(t, "RunPodSandbox no", "CreateContainer no/main", "RemoveContainer no/main", "CreateContainer no/main", "PostCreateContainer no/main")
}

func testNRILatePlugin(t *testing.T, n *pluggedNode) {
	podID, id := n.up(t, "old", "/bin/sleep", "600")
	local, err := n.Run(t.Context(), pod.ViewKubelet, podConfig("kubelet"))
	if err != nil {
		t.Fatal(err)
	}
	ended := n.second(t, podID, "ended", func(c *spec.Container) { c.Command = []string{"/bin/sh", "-c", "exit 0"} })
	n.ended(t, ended)
	pods, containers := n.plug(t, &plugin{}).shown()
	slices.Sort(pods)
	want := []string{podID, local}
	slices.Sort(want)
	if !slices.Equal(pods, want) || !slices.Equal(containers, []string{id + " /bin/sleep 600"}) {
		t.Errorf("the plugin was shown the pods %v and containers %v", pods, containers)
	}
}

func testNRICreatedDuringSync(t *testing.T, n *pluggedNode) {
	podID, _ := n.up(t, "old", "/bin/sleep", "600")
	g := newGate("Synchronize")
	p := &plugin{on: g.on}
	n.connect(t, p)
	<-g.entered
	done := make(chan error, 1)
	go func() {
		_, err := n.Create(context.Background(), pod.ViewAll, podID, containerConfig("during", "/bin/sleep", "600"))
		done <- err
	}()
	select { // it may not pass the plugin by
	case err := <-done:
		t.Errorf("the container was made while the plugin was being synchronized: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	g.open <- nil
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p.want(t, "CreateContainer old/during", "PostCreateContainer old/during")
}

// Every container is either shown or told of, and none both or neither.
func testNRISyncRace(t *testing.T, n *pluggedNode) {
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("race"))
	if err != nil {
		t.Fatal(err)
	}
	const count = 12
	errs := make(chan error, count)
	for i := range count {
		go func() {
			_, err := n.Create(context.Background(), pod.ViewAll, podID, containerConfig(fmt.Sprintf("c%d", i), "/bin/sleep", "600"))
			errs <- err
		}()
	}
	first := <-errs
	p := n.plug(t, &plugin{})
	for range count - 1 {
		first = errors.Join(first, <-errs)
	}
	if first != nil {
		t.Fatal(first)
	}
	_, shown := p.shown()
	told := map[string]bool{}
	for _, e := range p.events() {
		told[e] = true
	}
	for _, c := range n.Containers(pod.ViewAll, pod.ContainerFilter{}) {
		inSync := slices.ContainsFunc(shown, func(s string) bool { return strings.HasPrefix(s, c.ID) })
		if created := told["CreateContainer race/"+c.Config.Metadata.Name]; created == inSync {
			t.Errorf("container %s: shown %v, told %v", c.Config.Metadata.Name, inSync, created)
		}
	}
}

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
