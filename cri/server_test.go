package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// node is a server of each view over the same domains, on real sockets.
type node struct {
	pods          *memPods
	images        *memImages
	store         Images // in place of images, if set
	podCIDR       string
	network       error
	userns        bool
	local, remote clients // berth.sock and kubelet.sock
}

type clients struct {
	criv1.RuntimeServiceClient
	criv1.ImageServiceClient
}

func startNode(t *testing.T) *node {
	t.Helper()
	n := &node{pods: newMemPods(), images: &memImages{byRef: map[string]imageservice.Image{}}}
	n.local = n.serve(t, pod.ViewAll)
	n.remote = n.serve(t, pod.ViewKubelet)
	return n
}

func (n *node) serve(t *testing.T, v pod.View) clients {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	images := n.store
	if images == nil {
		images = n.images
	}
	g := grpc.NewServer(ServerOptions(nil, nil)...)
	New(Config{
		View: v, Pods: n.pods, Images: images, RuntimeName: "berth", Version: "1.2.3", CgroupDriver: "cgroupfs",
		Handlers:          []string{"runc", "trusted"},
		RecursiveReadOnly: true,
		UserNamespaces:    func() bool { return n.userns },
		NetworkStatus:     func(context.Context) error { return n.network },
		NetworkInfo:       func() map[string]string { return map[string]string{"lastCNILoadStatus": "OK"} },
		SetPodCIDR:        func(_ context.Context, cidrs string) error { n.podCIDR = cidrs; return nil },
		ConfigJSON:        func() string { return `{"stateDir":"/s"}` },
	}).Register(g)
	go func() { _ = g.Serve(ln) }()
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return clients{criv1.NewRuntimeServiceClient(conn), criv1.NewImageServiceClient(conn)}
}

func runPod(t *testing.T, c clients, name string) string {
	t.Helper()
	r, err := c.RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: &criv1.PodSandboxConfig{
		Metadata: &criv1.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: name},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return r.PodSandboxId
}

func create(t *testing.T, c clients, podID, image string) string {
	t.Helper()
	r, err := c.CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: podID, Config: &criv1.ContainerConfig{
		Metadata: &criv1.ContainerMetadata{Name: "app"}, Image: &criv1.ImageSpec{Image: image},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return r.ContainerId
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: got code %s (%v), want %s", what, got, err, want)
	}
}

func TestLifeOfAPod(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx, c := t.Context(), n.remote
	p := runPod(t, c, "web")
	id := create(t, c, p, "img")
	if _, err := c.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	st, err := c.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil || st.Status.State != criv1.ContainerState_CONTAINER_RUNNING || !strings.Contains(st.Info["info"], `"pid"`) {
		t.Fatalf("got %v, %v", st, err)
	}
	out, err := c.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"echo", "hi"}})
	if err != nil || string(out.Stdout) != "echo hi" || out.ExitCode != 3 {
		t.Fatalf("got %v, %v", out, err)
	}
	_, err = c.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep"}, Timeout: 1})
	wantCode(t, "an exec that takes too long", err, codes.DeadlineExceeded)
	_, err = c.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id})
	wantCode(t, "an exec of nothing", err, codes.InvalidArgument)

	stats, err := c.ListContainerStats(ctx, &criv1.ListContainerStatsRequest{})
	if err != nil || len(stats.Stats) != 1 || stats.Stats[0].Attributes.Id != id {
		t.Fatalf("got %v, %v", stats, err)
	}
	for range 2 { // idempotent
		if _, err := c.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: p}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: p}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: id})
	wantCode(t, "status of a removed container", err, codes.NotFound)
	_, err = c.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: p})
	wantCode(t, "status of a removed pod", err, codes.NotFound)
}

// What was made on berth.sock does not exist on kubelet.sock.
func TestLocalPodsAreAbsentForTheKubelet(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx := t.Context()
	p := runPod(t, n.local, "mine")
	id := create(t, n.local, p, "img")

	pods, err := n.remote.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) != 0 {
		t.Errorf("pods: %v, %v", pods, err)
	}
	containers, err := n.remote.ListContainers(ctx, &criv1.ListContainersRequest{})
	if err != nil || len(containers.Containers) != 0 {
		t.Errorf("containers: %v, %v", containers, err)
	}
	_, err = n.remote.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: id})
	wantCode(t, "status", err, codes.NotFound)
	if _, err := n.remote.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: p}); err != nil {
		t.Error(err)
	}
	if pods, err := n.local.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{}); err != nil || len(pods.Items) != 1 {
		t.Errorf("the kubelet removed a local pod: %v, %v", pods, err)
	}
}

