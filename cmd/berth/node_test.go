package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// node is a daemon in memory: pods and containers have the states and the
// errors of the real one, and a container "executes" one of a few commands:
//
//	echo TEXT...   a line on stdout, code 0
//	complain TEXT  a line on stderr, code 0
//	exit N         code N
//	sleep          stays until a signal ends it, code 128+signal
//	trap           stays, prints each signal's name, and ends with 7 on SIGTERM
type node struct {
	criv1.UnimplementedRuntimeServiceServer
	criv1.UnimplementedImageServiceServer
	logRoot string
	socket  string
	server  *grpc.Server

	mu         sync.Mutex
	changed    *sync.Cond // of mu
	ids        int
	pods       map[string]*fakePod
	containers map[string]*fakeContainer
	images     map[string]*criv1.Image
	registry   map[string]string // references that can be pulled, to ids
	problems   []api.Problem
	findings   []api.Finding
	applied    string // manifest
	checks     []api.CheckRequest
	pulls      []string
	loaded     []byte
	notes      []string // of sessions
	work       api.WorkResult
	events     []api.Event
	local      map[string]api.Local
	volumes    []api.Volume
}

type fakePod struct {
	*criv1.PodSandbox
	config *criv1.PodSandboxConfig
}

type fakeContainer struct {
	*criv1.Container
	config *criv1.ContainerConfig
	status *criv1.ContainerStatus
	log    []*api.LogLine
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{
		logRoot: filepath.Join(dir, "log"), socket: filepath.Join(dir, "s"),
		pods: map[string]*fakePod{}, containers: map[string]*fakeContainer{},
		images: map[string]*criv1.Image{}, registry: map[string]string{},
	}
	n.changed = sync.NewCond(&n.mu)
	n.start(t)
	t.Cleanup(func() { n.server.Stop() })
	return n
}

func (n *node) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", n.socket)
	if err != nil {
		t.Fatal(err)
	}
	n.server = grpc.NewServer()
	criv1.RegisterRuntimeServiceServer(n.server, n)
	criv1.RegisterImageServiceServer(n.server, n)
	api.Register(n.server, adminNode{node: n})
	go func() { _ = n.server.Serve(l) }()
}

// id makes ids that differ in their first characters.
func (n *node) id() string {
	n.ids++
	sum := sha256.Sum256([]byte(strconv.Itoa(n.ids)))
	return hex.EncodeToString(sum[:])
}

func (n *node) addImage(tag, seed string) *criv1.Image {
	sum := sha256.Sum256([]byte(seed))
	img := &criv1.Image{Id: "sha256:" + hex.EncodeToString(sum[:]), Size: 4_321_000}
	if tag != "" {
		img.RepoTags = []string{tag}
	}
	n.images[img.Id] = img
	return img
}

// normal is the full form of a name without registry.
func normal(ref string) string {
	if !strings.Contains(ref, "/") {
		ref = "docker.io/library/" + ref
	}
	if _, tag := splitTag(ref); tag == "<none>" && !strings.Contains(ref, "@") {
		ref += ":latest"
	}
	return ref
}

func (n *node) findImage(ref string) *criv1.Image {
	for _, img := range n.images {
		if img.Id == ref || slices.Contains(img.RepoTags, normal(ref)) || strings.HasPrefix(img.Id, "sha256:"+ref) {
			return img
		}
	}
	return nil
}

func (n *node) Version(context.Context, *criv1.VersionRequest) (*criv1.VersionResponse, error) {
	return &criv1.VersionResponse{RuntimeName: "berth", RuntimeVersion: "0.1.0", RuntimeApiVersion: "v1"}, nil
}

func (n *node) Status(context.Context, *criv1.StatusRequest) (*criv1.StatusResponse, error) {
	return &criv1.StatusResponse{Status: &criv1.RuntimeStatus{Conditions: []*criv1.RuntimeCondition{
		{Type: criv1.RuntimeReady, Status: true},
		{Type: criv1.NetworkReady, Reason: "NoAddress", Message: "the bridge has no address"},
	}}}, nil
}

