//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// TestPodFields observes the fields of PodSandboxConfig that others of these
// tests do not.
func TestPodFields(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, _ := contractImage(t, n)
	run := func(name string, change func(*criv1.PodSandboxConfig), commands ...string) (pod, id string) {
		t.Helper()
		sandbox := n.podConfig(name)
		change(sandbox)
		config := lab.ContainerConfig("c", ref, append(commands, "sleep", "600")...)
		config.Linux.SecurityContext.NamespaceOptions = sandbox.Linux.SecurityContext.NamespaceOptions
		pod, id, err := n.RunPod(t.Context(), sandbox, config)
		if err != nil {
			t.Fatal(err)
		}
		return pod, id
	}

	t.Run("cgroup_parent", func(t *testing.T) {
		// As a kubelet names it for the driver: of a slice the name tells where it is.
		parent, above := n.CgroupParent+"/burstable/pod1", n.CgroupParent+"/burstable"
		if lab.SystemdRuns() {
			above = n.CgroupParent + "/" + n.Name + "-burstable.slice"
			parent = above + "/" + n.Name + "-burstable-pod1.slice"
		}
		pod, id := run("cgroup", func(p *criv1.PodSandboxConfig) { p.Linux.CgroupParent = parent })
		if pids, err := cgroup.Procs(lab.GroupIn(parent, id)); err != nil || len(pids) != 1 {
			t.Errorf("the container's group has the processes %d, %v", pids, err)
		}
		if err := n.RemovePod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		// It is its maker's, which here is the test's part.
		if lab.SystemdRuns() {
			if out, err := exec.Command("systemctl", "stop", filepath.Base(parent), filepath.Base(above)).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
		if err := errors.Join(cgroup.Remove(parent), cgroup.Remove(above)); err != nil {
			t.Error(err)
		}
	})
	t.Run("sysctls", func(t *testing.T) {
		_, id := run("sysctls", func(p *criv1.PodSandboxConfig) {
			p.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.tcp_syncookies": "0", "fs.mqueue.msg_max": "77"}
		})
		if err := n.finds(id, "cd /proc/sys; cat kernel/shm_rmid_forced net/ipv4/tcp_syncookies fs/mqueue/msg_max", "1\n0\n77"); err != nil {
			t.Error(err)
		}
	})
	t.Run("log_directory", func(t *testing.T) {
		dir := filepath.Join(n.Dir, "deep", "logs")
		pod, id := run("logs", func(p *criv1.PodSandboxConfig) { p.LogDirectory = dir }, "sh", "-c", "echo words; exec $0 $@")
		n.eventually(func() error {
			b, err := os.ReadFile(filepath.Join(dir, "c.log"))
			if err == nil && !strings.HasSuffix(string(b), " stdout F words\n") {
				err = fmt.Errorf("the log has %q", b)
			}
			return err
		})
		if got := n.status(id).LogPath; got != filepath.Join(dir, "c.log") {
			t.Errorf("log_path %q", got)
		}
		if err := n.RemovePod(t.Context(), pod); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "c.log")); err != nil {
			t.Errorf("the log, which is the client's to remove: %v", err)
		}
		_, id = run("nowhere", func(p *criv1.PodSandboxConfig) { p.LogDirectory = "" }, "sh", "-c", "echo words; exec $0 $@")
		if got := n.status(id).LogPath; got != "" {
			t.Errorf("without a directory log_path is %q", got)
		}
	})
	t.Run("privileged", func(t *testing.T) {
		sandbox, config := n.podConfig("plain"), lab.ContainerConfig("c", ref)
		config.Linux.SecurityContext.Privileged = true
		_, _, err := n.RunPod(t.Context(), sandbox, config)
		refused(t, "a privileged container in a pod that is not", err, codes.FailedPrecondition, codes.InvalidArgument)
	})
	// The only process that a pod itself may have, whatever its security
	// context asks for the process of a sandbox.
	t.Run("the init", func(t *testing.T) {
		_, id := run("init", func(p *criv1.PodSandboxConfig) {
			s := p.Linux.SecurityContext
			s.NamespaceOptions.Pid = criv1.NamespaceMode_POD
			s.RunAsUser, s.RunAsGroup = &criv1.Int64Value{}, &criv1.Int64Value{}
			s.Seccomp = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
		})
		n.eventually(func() error {
			return n.finds(id, "grep -E '^(Name|Uid|Gid|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status | awk '{print $2}'", "init\n65534\n65534\n0000000000000000\n1\n2")
		})
	})
	t.Run("runtime_handler", func(t *testing.T) {
		_, err := n.runtime().RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: n.podConfig("kata"), RuntimeHandler: "kata"})
		refused(t, "an unknown handler", err, codes.InvalidArgument)
	})
}