func TestEventsAreForTheView(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := n.remote.GetContainerEvents(ctx, &criv1.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for n.pods.subscribers() == 0 {
		time.Sleep(time.Millisecond)
	}
	runPod(t, n.local, "mine")
	theirs := runPod(t, n.remote, "theirs")
	e, err := stream.Recv()
	if err != nil || e.ContainerId != theirs || e.ContainerEventType != criv1.ContainerEventType_CONTAINER_CREATED_EVENT {
		t.Errorf("got %v, %v", e, err)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	for n.pods.subscribers() != 0 { // or the subscription outlives the call
		time.Sleep(time.Millisecond)
	}
}

func TestEveryKindOfErrorHasItsCode(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	want := map[error]codes.Code{
		errors.New("prose"): codes.Unknown,
		fmt.Errorf("cannot wait: %w", context.DeadlineExceeded): codes.DeadlineExceeded,
		fmt.Errorf("cannot wait: %w", context.Canceled):         codes.Canceled,
	}
	for kind, code := range codeOf {
		if kind != errkind.Unknown {
			want[fmt.Errorf("outer: %w", errkind.New(kind, "kind %d", kind))] = code
		}
	}
	for e, code := range want {
		n.pods.fail = func() error { return e }
		_, err := n.local.StartContainer(t.Context(), &criv1.StartContainerRequest{ContainerId: "x"})
		wantCode(t, e.Error(), err, code)
		if got := status.Convert(err).Message(); got != e.Error() {
			t.Errorf("text %q became %q", e, got)
		}
	}
	for kind := errkind.Unknown; kind <= errkind.PermissionDenied; kind++ {
		if code, ok := codeOf[kind]; !ok || code.String() != kind.String() {
			t.Errorf("kind %s has the code %s", kind, code)
		}
	}
}

func TestAPanicEndsTheCallAndNotTheDaemon(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	n.pods.fail = func() error { n.pods.mu.Unlock(); panic("boom") }
	_, err := n.local.StartContainer(t.Context(), &criv1.StartContainerRequest{ContainerId: "x"})
	wantCode(t, "a panic", err, codes.Internal)
	if strings.Contains(err.Error(), "boom") {
		t.Errorf("the panic's text went to the client: %v", err)
	}
	if _, err := n.local.Version(t.Context(), &criv1.VersionRequest{}); err != nil {
		t.Errorf("the server is gone: %v", err)
	}
}

func TestWhatTheKubeletDemandsAtItsStart(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx := t.Context()
	v, err := n.remote.Version(ctx, &criv1.VersionRequest{})
	if err != nil || v.Version != "0.1.0" || v.RuntimeName != "berth" || v.RuntimeVersion != "1.2.3" || v.RuntimeApiVersion != "v1" {
		t.Errorf("version: %v, %v", v, err)
	}
	rc, err := n.remote.RuntimeConfig(ctx, &criv1.RuntimeConfigRequest{})
	if err != nil || rc.Linux.GetCgroupDriver() != criv1.CgroupDriver_CGROUPFS {
		t.Errorf("runtime config: %v, %v", rc, err)
	}
	cidr := &criv1.RuntimeConfig{NetworkConfig: &criv1.NetworkConfig{PodCidr: "10.1.0.0/24,fd00::/64"}}
	if _, err := n.remote.UpdateRuntimeConfig(ctx, &criv1.UpdateRuntimeConfigRequest{RuntimeConfig: cidr}); err != nil || n.podCIDR != "10.1.0.0/24,fd00::/64" {
		t.Errorf("the pod CIDR arrived as %q, %v", n.podCIDR, err)
	}
	if _, err := n.remote.UpdateRuntimeConfig(ctx, &criv1.UpdateRuntimeConfigRequest{}); err != nil {
		t.Error(err)
	}
	// So a kubelet asks whether there are stats of pods; only Unimplemented means no.
	_, err = n.remote.PodSandboxStats(ctx, &criv1.PodSandboxStatsRequest{})
	wantCode(t, "stats of no pod", err, codes.NotFound)

	n.network = errors.New("the bridge is gone")
	st, err := n.remote.Status(ctx, &criv1.StatusRequest{Verbose: true})
	if err != nil || st.Info["config"] != `{"stateDir":"/s"}` || !st.Features.SupplementalGroupsPolicy || !st.Features.MountOptions {
		t.Errorf("status: %v, %v", st, err)
	}
	var handlers []string
	for _, h := range st.RuntimeHandlers {
		handlers = append(handlers, h.Name)
		if !h.Features.GetRecursiveReadOnlyMounts() || h.Features.GetUserNamespaces() || st.Features.UserNamespacesHostNetwork {
			t.Errorf("handler %q: features %v, of all %v", h.Name, h.Features, st.Features)
		}
	}
	n.userns = true
	if st, err := n.remote.Status(ctx, &criv1.StatusRequest{}); err != nil || !st.RuntimeHandlers[2].Features.UserNamespaces || !st.Features.UserNamespacesHostNetwork {
		t.Errorf("with user namespaces: %v, %v", st, err)
	}
	if want := []string{"", "runc", "trusted"}; !slices.Equal(handlers, want) {
		t.Errorf("handlers %q, want %q", handlers, want)
	}
	for _, c := range st.Status.Conditions {
		switch {
		case c.Type == criv1.RuntimeReady && !c.Status:
			t.Errorf("got %v", c)
		case c.Type == criv1.NetworkReady && (c.Status || c.Reason == "" || c.Message != "the bridge is gone"):
			t.Errorf("got %v", c)
		}
	}
	_, err = n.remote.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{RuntimeHandler: "kata"})
	wantCode(t, "an unknown handler", err, codes.InvalidArgument)
}

func TestImages(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx, c := t.Context(), n.remote
	spec := &criv1.ImageSpec{Image: "nginx"}
	st, err := c.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: spec})
	if err != nil || st.Image != nil {
		t.Errorf("status of an absent image: %v, %v", st, err)
	}
	pulled, err := c.PullImage(ctx, &criv1.PullImageRequest{Image: spec})
	if err != nil || pulled.ImageRef != "sha256:nginx" {
		t.Fatalf("got %v, %v", pulled, err)
	}
	st, err = c.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: spec, Verbose: true})
	if err != nil || st.Image.Id != pulled.ImageRef || st.Image.Pinned || st.Info["info"] == "" {
		t.Errorf("got %v, %v", st, err)
	}
	for filter, want := range map[string]int{"": 1, "nginx": 1, "absent": 0} {
		l, err := c.ListImages(ctx, &criv1.ListImagesRequest{Filter: &criv1.ImageFilter{Image: &criv1.ImageSpec{Image: filter}}})
		if err != nil || len(l.Images) != want {
			t.Errorf("filter %q: %v, %v", filter, l, err)
		}
	}
	for range 2 {
		if _, err := c.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: spec}); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := c.ImageFsInfo(ctx, &criv1.ImageFsInfoRequest{})
	if err != nil || len(fs.ImageFilesystems) != 1 || fs.ImageFilesystems[0].FsId.Mountpoint != "/images" || fs.ImageFilesystems[0].Timestamp == 0 {
		t.Errorf("got %v, %v", fs, err)
	}
	_, err = c.PullImage(ctx, &criv1.PullImageRequest{})
	wantCode(t, "a pull of nothing", err, codes.InvalidArgument)
}