func (n *node) RunPodSandbox(_ context.Context, r *criv1.RunPodSandboxRequest) (*criv1.RunPodSandboxResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pods {
		for _, have := range p.config.PortMappings {
			for _, want := range r.Config.PortMappings {
				if p.State == criv1.PodSandboxState_SANDBOX_READY && have.HostPort == want.HostPort {
					return nil, status.Errorf(codes.FailedPrecondition, "cannot publish port %d: pod %s has it", want.HostPort, p.Metadata.Name)
				}
			}
		}
	}
	if err := os.MkdirAll(r.Config.LogDirectory, 0o755); err != nil {
		return nil, err
	}
	p := &fakePod{PodSandbox: &criv1.PodSandbox{
		Id: n.id(), Metadata: r.Config.Metadata, State: criv1.PodSandboxState_SANDBOX_READY,
		CreatedAt: time.Now().UnixNano(), Labels: r.Config.Labels, Annotations: r.Config.Annotations,
	}, config: r.Config}
	n.pods[p.Id] = p
	return &criv1.RunPodSandboxResponse{PodSandboxId: p.Id}, nil
}

func (n *node) StopPodSandbox(_ context.Context, r *criv1.StopPodSandboxRequest) (*criv1.StopPodSandboxResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.pods[r.PodSandboxId]; p != nil {
		p.State = criv1.PodSandboxState_SANDBOX_NOTREADY
		for _, c := range n.containers {
			if c.PodSandboxId == p.Id {
				n.end(c, 137)
			}
		}
	}
	return &criv1.StopPodSandboxResponse{}, nil
}

func (n *node) RemovePodSandbox(_ context.Context, r *criv1.RemovePodSandboxRequest) (*criv1.RemovePodSandboxResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, c := range n.containers {
		if c.PodSandboxId == r.PodSandboxId {
			delete(n.containers, id)
		}
	}
	delete(n.pods, r.PodSandboxId)
	n.changed.Broadcast()
	return &criv1.RemovePodSandboxResponse{}, nil
}

func (n *node) ListPodSandbox(context.Context, *criv1.ListPodSandboxRequest) (*criv1.ListPodSandboxResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := &criv1.ListPodSandboxResponse{}
	for _, p := range n.pods {
		copied := criv1.PodSandbox{
			Id: p.Id, Metadata: p.Metadata, State: p.State, CreatedAt: p.CreatedAt, Labels: p.Labels, Annotations: p.Annotations,
		}
		r.Items = append(r.Items, &copied)
	}
	return r, nil
}

func (n *node) PodSandboxStatus(_ context.Context, r *criv1.PodSandboxStatusRequest) (*criv1.PodSandboxStatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.pods[r.PodSandboxId]
	if p == nil {
		return nil, status.Errorf(codes.NotFound, "there is no pod %s", r.PodSandboxId)
	}
	return &criv1.PodSandboxStatusResponse{Status: &criv1.PodSandboxStatus{Id: p.Id, Metadata: p.Metadata, State: p.State}}, nil
}

func (n *node) CreateContainer(_ context.Context, r *criv1.CreateContainerRequest) (*criv1.CreateContainerResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	img := n.findImage(r.Config.Image.Image)
	switch {
	case n.pods[r.PodSandboxId] == nil:
		return nil, status.Errorf(codes.NotFound, "there is no pod %s", r.PodSandboxId)
	case img == nil:
		return nil, status.Errorf(codes.NotFound, "there is no image %s", r.Config.Image.Image)
	}
	c := &fakeContainer{
		Container: &criv1.Container{
			Id: n.id(), PodSandboxId: r.PodSandboxId, Metadata: r.Config.Metadata, Image: r.Config.Image, ImageId: img.Id,
			CreatedAt: time.Now().UnixNano(), Labels: r.Config.Labels, Annotations: r.Config.Annotations,
		},
		config: r.Config,
	}
	c.status = &criv1.ContainerStatus{Id: c.Id, Metadata: c.Metadata, CreatedAt: c.CreatedAt}
	n.containers[c.Id] = c
	return &criv1.CreateContainerResponse{ContainerId: c.Id}, nil
}

func (n *node) StartContainer(_ context.Context, r *criv1.StartContainerRequest) (*criv1.StartContainerResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	argv := slices.Concat(c.config.Command, c.config.Args)
	c.State, c.status.State = criv1.ContainerState_CONTAINER_RUNNING, criv1.ContainerState_CONTAINER_RUNNING
	c.status.StartedAt = time.Now().UnixNano()
	switch {
	case len(argv) == 0, argv[0] == "sleep", argv[0] == "trap":
	case argv[0] == "echo":
		n.print(c, "stdout", strings.Join(argv[1:], " "))
		n.end(c, 0)
	case argv[0] == "complain":
		n.print(c, "stderr", strings.Join(argv[1:], " "))
		n.end(c, 0)
	case argv[0] == "exit":
		code, _ := strconv.Atoi(argv[1])
		n.end(c, int32(code))
	default:
		n.end(c, 128)
		return nil, status.Errorf(codes.Unknown, "cannot start container %s: exec: %q: executable file not found in $PATH", c.Id[:12], argv[0])
	}
	n.changed.Broadcast()
	return &criv1.StartContainerResponse{}, nil
}

