// Package spec turns what was asked for into the OCI runtime specification
// that the shim hands to libcontainer.
//
// The types in this file are the domain's words for a pod and a container.
// They are stored as JSON inside records, so a field's JSON name never
// changes its meaning. The functions of this package are pure: they read
// nothing but their arguments, so that a golden test shows all they do.
package spec

import (
	"net/netip"
	"time"

	"github.com/berth-runtime/berth/runtime/sys/idmap"
)

// NamespaceMode says whose namespace a container is in.
type NamespaceMode string

// The modes that CRI defines, and none, which commands of builds may have. The empty mode is not valid in a record.
const (
	ModePod       NamespaceMode = "pod"       // shared by the pod
	ModeContainer NamespaceMode = "container" // its own (PID only)
	ModeNode      NamespaceMode = "node"      // the host's
	ModeNone      NamespaceMode = "none"      // shared by the pod, with nothing in it but loopback (a pod's network only)
	ModeTarget    NamespaceMode = "target"    // that of another container of the pod (PID only)
)

// Namespaces is the choice for each kind of namespace.
type Namespaces struct {
	Network  NamespaceMode `json:"network"`
	PID      NamespaceMode `json:"pid"`
	IPC      NamespaceMode `json:"ipc"`
	TargetID string        `json:"target_id,omitempty"` // container id, with PID == ModeTarget
	User     NamespaceMode `json:"user,omitempty"`      // ModePod or ModeNode; empty: not said, the host's
	IDs      idmap.Map     `json:"ids,omitzero"`        // of the user namespace, with User == ModePod
}

// PodMetadata is the identity that the client chose; the four values together
// are unique among the pods that have not been removed.
type PodMetadata struct {
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Attempt   uint32 `json:"attempt"`
}

// DNS is the content of resolv.conf.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// PortMapping publishes a port of the pod on the host.
type PortMapping struct {
	Protocol      string `json:"protocol"`          // tcp, udp or sctp
	ContainerPort uint16 `json:"container_port"`    //
	HostPort      uint16 `json:"host_port"`         // 0: not published
	HostIP        string `json:"host_ip,omitempty"` // empty: every address of both families
}

// HostLine is a line of /etc/hosts.
type HostLine struct {
	Address netip.Addr `json:"address"`
	Names   []string   `json:"names"`
}

// LocalNetwork is what the command line can ask for and CRI has no field for.
// Only local pods have it.
type LocalNetwork struct {
	Name    string   `json:"name,omitempty"`    // of a network that people have made; empty: the usual one
	Aliases []string `json:"aliases,omitempty"` // further names of the pod on that network
	// IPs and MAC are addresses that the pod wants, the latter of plugins of CNI
	// that take such a wish.
	IPs []netip.Addr `json:"ips,omitempty"`
	MAC string       `json:"mac,omitempty"`
	// Hosts are names with addresses for /etc/hosts; the invalid address stands
	// for the host itself, where it is reached from the pod.
	Hosts []HostLine `json:"hosts,omitempty"`
}