// TestStatusFields compares all that is told of a pod and its container, at
// each turn of their lives and in each way to ask, with what was asked for and
// what has happened.
func TestStatusFields(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, image := contractImage(t, n)
	rt, ctx := n.runtime(), t.Context()
	events, err := rt.GetContainerEvents(ctx, &criv1.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil { // sent once it is subscribed
		t.Fatal(err)
	}

	sandbox := n.podConfig("status")
	sandbox.Metadata.Attempt = 3
	sandbox.Labels, sandbox.Annotations = map[string]string{"l": "1", "empty": ""}, map[string]string{"a/b": "2\n"}
	sandbox.Linux.SecurityContext.NamespaceOptions.Ipc = criv1.NamespaceMode_NODE
	begin := time.Now().UnixNano()
	made, err := rt.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: sandbox, RuntimeHandler: "runc"})
	if err != nil {
		t.Fatal(err)
	}
	pod := made.PodSandboxId
	wantPod := n.podStatus(pod)
	wantPod = &criv1.PodSandboxStatus{Id: pod, Metadata: sandbox.Metadata, State: criv1.PodSandboxState_SANDBOX_READY, CreatedAt: wantPod.CreatedAt,
		Network: wantPod.Network, Linux: &criv1.LinuxPodSandboxStatus{Namespaces: &criv1.Namespace{Options: sandbox.Linux.SecurityContext.NamespaceOptions}},
		Labels: sandbox.Labels, Annotations: sandbox.Annotations, RuntimeHandler: "runc"}
	n.samePod(wantPod, begin)

	config := lab.ContainerConfig("c", ref, "sh", "-c", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done")
	config.Metadata.Attempt, config.Labels, config.Annotations = 5, sandbox.Labels, sandbox.Annotations
	config.Image.UserSpecifiedImage, config.StopSignal = "contract", criv1.Signal_SIGNAL_SIGUSR1
	config.Mounts = []*criv1.Mount{{ContainerPath: "/v", HostPath: n.Dir, Readonly: true, SelinuxRelabel: true, MountOptions: []string{"nodev"}},
		{ContainerPath: "/i", Readonly: true, Image: &criv1.ImageSpec{Image: ref, UserSpecifiedImage: "contract"}, ImageSubPath: "etc"}}
	config.Linux.Resources = &criv1.LinuxContainerResources{CpuShares: 512, CpuPeriod: 50000, CpuQuota: 20000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900}
	config.Linux.SecurityContext.RunAsUser = &criv1.Int64Value{Value: 1000}
	config.Linux.SecurityContext.NamespaceOptions = sandbox.Linux.SecurityContext.NamespaceOptions
	created, err := rt.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	id := created.ContainerId
	echo := proto.CloneOf(config.Mounts[1])
	echo.Image.ImageRef = image
	want := &criv1.ContainerStatus{Id: id, Metadata: config.Metadata, State: criv1.ContainerState_CONTAINER_CREATED, CreatedAt: n.status(id).CreatedAt,
		Image: &criv1.ImageSpec{Image: ref, UserSpecifiedImage: "contract"}, ImageRef: n.image(ref).RepoDigests[0], ImageId: image, Labels: config.Labels, Annotations: config.Annotations,
		Mounts: []*criv1.Mount{config.Mounts[0], echo}, LogPath: filepath.Join(n.Logs, "status", "c.log"), Resources: &criv1.ContainerResources{Linux: config.Linux.Resources},
		User:       &criv1.ContainerUser{Linux: &criv1.LinuxContainerUser{Uid: 1000, Gid: 1000, SupplementalGroups: []int64{1000, 50000}}},
		StopSignal: criv1.Signal_SIGNAL_SIGUSR1}
	n.same("created", want, pod)

	if _, err := rt.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	want.State, want.StartedAt = criv1.ContainerState_CONTAINER_RUNNING, n.status(id).StartedAt
	n.same("running", want, pod)
	if want.StartedAt < want.CreatedAt || want.CreatedAt < begin {
		t.Errorf("begun at %d, created at %d, started at %d", begin, want.CreatedAt, want.StartedAt)
	}
	change := &criv1.LinuxContainerResources{CpuShares: 1024, MemoryLimitInBytes: 96 << 20}
	if _, err := rt.UpdateContainerResources(ctx, &criv1.UpdateContainerResourcesRequest{ContainerId: id, Linux: change}); err != nil {
		t.Fatal(err)
	}
	want.Resources.Linux.CpuShares, want.Resources.Linux.MemoryLimitInBytes = 1024, 96<<20
	n.same("updated", want, pod)

	n.eventually(func() error {
		if len(logLines(t, n, "status")) == 0 {
			return errors.New("the trap may not be set")
		}
		return nil
	})
	if _, err := rt.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id, Timeout: 60}); err != nil {
		t.Fatal(err)
	}
	want.State, want.FinishedAt, want.ExitCode, want.Reason = criv1.ContainerState_CONTAINER_EXITED, n.status(id).FinishedAt, 7, "Error"
	n.same("exited", want, pod)
	if want.FinishedAt < want.StartedAt {
		t.Errorf("started at %d, finished at %d", want.StartedAt, want.FinishedAt)
	}

	if _, err := rt.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	wantPod.State = criv1.PodSandboxState_SANDBOX_NOTREADY
	wantPod.Network = n.podStatus(pod).Network
	n.samePod(wantPod, begin)
	if _, err := rt.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	n.wantEvents(events, pod, id, want)
}

