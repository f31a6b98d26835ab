// Package admin answers berth's own service (package api) for the command
// line: what people need of a node and CRI has no word for.
//
// Model. A Server stands beside a cri.Server on berth.sock, over the same
// domains and with the same interceptors. It sees every pod. An RPC is one
// short method: check the request, call the domain, fill in the answer.
//
// Law. As in package cri: no state, nothing of the machine; domain errors go
// up as they are. Credentials in a request are passed on and forgotten, never
// logged. It is never registered on kubelet.sock.
package admin

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Pods is what the server needs of the pods domain; *pod.Table has it.
type Pods interface {
	Container(v pod.View, id string) (*pod.ContainerStatus, error)
	Containers(v pod.View, f pod.ContainerFilter) []*pod.ContainerStatus
	Pods(v pod.View, f pod.PodFilter) []*pod.PodStatus
	// Signal takes a signal's name or number, for a container that runs.
	Signal(ctx context.Context, v pod.View, id, signal string) error
	Subscribe(ctx context.Context) <-chan pod.Event
	Check(ctx context.Context) ([]pod.Problem, error)
	ExecCommand(ctx context.Context, v pod.View, id string, cmd pod.Command, want pod.Stdio) (pod.Session, error)
	Processes(v pod.View, id string) ([]pod.Process, error)
	Rename(ctx context.Context, v pod.View, id, name string) error
	MountersOf(hostPath string) []string
	Usages(ctx context.Context, v pod.View, ids []string) ([]pod.Usage, error)
	Files
	// Works lists what is under way and what could not be ended.
	Works() []pod.Work
	AttachStream(ctx context.Context, v pod.View, id string, want pod.Stdio) (pod.Session, error)
}

// Images is what the server needs of the image store; *imageservice.Service
// has it.
type Images interface {
	Pull(ctx context.Context, r imageservice.PullRequest) (imageservice.Image, error)
	Status(ctx context.Context, ref string) (imageservice.Image, error)
	List(ctx context.Context) ([]imageservice.Image, error)
	Tag(ctx context.Context, src, dst string) error
	Untag(ctx context.Context, ref string) error
	History(ctx context.Context, ref string) ([]imageservice.HistoryEntry, error)
	Prune(ctx context.Context, scope imageservice.PruneScope) (imageservice.Pruned, error)
	Explain(ctx context.Context, ref string, auth *imageservice.Auth) (string, []imageservice.Endpoint, error)
	Usage(ctx context.Context) (imageservice.Usage, error)
	Load(ctx context.Context, r io.Reader, progress func(imageservice.Progress)) ([]imageservice.Image, error)
	Save(ctx context.Context, names []string, format imageservice.ArchiveFormat, w io.Writer) error
	Push(ctx context.Context, r imageservice.PushRequest) (digest.Digest, error)
	Build(ctx context.Context, r imageservice.BuildRequest, runner imageservice.BuildRunner) (imageservice.BuildResult, error)
	SnapshotUsage(ctx context.Context, containerID string) (bytes, inodes uint64, err error)
	Changes(ctx context.Context, containerID string) ([]imageservice.Change, error)
	Login(ctx context.Context, host string, auth *imageservice.Auth) error
	RawConfig(ctx context.Context, id string) ([]byte, error)
	CommitContainer(ctx context.Context, r imageservice.CommitRequest) (imageservice.Image, error)
	Remove(ctx context.Context, ref string) error
	Check(ctx context.Context) ([]string, error)
	Verify(ctx context.Context, quick bool) ([]imageservice.Damage, error)
	Pulls() []imageservice.RunningPull
	Repair(ctx context.Context, damages []imageservice.Damage, auths map[string]*imageservice.Auth) error
}

// Networks is what the server needs of the networks; cmd/berthd has it.
type Networks interface {
	// List tells of all networks, and of the pods on each.
	List(ctx context.Context) []api.Network
	// DNS is how pods resolve names that ask for nothing else.
	DNS() api.DNS
	Create(r *api.CreateNetworkRequest) (*api.Network, error)
	Remove(name string) error
	Examine(ctx context.Context) []api.Finding
}

// Config of a Server.
type Config struct {
	Pods   Pods
	Images Images
	Local  Local
	Named  Named
	Info   func(context.Context) api.Info
	Runner imageservice.BuildRunner // of the commands of builds
	Steps  []string                 // names of the failpoints
	// Events reads the journal; journal.Journal's Read.
	Events func(ctx context.Context, since time.Time, follow bool, emit func(*api.Event) error) error
	// Doctor looks at the node, and at those registries.
	Doctor func(ctx context.Context, registries []string) ([]api.Finding, error)
	// Networks are those of the node.
	Networks Networks
	// Settings are those that the daemon runs with.
	Settings []api.Setting
	// Operations are the last calls; operations.Recorder's List.
	Operations func() []api.Operation
	// Checked, if set, is told what a check has found.
	Checked func([]api.Problem)
}

// Server implements api.Server.
type Server struct {
	cfg Config
}

var _ api.Server = (*Server)(nil)

// New makes a Server.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Register makes s answer for the service on g, before g serves.
func (s *Server) Register(g grpc.ServiceRegistrar) { api.Register(g, s) }

// Info describes the daemon.
func (s *Server) Info(ctx context.Context, _ *api.Empty) (*api.Info, error) {
	i := s.cfg.Info(ctx)
	return &i, nil
}

// Steps lists the failpoints.
func (s *Server) Steps(context.Context, *api.Empty) (*api.StepsResult, error) {
	return &api.StepsResult{Names: s.cfg.Steps}, nil
}

// Events sends what happened on the node.
func (s *Server) Events(r *api.EventsRequest, out grpc.ServerStreamingServer[api.Event]) error {
	return s.cfg.Events(out.Context(), r.Since, r.Follow, out.Send)
}

// Signal sends a signal to a container.
func (s *Server) Signal(ctx context.Context, r *api.SignalRequest) (*api.Empty, error) {
	return &api.Empty{}, s.cfg.Pods.Signal(ctx, pod.ViewAll, r.Container, r.Signal)
}

// Df tells what takes up space.
func (s *Server) Df(ctx context.Context, _ *api.Empty) (*api.DfResult, error) {
	u, err := s.cfg.Images.Usage(ctx)
	if err != nil {
		return nil, err
	}
	images, err := s.cfg.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	out := &api.DfResult{Mountpoint: u.Mountpoint, Bytes: u.Bytes, Inodes: u.Inodes}
	used := make(map[string]bool)
	for _, c := range s.cfg.Pods.Containers(pod.ViewAll, pod.ContainerFilter{}) {
		bytes, inodes, err := s.cfg.Images.SnapshotUsage(ctx, c.ID)
		if errkind.Is(err, errkind.NotFound) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		for _, id := range imagesOf(c) {
			used[id] = true
		}
		out.Containers = append(out.Containers, api.Usage{
			ID: c.ID, Name: c.Config.Metadata.Name, Bytes: bytes, Inodes: inodes, InUse: c.State == pod.StateRunning,
		})
	}
	for _, img := range images {
		out.Images = append(out.Images, api.Usage{ID: img.ID, Name: firstOf(img.Tags, img.Digests), Bytes: img.Size, InUse: used[img.ID]})
	}
	return out, nil
}

// firstOf is the first element of the first list that has one.
func firstOf(lists ...[]string) string {
	for _, l := range lists {
		if len(l) > 0 {
			return l[0]
		}
	}
	return ""
}