// Pod is what RunPodSandbox asked for.
type Pod struct {
	Metadata       PodMetadata       `json:"metadata"`
	Hostname       string            `json:"hostname,omitempty"`
	LogDirectory   string            `json:"log_directory,omitempty"`
	DNS            *DNS              `json:"dns,omitempty"` // nil: the host's resolv.conf
	Ports          []PortMapping     `json:"ports,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Annotations    map[string]string `json:"annotations,omitempty"`
	RuntimeHandler string            `json:"runtime_handler,omitempty"`
	CgroupParent   string            `json:"cgroup_parent,omitempty"`
	Sysctls        map[string]string `json:"sysctls,omitempty"`
	// Overhead and Resources are sums for information; they limit nothing.
	Overhead   Resources  `json:"overhead,omitzero"`
	Resources  Resources  `json:"resources,omitzero"`
	Namespaces Namespaces `json:"namespaces"`
	// LocalNetwork is of local pods.
	LocalNetwork LocalNetwork `json:"local_network,omitzero"`
	Privileged   bool         `json:"privileged,omitempty"`
	// ShmSize is the size of /dev/shm in bytes; 0: the default. Local pods only.
	ShmSize int64    `json:"shm_size,omitempty"`
	Seccomp *Seccomp `json:"seccomp,omitempty"`
	SELinux *SELinux `json:"selinux,omitempty"` // for containers that ask for no label
}

// SeccompMode is one of CRI's three profile types.
type SeccompMode string

// The seccomp modes.
const (
	SeccompDefault    SeccompMode = "runtime/default"
	SeccompUnconfined SeccompMode = "unconfined"
	SeccompLocalhost  SeccompMode = "localhost"
)

// Seccomp chooses a system call filter. A nil *Seccomp means unconfined.
type Seccomp struct {
	Mode SeccompMode `json:"mode"`
	Path string      `json:"path,omitempty"` // absolute, with SeccompLocalhost
}

// SELinux chooses the label of processes; what is empty is the policy's.
type SELinux struct {
	User  string `json:"user,omitempty"`
	Role  string `json:"role,omitempty"`
	Type  string `json:"type,omitempty"`
	Level string `json:"level,omitempty"`
}

// ContainerMetadata is unique within the pod among containers not removed.
type ContainerMetadata struct {
	Name    string `json:"name"`
	Attempt uint32 `json:"attempt"`
}

// Env is one variable of the environment.
type Env struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Propagation of mounts between host and container.
type Propagation string

// The modes of propagation.
const (
	PropagationPrivate Propagation = "private"
	PropagationSlave   Propagation = "slave"  // host to container
	PropagationShared  Propagation = "shared" // both ways
)

// Mount is one volume as asked for; statuses echo it verbatim.
type Mount struct {
	ContainerPath     string            `json:"container_path"`
	HostPath          string            `json:"host_path"`                // empty with Image
	Image             string            `json:"image,omitempty"`          // as asked: id, reference or digest
	UserImage         string            `json:"user_image,omitempty"`     // what the user wrote
	ImageSubPath      string            `json:"image_sub_path,omitempty"` // within Image; empty: its root
	ImageHandler      string            `json:"image_handler,omitempty"`  // runtime handler for which Image was asked; echoed only
	ImageAnnotations  map[string]string `json:"image_annotations,omitempty"`
	ReadOnly          bool              `json:"read_only,omitempty"`
	RecursiveReadOnly bool              `json:"recursive_read_only,omitempty"`
	SELinuxRelabel    bool              `json:"selinux_relabel,omitempty"`
	Propagation       Propagation       `json:"propagation"`
	IDs               *idmap.Map        `json:"ids,omitempty"`     // show owners mapped; nil: as they are
	Options           []string          `json:"options,omitempty"` // of noexec, nodev, nosuid
}

// Device is one host device to be seen in the container.
type Device struct {
	ContainerPath string `json:"container_path"`
	HostPath      string `json:"host_path"`
	Permissions   string `json:"permissions"` // of r, w, m
}

// Resources are the limits; a zero value is "not set" (on update: unchanged).
type Resources struct {
	CPUPeriod   int64             `json:"cpu_period,omitempty"` // microseconds
	CPUQuota    int64             `json:"cpu_quota,omitempty"`  // microseconds a period; -1 unlimited
	CPUShares   int64             `json:"cpu_shares,omitempty"` // cgroup v1 shares, converted on v2
	Memory      int64             `json:"memory,omitempty"`     // bytes
	MemorySwap  int64             `json:"memory_swap,omitempty"`
	OOMScoreAdj int64             `json:"oom_score_adj,omitempty"`
	CpusetCPUs  string            `json:"cpuset_cpus,omitempty"`
	CpusetMems  string            `json:"cpuset_mems,omitempty"`
	PidsLimit   int64             `json:"pids_limit,omitempty"`
	Hugepages   map[string]uint64 `json:"hugepages,omitempty"` // bytes by page size ("2MB")
	Unified     map[string]string `json:"unified,omitempty"`   // cgroup v2 files
}

// GroupsPolicy says which supplementary groups a container gets.
type GroupsPolicy string

// The policies: Merge adds the image's memberships of the user, Strict not.
const (
	GroupsMerge  GroupsPolicy = "merge"
	GroupsStrict GroupsPolicy = "strict"
)

// Security is the security context of a container.
type Security struct {
	CapAdd             []string     `json:"cap_add,omitempty"` // without CAP_, upper case; ALL allowed
	CapDrop            []string     `json:"cap_drop,omitempty"`
	CapAmbient         []string     `json:"cap_ambient,omitempty"`
	Privileged         bool         `json:"privileged,omitempty"`
	RunAsUser          *int64       `json:"run_as_user,omitempty"`
	RunAsUsername      string       `json:"run_as_username,omitempty"`
	RunAsGroup         *int64       `json:"run_as_group,omitempty"`
	SupplementalGroups []int64      `json:"supplemental_groups,omitempty"`
	GroupsPolicy       GroupsPolicy `json:"groups_policy"`
	ReadonlyRootfs     bool         `json:"readonly_rootfs,omitempty"`
	NoNewPrivs         bool         `json:"no_new_privs,omitempty"`
	MaskedPaths        []string     `json:"masked_paths,omitempty"`
	ReadonlyPaths      []string     `json:"readonly_paths,omitempty"`
	Seccomp            *Seccomp     `json:"seccomp,omitempty"`
	AppArmor           string       `json:"apparmor,omitempty"` // profile name, or "unconfined"; empty: the runtime's default
	SELinux            *SELinux     `json:"selinux,omitempty"`  // nil: no label is asked for
	Namespaces         Namespaces   `json:"namespaces"`
}

// Container is what CreateContainer asked for.
type Container struct {
	Metadata    ContainerMetadata `json:"metadata"`
	Image       string            `json:"image"`                 // as asked: id, reference or digest
	UserImage   string            `json:"user_image,omitempty"`  // what the user wrote
	Command     []string          `json:"command,omitempty"`     // replaces ENTRYPOINT and drops CMD
	Args        []string          `json:"args,omitempty"`        // replaces CMD
	WorkingDir  string            `json:"working_dir,omitempty"` //
	Env         []Env             `json:"env,omitempty"`         //
	Mounts      []Mount           `json:"mounts,omitempty"`      //
	Devices     []Device          `json:"devices,omitempty"`     //
	CDIDevices  []string          `json:"cdi_devices,omitempty"` // vendor/class=name
	Labels      map[string]string `json:"labels,omitempty"`      //
	Annotations map[string]string `json:"annotations,omitempty"` //
	LogPath     string            `json:"log_path,omitempty"`    // relative to the pod's log directory
	Stdin       bool              `json:"stdin,omitempty"`       //
	StdinOnce   bool              `json:"stdin_once,omitempty"`  //
	TTY         bool              `json:"tty,omitempty"`         //
	StopSignal  string            `json:"stop_signal,omitempty"` // "SIGTERM"; empty: the image's, then SIGTERM
	Resources   Resources         `json:"resources"`             //
	Security    Security          `json:"security"`              //
	// Extra is what CRI has no field for.
	Extra Extra `json:"extra,omitzero"`
}

// Extra is what the command line can ask for and CRI has no field for. Only
// local containers have it.
type Extra struct {
	Ulimits []Ulimit `json:"ulimits,omitempty"`
	Tmpfs   []Tmpfs  `json:"tmpfs,omitempty"`
	// Volumes are paths that get a fresh directory, as the VOLUMEs of an image do.
	Volumes []string `json:"volumes,omitempty"`
	// NoCopy are the paths of mounts of named volumes that are not to be filled
	// with what the image has there.
	NoCopy []string `json:"no_copy,omitempty"`
	// SharedLabel are the paths of mounts that are relabelled for the containers of
	// all pods, where SELinuxRelabel is for one pod's (docker's z and Z).
	SharedLabel []string `json:"shared_label,omitempty"`
}

// Ulimit is a resource limit of a process (setrlimit(2)).
type Ulimit struct {
	Name string `json:"name"` // nofile, core, ...
	Soft uint64 `json:"soft"` // MaxUint64: none
	Hard uint64 `json:"hard"`
}

// Tmpfs is a file system in memory.
type Tmpfs struct {
	Path    string   `json:"path"`
	Options []string `json:"options,omitempty"` // of tmpfs(5) and mount(8)
}

// User is the identity that the first process gets.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"` // supplementary; includes GID, sorted
	Home   string   `json:"home,omitempty"`
}

// ImageConfig is what an image says about how to run it. All of it is the
// image author's and untrusted: it sets defaults of the process, never
// anything on the host.
type ImageConfig struct {
	ID         string            `json:"id"`   // sha256:... of the image configuration
	Ref        string            `json:"ref"`  // a repository digest (repo@sha256:...), else the id
	Name       string            `json:"name"` // a tag if the image has one, else Ref
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        []string          `json:"env,omitempty"`
	User       string            `json:"user,omitempty"`
	WorkingDir string            `json:"working_dir,omitempty"`
	StopSignal string            `json:"stop_signal,omitempty"`
	Volumes    []string          `json:"volumes,omitempty"` // sorted
	Labels     map[string]string `json:"labels,omitempty"`
	Artifact   string            `json:"artifact,omitempty"` // its type if it holds files to be mounted and nothing to be run
}

// Exit is how a container's first process ended.
type Exit struct {
	Code    int32     `json:"code"` // 128+signal for a signal
	At      time.Time `json:"at"`
	OOM     bool      `json:"oom,omitempty"`
	Reason  string    `json:"reason,omitempty"`  // set where code and OOM do not tell: StartError, Unknown
	Message string    `json:"message,omitempty"` //
}