// container, print and end are called with mu held.
func (n *node) container(id string) (*fakeContainer, error) {
	if c := n.containers[id]; c != nil {
		return c, nil
	}
	return nil, status.Errorf(codes.NotFound, "there is no container %s", id)
}

func (n *node) print(c *fakeContainer, stream, text string) {
	// Two lines may well have the same time.
	c.log = append(c.log, &api.LogLine{Stream: stream, Time: time.Now().Truncate(50 * time.Millisecond), Text: []byte(text)})
	n.changed.Broadcast()
}

func (n *node) end(c *fakeContainer, code int32) {
	if c.State == criv1.ContainerState_CONTAINER_EXITED {
		return
	}
	c.State, c.status.State = criv1.ContainerState_CONTAINER_EXITED, criv1.ContainerState_CONTAINER_EXITED
	c.status.ExitCode, c.status.FinishedAt = code, time.Now().UnixNano()
	n.changed.Broadcast()
}

func (n *node) StopContainer(_ context.Context, r *criv1.StopContainerRequest) (*criv1.StopContainerResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if r.Timeout > 0 {
		n.end(c, 143)
	} else {
		n.end(c, 137)
	}
	return &criv1.StopContainerResponse{}, nil
}

func (n *node) RemoveContainer(_ context.Context, r *criv1.RemoveContainerRequest) (*criv1.RemoveContainerResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.containers, r.ContainerId)
	n.changed.Broadcast()
	return &criv1.RemoveContainerResponse{}, nil
}

func (n *node) ListContainers(context.Context, *criv1.ListContainersRequest) (*criv1.ListContainersResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := &criv1.ListContainersResponse{}
	for _, c := range n.containers {
		copied := criv1.Container{
			Id: c.Id, PodSandboxId: c.PodSandboxId, Metadata: c.Metadata, Image: c.Image, ImageId: c.ImageId,
			State: c.State, CreatedAt: c.CreatedAt, Labels: c.Labels, Annotations: c.Annotations,
		}
		r.Containers = append(r.Containers, &copied)
	}
	return r, nil
}

func (n *node) ContainerStatus(_ context.Context, r *criv1.ContainerStatusRequest) (*criv1.ContainerStatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	s := &criv1.ContainerStatus{
		Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, StartedAt: c.status.StartedAt,
		FinishedAt: c.status.FinishedAt, ExitCode: c.status.ExitCode, Reason: c.status.Reason, Mounts: c.config.Mounts,
	}
	resp := &criv1.ContainerStatusResponse{Status: s}
	if r.Verbose {
		resp.Info = map[string]string{"pid": "42", "note": "not JSON"}
	}
	return resp, nil
}

func (n *node) ExecSync(_ context.Context, r *criv1.ExecSyncRequest) (*criv1.ExecSyncResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if c.State != criv1.ContainerState_CONTAINER_RUNNING {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s does not run", c.Id[:12])
	}
	if r.Cmd[0] == "exit" {
		code, _ := strconv.Atoi(r.Cmd[1])
		return &criv1.ExecSyncResponse{Stderr: []byte("oh\n"), ExitCode: int32(code)}, nil
	}
	return &criv1.ExecSyncResponse{Stdout: []byte(strings.Join(r.Cmd, " ") + "\n")}, nil
}

func (n *node) Stats(context.Context, *api.StatsRequest) (*api.StatsResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := &api.StatsResult{}
	rate, received, sent := uint64(250_000_000), uint64(1_200), uint64(0)
	for id, c := range n.containers {
		if c.State == criv1.ContainerState_CONTAINER_RUNNING {
			out.Samples = append(out.Samples, api.StatsSample{Container: id, CPURate: &rate, Memory: 16 << 20, MemoryLimit: 64 << 20,
				Received: &received, Sent: &sent, BlockRead: 12_000, Pids: 3})
		}
	}
	return out, nil
}