// The kubelet removes images that none of the containers it sees uses.
func TestTheKubeletIsToldToLeaveLocalImagesAlone(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx := t.Context()
	for _, ref := range []string{"used", "free"} {
		if _, err := n.local.PullImage(ctx, &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: ref}}); err != nil {
			t.Fatal(err)
		}
	}
	n.images.byRef["loaded"] = imageservice.Image{ID: "sha256:loaded", Tags: []string{"loaded"}, Size: 1}
	create(t, n.local, runPod(t, n.local, "mine"), "sha256:used")
	for ref, want := range map[string]bool{"used": true, "free": false, "loaded": true} {
		for name, c := range map[string]clients{"berth.sock": n.local, "kubelet.sock": n.remote} {
			st, err := c.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: ref}})
			if err != nil {
				t.Fatal(err)
			}
			if pinned := want && name == "kubelet.sock"; st.Image.Pinned != pinned {
				t.Errorf("%s on %s: pinned is %v", ref, name, st.Image.Pinned)
			}
		}
	}
}

func TestPullErrorsThatTheKubeletReads(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	n.images.pullErr = errkind.New(errkind.Unavailable, "cannot reach registry x")
	_, err := n.remote.PullImage(t.Context(), &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: "a"}})
	wantCode(t, "an unreachable registry", err, codes.Unknown)
	if got := status.Convert(err).Message(); got != "RegistryUnavailable: cannot reach registry x" {
		t.Errorf("text: %q", got)
	}
	n.images.pullErr = errkind.New(errkind.PermissionDenied, "refused")
	_, err = n.remote.PullImage(t.Context(), &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: "a"}})
	wantCode(t, "refused credentials", err, codes.PermissionDenied)

	n.images.pullErr = fmt.Errorf("cannot pull a: %w", &imageservice.Refusal{Program: "policy", Reason: "no signature"})
	_, err = n.remote.PullImage(t.Context(), &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: "a"}})
	wantCode(t, "an image that a verifier refuses", err, codes.Unknown)
	if got := status.Convert(err).Message(); got != "SignatureValidationFailed: cannot pull a: image verifier policy refuses it: no signature" {
		t.Errorf("text: %q", got)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = n.remote.PullImage(ctx, &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: "slow"}})
	wantCode(t, "a caller that is out of time", err, codes.DeadlineExceeded)
}
