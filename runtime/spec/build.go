package spec

import (
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Input is everything that Build looks at.
type Input struct {
	ID, PodID string
	Pod       *Pod
	Container *Container
	Image     *ImageConfig
	User      User
	Hostname  string
	// Rootfs is the absolute path of the mounted root file system.
	Rootfs string
	// Mounts are the resolved volumes with the /etc files and /dev/shm. One
	// that has the target of a default mount replaces it.
	Mounts []specs.Mount
	// NamespacePaths are the namespaces to join (network, ipc, uts, pid). An
	// absent kind is what Container.Security.Namespaces says of it.
	NamespacePaths map[specs.LinuxNamespaceType]string
	// CgroupPath is the OCI linux.cgroupsPath.
	CgroupPath string
	// HostCaps is the bounding set of the daemon ("CAP_..."): no container gets more.
	HostCaps []string
	// HostDevices are the nodes that a privileged container gets.
	HostDevices []specs.LinuxDevice
	// Devices are the nodes asked for, already resolved.
	Devices []specs.LinuxDevice
	// Seccomp is the resolved filter. It is ignored for a privileged container.
	Seccomp *specs.LinuxSeccomp
	// CgroupV2 says that the host has the unified hierarchy only.
	CgroupV2 bool
	// NoSwapLimit says that the kernel cannot limit swap (cgroup.SwapLimit).
	NoSwapLimit bool
}

// Build makes the OCI specification of a container.
func Build(in Input) (*specs.Spec, error) { panic("unfinished") }

// LinuxResources translates limits, at create and at update.
func LinuxResources(r Resources, cgroupV2, noSwapLimit bool) *specs.LinuxResources {
	panic("unfinished")
}

// Capabilities tells the bounding set that a container gets.
func Capabilities(sec *Security, hostCaps []string) ([]string, error) { panic("unfinished") }

// DefaultCaps is the set that a container has without asking.
func DefaultCaps() []string { panic("unfinished") }

// AllCaps is every capability that this build knows.
func AllCaps() []string { panic("unfinished") }