func (n *node) Images(context.Context, *api.Empty) (*api.ImageList, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := &api.ImageList{}
	for _, img := range n.images {
		r.Images = append(r.Images, n.image(img))
	}
	return r, nil
}

// image is what the list tells of an image. mu is held.
func (n *node) image(img *criv1.Image) api.Image {
	out := api.Image{ID: img.Id, Tags: img.RepoTags, Size: img.Size, Created: time.Now().Add(-72 * time.Hour)}
	for id, c := range n.containers {
		if c.ImageId == img.Id {
			out.Containers = append(out.Containers, id)
		}
	}
	return out
}

func (n *node) ImageStatus(_ context.Context, r *criv1.ImageStatusRequest) (*criv1.ImageStatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &criv1.ImageStatusResponse{Image: n.findImage(r.Image.Image)}, nil
}

func (n *node) RemoveImage(_ context.Context, r *criv1.RemoveImageRequest) (*criv1.RemoveImageResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if img := n.findImage(r.Image.Image); img != nil {
		delete(n.images, img.Id)
	}
	return &criv1.RemoveImageResponse{}, nil
}

func (n *node) Info(context.Context, *api.Empty) (*api.Info, error) {
	return &api.Info{Version: "0.1.0", Root: "/var/lib/berth", State: "/run/berth", LogRoot: n.logRoot, ShimGroup: "node", Pids: api.Pids{Daemon: 1, Shims: []int{2}}}, nil
}

func (n *node) Pull(r *api.PullRequest, s grpc.ServerStreamingServer[api.Progress]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pulls = append(n.pulls, r.Ref)
	seed, ok := n.registry[normal(r.Ref)]
	if !ok {
		return status.Errorf(codes.NotFound, "cannot pull %s: the registry has no such image", r.Ref)
	}
	layer := "sha256:" + strings.Repeat("ab", 32)
	for _, p := range []api.Progress{
		{Status: "resolved"}, {Layer: layer, Status: "downloading", Total: 2_000_000}, {Layer: layer, Status: "downloading", Done: 1_000_000, Total: 2_000_000},
		{Layer: layer, Status: "done", Done: 2_000_000, Total: 2_000_000}, {ImageID: n.addImage(normal(r.Ref), seed).Id},
	} {
		if err := s.Send(&p); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) Load(s grpc.ClientStreamingServer[api.Chunk, api.LoadResult]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		c, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		n.loaded = append(n.loaded, c.Data...)
	}
	img := n.addImage("docker.io/library/loaded:1", "loaded")
	return s.SendAndClose(&api.LoadResult{IDs: []string{img.Id}, Tags: img.RepoTags})
}

func (n *node) Tag(_ context.Context, r *api.TagRequest) (*api.Empty, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	img := n.findImage(r.Source)
	if img == nil {
		return nil, status.Errorf(codes.NotFound, "there is no image %s", r.Source)
	}
	img.RepoTags = append(img.RepoTags, normal(r.Target))
	return &api.Empty{}, nil
}

func (n *node) InspectImage(_ context.Context, r *api.ImageRequest) (*api.Image, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	img := n.findImage(r.Ref)
	if img == nil {
		return nil, status.Errorf(codes.NotFound, "there is no image %s", r.Ref)
	}
	out := n.image(img)
	out.Config = []byte(`{"Entrypoint":["/entry"],"Cmd":["serve"]}`)
	out.History = []api.History{
		{CreatedBy: "COPY x /  # with\tspaces", Comment: "by hand", DiffID: "sha256:" + strings.Repeat("cd", 32), Size: 4_200_000},
		{CreatedBy: `CMD ["serve"]`},
	}
	return &out, nil
}

func (n *node) Logs(r *api.LogsRequest, s grpc.ServerStreamingServer[api.LogLines]) error {
	stop := context.AfterFunc(s.Context(), n.changed.Broadcast)
	defer stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.container(r.Container)
	if err != nil {
		return err
	}
	next := 0
	if r.Tail != nil {
		next = max(0, len(c.log)-*r.Tail)
	}
	for {
		for ; next < len(c.log); next++ {
			if at := c.log[next].Time; at.Before(r.Since) || !r.Until.IsZero() && at.After(r.Until) {
				continue
			}
			if err := s.Send(&api.LogLines{Lines: []api.LogLine{*c.log[next]}}); err != nil {
				return err
			}
		}
		if !r.Follow || c.State == criv1.ContainerState_CONTAINER_EXITED {
			return nil
		}
		if err := s.Context().Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		n.changed.Wait()
	}
}