// wantEvents reads the life of a pod with one container from the stream.
func (n *node) wantEvents(events criv1.RuntimeService_GetContainerEventsClient, pod, id string, last *criv1.ContainerStatus) {
	n.t.Helper()
	const created, started, stopped, deleted = criv1.ContainerEventType_CONTAINER_CREATED_EVENT, criv1.ContainerEventType_CONTAINER_STARTED_EVENT,
		criv1.ContainerEventType_CONTAINER_STOPPED_EVENT, criv1.ContainerEventType_CONTAINER_DELETED_EVENT
	at := int64(0)
	for _, want := range []struct {
		id   string
		kind criv1.ContainerEventType
	}{{pod, created}, {pod, started}, {id, created}, {id, started}, {id, stopped}, {pod, stopped}, {id, deleted}, {pod, deleted}} {
		e, err := events.Recv()
		if err != nil {
			n.t.Fatal(err)
		}
		if e.ContainerId != want.id || e.ContainerEventType != want.kind || e.CreatedAt < at {
			n.t.Errorf("event %v of %.12s at %d, want %v of %.12s after %d", e.ContainerEventType, e.ContainerId, e.CreatedAt, want.kind, want.id, at)
		}
		at = e.CreatedAt
		if want.kind == stopped && want.id == id && (e.PodSandboxStatus.GetMetadata().GetName() != "status" || len(e.ContainersStatuses) != 1 || !proto.Equal(e.ContainersStatuses[0], last)) {
			n.t.Errorf("the event of the end has %v", e)
		}
	}
}

func (n *node) podStatus(pod string) *criv1.PodSandboxStatus {
	n.t.Helper()
	r, err := n.runtime().PodSandboxStatus(n.t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		n.t.Fatal(err)
	}
	return r.Status
}

// samePod compares a pod's status, and its item in both kinds of lists.
func (n *node) samePod(want *criv1.PodSandboxStatus, begin int64) {
	n.t.Helper()
	got := n.podStatus(want.Id)
	if !proto.Equal(got, want) {
		n.t.Errorf("status\n%v, want\n%v", got, want)
	}
	if got.CreatedAt < begin || got.CreatedAt > time.Now().UnixNano() {
		n.t.Errorf("created_at %d", got.CreatedAt)
	}
	item := &criv1.PodSandbox{Id: want.Id, Metadata: want.Metadata, State: want.State, CreatedAt: want.CreatedAt, Labels: want.Labels, Annotations: want.Annotations, RuntimeHandler: want.RuntimeHandler}
	state := &criv1.PodSandboxStateValue{State: want.State}
	other := &criv1.PodSandboxStateValue{State: 1 - want.State}
	for what, c := range map[string]struct {
		filter *criv1.PodSandboxFilter
		found  bool
	}{
		"nil":            {nil, true},
		"all":            {&criv1.PodSandboxFilter{Id: want.Id[:10], State: state, LabelSelector: map[string]string{"l": "1"}}, true},
		"id":             {&criv1.PodSandboxFilter{Id: strings.Repeat("0", 64)}, false},
		"state":          {&criv1.PodSandboxFilter{State: other}, false},
		"label_selector": {&criv1.PodSandboxFilter{LabelSelector: map[string]string{"l": "2"}}, false},
	} {
		list, err := n.runtime().ListPodSandbox(n.t.Context(), &criv1.ListPodSandboxRequest{Filter: c.filter})
		if err != nil {
			n.t.Fatal(err)
		}
		stream, err := n.runtime().StreamPodSandboxes(n.t.Context(), &criv1.StreamPodSandboxesRequest{Filter: c.filter})
		if err != nil {
			n.t.Fatal(err)
		}
		streamed, err := all(stream.Recv, (*criv1.StreamPodSandboxesResponse).GetPodSandboxes)
		if err != nil {
			n.t.Fatal(err)
		}
		for how, items := range map[string][]*criv1.PodSandbox{"list": list.Items, "stream": streamed} {
			if (len(items) == 1) != c.found || c.found && !proto.Equal(items[0], item) {
				n.t.Errorf("%s, filter by %s: %v, want %v: %v", how, what, items, item, c.found)
			}
		}
	}
}

