package cri

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/stream"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// Pods is what the server needs of the pods domain; *pod.Table has it. Where
// a method takes an id it takes a unique prefix of one too; an absent object
// is errkind.NotFound, except for the verbs that stop and remove, which then
// have nothing to do.
type Pods interface {
	Run(ctx context.Context, v pod.View, cfg spec.Pod) (string, error)
	Stop(ctx context.Context, v pod.View, id string) error
	Remove(ctx context.Context, v pod.View, id string) error
	UpdatePod(ctx context.Context, v pod.View, id string, overhead, resources spec.Resources) error
	Pod(v pod.View, id string) (*pod.PodStatus, error)
	Pods(v pod.View, f pod.PodFilter) []*pod.PodStatus

	Create(ctx context.Context, v pod.View, podID string, cfg spec.Container) (string, error)
	Start(ctx context.Context, v pod.View, id string) error
	StopContainer(ctx context.Context, v pod.View, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, v pod.View, id string) error
	Container(v pod.View, id string) (*pod.ContainerStatus, error)
	Containers(v pod.View, f pod.ContainerFilter) []*pod.ContainerStatus

	ExecSync(ctx context.Context, v pod.View, id string, args []string, timeout time.Duration) (pod.ExecResult, error)
	ReopenLog(ctx context.Context, v pod.View, id string) error
	Update(ctx context.Context, v pod.View, id string, r spec.Resources) error
	Stats(ctx context.Context, v pod.View, id string) (*pod.Stats, error)
	StatsList(ctx context.Context, v pod.View, f pod.ContainerFilter) ([]*pod.Stats, error)
	PodStats(ctx context.Context, v pod.View, id string) (*pod.PodStats, error)
	PodStatsList(ctx context.Context, v pod.View, f pod.PodFilter) []*pod.PodStats
	Metrics(ctx context.Context, v pod.View) []pod.PodMetrics
	CheckpointContainer(ctx context.Context, v pod.View, id, location string, timeout time.Duration) error
	CheckpointPod(ctx context.Context, v pod.View, id, dir string, ids []string, options map[string]string) error
	RestorePod(ctx context.Context, v pod.View, dir string, cfg spec.Pod, configs []spec.Container, options map[string]string) (id string, made []pod.Restored, err error)
	// Subscribe gives all events from now on, whatever the view.
	Subscribe(ctx context.Context) <-chan pod.Event
}

// Images is what the server needs of the image store; *imageservice.Service
// has it. An image is named by id, unique prefix of the id, or reference.
type Images interface {
	Pull(ctx context.Context, r imageservice.PullRequest) (imageservice.Image, error)
	// Status is errkind.NotFound for an image that is not here.
	Status(ctx context.Context, ref string) (imageservice.Image, error)
	List(ctx context.Context) ([]imageservice.Image, error)
	// Remove takes all names of the image away and frees its space. An image
	// that is not here is success.
	Remove(ctx context.Context, ref string) error
	Usage(ctx context.Context) (imageservice.Usage, error)
	// RawConfig is the config of an image, or the manifest of an artifact.
	RawConfig(ctx context.Context, id string) ([]byte, error)
}

// Config of a Server. All fields but RecursiveReadOnly are needed.
type Config struct {
	View         pod.View
	Pods         Pods
	Images       Images
	Streams      *stream.Server // what Exec, Attach and PortForward lead to
	RuntimeName  string         // "berth": the scheme of container ids in Kubernetes
	Version      string         // of berth, semantic
	CgroupDriver string         // "systemd" or "cgroupfs"
	Handlers     []string       // names of the runtime handlers beside the default one's empty name, sorted

	// RecursiveReadOnly tells that the kernel can make mounts read-only with
	// all below them (5.12).
	RecursiveReadOnly bool
	// UserNamespaces tells whether pods can have user namespaces, with the
	// owners of their images and volumes mapped.
	UserNamespaces func() bool
	// NetworkStatus is nil when pods can be attached, else says why not.
	NetworkStatus func(context.Context) error
	// NetworkInfo is what verbose status shows of it, more keys of info.
	NetworkInfo func() map[string]string
	// SetPodCIDR is told of the ranges of the node's pods, separated by commas.
	SetPodCIDR func(ctx context.Context, cidrs string) error
	// ConfigJSON is the daemon's configuration for verbose status: a JSON
	// object with at least stateDir, which critest reads.
	ConfigJSON func() string
}

// Server answers CRI's RuntimeService and ImageService for one view.
type Server struct {
	criv1.UnimplementedRuntimeServiceServer
	criv1.UnimplementedImageServiceServer
	cfg Config
}

// New makes a Server.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Register makes s answer for both services on g.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	criv1.RegisterRuntimeServiceServer(g, s)
	criv1.RegisterImageServiceServer(g, s)
}

// maxMessage is the limit that the kubelet and crictl have, both ways.
const maxMessage = 16 << 20

// Observe is told of every call when it has ended: the full name of its method,
// such as /runtime.v1.RuntimeService/Status, its code and its time.
type Observe func(method string, code codes.Code, took time.Duration)

// Trace begins the span of a call of method, its full name, on object, which
// may be empty. The context that it returns is the call's, and the function is
// told of the call's end, with its status.
type Trace func(ctx context.Context, method, object string) (context.Context, func(error))

// ServerOptions are the options of every gRPC server that berth runs. observe
// and trace may be nil.
func ServerOptions(observe Observe, trace Trace) []grpc.ServerOption {
	a := around{observe, trace}
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.UnaryInterceptor(a.unary),
		grpc.StreamInterceptor(a.stream),
	}
}