func (n *node) Wait(ctx context.Context, r *api.ContainerRequest) (*api.WaitResult, error) {
	stop := context.AfterFunc(ctx, n.changed.Broadcast)
	defer stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		c, err := n.container(r.Container)
		if err != nil {
			return nil, err
		}
		if c.State == criv1.ContainerState_CONTAINER_EXITED {
			return &api.WaitResult{ExitCode: c.status.ExitCode, OOM: c.status.Reason == "OOMKilled"}, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, status.FromContextError(err).Err()
		}
		n.changed.Wait()
	}
}

func (n *node) Signal(_ context.Context, r *api.SignalRequest) (*api.Empty, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.container(r.Container)
	if err != nil {
		return nil, err
	}
	if c.State != criv1.ContainerState_CONTAINER_RUNNING {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s does not run", c.Id[:12])
	}
	name := "SIG" + strings.TrimPrefix(r.Signal, "SIG")
	if len(c.config.Args) > 0 && c.config.Args[0] == "trap" && name != "SIGKILL" {
		n.print(c, "stdout", "got "+name)
		if name == "SIGTERM" {
			n.end(c, 7)
		}
		return &api.Empty{}, nil
	}
	n.end(c, 128+int32(unix.SignalNum(name)))
	return &api.Empty{}, nil
}

func (n *node) Check(_ context.Context, r *api.CheckRequest) (*api.CheckResult, error) {
	n.mu.Lock()
	n.checks = append(n.checks, *r)
	n.mu.Unlock()
	out := &api.CheckResult{Problems: slices.Clone(n.problems)}
	for i := range out.Problems {
		out.Problems[i].Repaired = r.Repair
	}
	return out, nil
}

func (n *node) Top(context.Context, *api.ContainerRequest) (*api.TopResult, error) {
	return &api.TopResult{Processes: []api.Process{
		{Pid: 42, Parent: 7, CPU: time.Hour + time.Minute + time.Second, Command: "server --listen"},
		{Pid: 43, Parent: 42, UID: 4000000001, Command: "evil\x1b[2Jtitle\a"},
	}}, nil
}

func (n *node) Events(r *api.EventsRequest, s grpc.ServerStreamingServer[api.Event]) error {
	for _, e := range n.events {
		if e.At.Before(r.Since) {
			continue
		}
		if err := s.Send(&e); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) Work(context.Context, *api.Empty) (*api.WorkResult, error) { return &n.work, nil }

func (n *node) Df(context.Context, *api.Empty) (*api.DfResult, error) {
	return &api.DfResult{
		Mountpoint: "/var/lib/berth", Bytes: 5_000_000, Inodes: 300,
		Images:     []api.Usage{{ID: "sha256:" + strings.Repeat("12", 32), Name: "docker.io/library/web:1", Bytes: 4_000_000, InUse: true}},
		Containers: []api.Usage{{ID: strings.Repeat("34", 32), Name: "web", Bytes: 1_000_000, Inodes: 7}},
	}, nil
}

func (n *node) Steps(context.Context, *api.Empty) (*api.StepsResult, error) {
	return &api.StepsResult{Names: []string{"pod.run/netns", "pod.run/files"}}, nil
}

// berth runs the command against the node.
func (n *node) berth(args ...string) (code int, out, errs string) {
	var o, e lockedBuffer
	code = run(append([]string{"--socket", n.socket}, args...), strings.NewReader("archive"), &o, &e)
	return code, o.String(), e.String()
}

// must is berth for commands that have to work.
func (n *node) must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := n.berth(args...)
	if code != 0 {
		t.Fatalf("berth %v: code %d\n%s%s", args, code, out, errs)
	}
	return out
}

// running waits until a container of this name runs and returns its id.
func (n *node) running(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		for id, c := range n.containers {
			if c.Metadata.Name == name && c.State == criv1.ContainerState_CONTAINER_RUNNING {
				return id
			}
		}
		n.changed.Wait()
	}
}

// say makes a running container print a line.
func (n *node) say(id, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.print(n.containers[id], "stdout", text)
}

// lockedBuffer is written by a verb and read by its test meanwhile.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *lockedBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	for range 1000 {
		if strings.Contains(b.String(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no %q in:\n%s", text, b.String())
}
