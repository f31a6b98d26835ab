package pod

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/stats"
)

// Origin says which socket made a pod. It is part of the pod's record.
type Origin string

// The origins.
const (
	OriginKubelet Origin = "kubelet" // made through kubelet.sock
	OriginLocal   Origin = "local"   // made through berth.sock: absent from the kubelet's view
)

// View limits what a caller sees and may touch.
type View int

// The views: that of berth.sock and that of kubelet.sock.
const (
	ViewAll View = iota
	ViewKubelet
)

// Origin is the origin of the pods made through this view.
func (v View) Origin() Origin {
	if v == ViewKubelet {
		return OriginKubelet
	}
	return OriginLocal
}

// sees tells whether a pod of origin o exists for this view.
func (v View) sees(o Origin) bool { return v == ViewAll || o == OriginKubelet }

// State of a container.
type State string

// The states of a container, in the order of its life.
const (
	StateCreated State = "created"
	StateRunning State = "running"
	StateExited  State = "exited"
	StateUnknown State = "unknown" // its record cannot be read
)

// PodStatus is an immutable snapshot of a pod. Callers must not change it.
type PodStatus struct {
	ID        string // 64 hex digits
	Origin    Origin
	Config    *spec.Pod
	Ready     bool
	CreatedAt time.Time
	Addresses []netip.Addr // primary first; none on the host network
	Netns     string       // path; empty on the host network
	// CNIResult is what the plugins of its primary network answered, in JSON;
	// none on other networks.
	CNIResult json.RawMessage
	Network   string // name of the one it is on; empty: the embedded one, or the host's
	Overhead  spec.Resources
	Resources spec.Resources // the containers' sum; both as the client last said
}

// ContainerStatus is an immutable snapshot of a container.
type ContainerStatus struct {
	ID     string // 64 hex digits
	PodID  string
	Origin Origin
	Config *spec.Container
	Image  *spec.ImageConfig
	// VolumeImages are the ids of the images mounted as volumes, by the number
	// of the mount; empty for a host path, nil without such mounts.
	VolumeImages []string
	State        State
	CreatedAt    time.Time
	StartedAt    time.Time // zero in StateCreated
	FinishedAt   time.Time // only in StateExited
	ExitCode     int32
	Reason       string // Completed, Error, OOMKilled, StartError, Unknown
	Message      string
	LogPath      string // absolute; empty: no log
	User         spec.User
	StopSignal   string // effective, "SIGTERM"
	Resources    spec.Resources
	From         string // id of the container of which this is a new attempt
	StopAsked    bool   // somebody has stopped it; of local containers only
	Paused       bool   // it runs, and stands still
	EarlierBoot  bool   // it was made before the machine was last booted
	// The labels of SELinux of its processes, none of a privileged one's, and of
	// its files; empty where containers get none.
	ProcessLabel, MountLabel string
	Pid                      int // on the host; 0 unless created or running, or if it has a program that cannot be started
}

// PodFilter selects pods; zero fields match everything, all fields must match.
type PodFilter struct {
	ID     string // id or prefix
	Ready  *bool
	Labels map[string]string
}

// ContainerFilter selects containers like PodFilter does.
type ContainerFilter struct {
	ID     string
	PodID  string // id or prefix
	State  State
	Labels map[string]string
}

// ExecResult is what ExecSync captured.
type ExecResult struct {
	Stdout, Stderr []byte // each capped at MaxExecOutput
	Code           int32
}

// MaxExecOutput bounds each captured stream of ExecSync in bytes. Both
// streams and the framing must fit the client's 16 MiB message.
const MaxExecOutput = 16<<20/2 - 64<<10

// EventKind is what happened to a container or a pod.
type EventKind string

// The kinds of events, as CRI has them.
const (
	EventCreated EventKind = "created"
	EventStarted EventKind = "started"
	EventStopped EventKind = "stopped"
	EventDeleted EventKind = "deleted"
)

// Event tells of a change. For a pod's own events ContainerID is the pod's id.
type Event struct {
	Kind        EventKind
	ContainerID string
	At          time.Time
	Pod         *PodStatus
	Containers  []*ContainerStatus // all of the pod
}

// Stats is one sample of a container.
type Stats struct {
	Container *ContainerStatus
	At        time.Time
	CPU       CPUStats
	Memory    MemoryStats
	IO        *stats.Stall // pressure on disks; nil if the kernel does not tell
	Layer     LayerStats
	Processes uint64 // with their threads
}

// CPUStats of a cgroup.
type CPUStats struct {
	UsageNanos uint64  // since the start of the container
	NanoCores  *uint64 // rate; nil without an earlier sample
	Pressure   *stats.Stall
}

// MemoryStats of a cgroup, in bytes.
type MemoryStats struct {
	Usage, WorkingSet, RSS      uint64
	PageFaults, MajorPageFaults uint64
	Available                   *uint64 // limit minus working set; nil without a limit
	SwapUsage, SwapAvailable    *uint64
	Pressure                    *stats.Stall
}

// LayerStats is the usage of the writable layer.
type LayerStats struct {
	Mountpoint    string // of the image file system
	Bytes, Inodes uint64
}

// Problem is one difference between records and the machine, found by Check.
type Problem struct {
	Kind   string `json:"kind"`   // mount, namespace, cgroup, process, interface, rule, file, record
	Object string `json:"object"` // path, name or id
	Detail string `json:"detail"`
}