// same compares a container's status, and its item in both kinds of lists.
func (n *node) same(when string, want *criv1.ContainerStatus, pod string) {
	n.t.Helper()
	if got := n.status(want.Id); !proto.Equal(got, want) {
		n.t.Errorf("%s: status\n%v, want\n%v", when, got, want)
	}
	item := &criv1.Container{Id: want.Id, PodSandboxId: pod, Metadata: want.Metadata, Image: want.Image, ImageRef: want.ImageRef, ImageId: want.ImageId,
		State: want.State, CreatedAt: want.CreatedAt, Labels: want.Labels, Annotations: want.Annotations}
	state := &criv1.ContainerStateValue{State: want.State}
	for what, c := range map[string]struct {
		filter *criv1.ContainerFilter
		found  bool
	}{
		"nil":            {nil, true},
		"all":            {&criv1.ContainerFilter{Id: want.Id[:10], State: state, PodSandboxId: pod, LabelSelector: map[string]string{"l": "1"}}, true},
		"id":             {&criv1.ContainerFilter{Id: strings.Repeat("0", 64)}, false},
		"state":          {&criv1.ContainerFilter{State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_UNKNOWN}}, false},
		"pod_sandbox_id": {&criv1.ContainerFilter{PodSandboxId: strings.Repeat("0", 64)}, false},
		"label_selector": {&criv1.ContainerFilter{LabelSelector: map[string]string{"l": "2"}}, false},
	} {
		list, err := n.runtime().ListContainers(n.t.Context(), &criv1.ListContainersRequest{Filter: c.filter})
		if err != nil {
			n.t.Fatal(err)
		}
		stream, err := n.runtime().StreamContainers(n.t.Context(), &criv1.StreamContainersRequest{Filter: c.filter})
		if err != nil {
			n.t.Fatal(err)
		}
		streamed, err := all(stream.Recv, (*criv1.StreamContainersResponse).GetContainers)
		if err != nil {
			n.t.Fatal(err)
		}
		for how, items := range map[string][]*criv1.Container{"list": list.Containers, "stream": streamed} {
			if (len(items) == 1) != c.found || c.found && !proto.Equal(items[0], item) {
				n.t.Errorf("%s: %s, filter by %s: %v, want %v: %v", when, how, what, items, item, c.found)
			}
		}
	}
}

// TestPodAddresses compares the addresses that a pod's status tells with those
// of its interface.
func TestPodAddresses(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	pod, id := n.run("addresses", lab.ContainerConfig("c", n.shell, "sleep", "600"))
	network := n.podStatus(pod).Network
	want := []string{network.GetIp()}
	for _, ip := range network.GetAdditionalIps() {
		want = append(want, ip.GetIp())
	}
	if len(want) != len(n.Subnets) {
		t.Errorf("the pod has the addresses %q of the networks %v", want, n.Subnets)
	}
	if err := n.finds(id, "ip addr show dev eth0 scope global | awk '/inet/ {sub(\"/.*\", \"\", $2); print $2}'", strings.Join(want, "\n")); err != nil {
		t.Error(err)
	}
	sandbox := n.podConfig("on-host")
	sandbox.Linux.SecurityContext.NamespaceOptions.Network = criv1.NamespaceMode_NODE
	made, err := n.runtime().RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	if network := n.podStatus(made.PodSandboxId).Network; network.GetIp() != "" || len(network.GetAdditionalIps()) != 0 {
		t.Errorf("on the host's network it has %v", network)
	}
}
