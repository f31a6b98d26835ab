package pod_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
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
		g.open <- nil
		t.Fatalf("the container was made while the plugin was being synchronized: %v", err)
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
