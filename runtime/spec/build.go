package spec

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Input is everything that Build looks at.
type Input struct {
	ID, PodID string
	Pod       *Pod
	Container *Container
	Image     *ImageConfig
	User      User
	// Handler is that of the pod.
	Handler  Handler
	Hostname string
	// Rootfs is the absolute path of the mounted root file system.
	Rootfs string
	// Mounts are the resolved volumes with the /etc files and /dev/shm. One
	// replaces what comes before it, the default mounts among that, at the
	// same target: hence what the client asked for comes last.
	Mounts []specs.Mount
	// NamespacePaths are the namespaces to join (network, ipc, uts, pid). The
	// container's modes say which of them are needed; a missing one is an
	// error, but for uts, whose absence means the host's.
	NamespacePaths map[specs.LinuxNamespaceType]string
	// CgroupPath is the OCI linux.cgroupsPath.
	CgroupPath string
	// HostCaps is the bounding set of the daemon ("CAP_..."): no container gets more.
	HostCaps []string
	// HostDevices are the nodes that a privileged container gets.
	HostDevices []specs.LinuxDevice
	// Devices are the nodes asked for, already resolved.
	Devices []HostDevice
	// Seccomp is the resolved filter. It is ignored for a privileged container.
	Seccomp *specs.LinuxSeccomp
	// AppArmor is the resolved profile, empty for none. It is ignored for a
	// privileged container.
	AppArmor string
	// ProcessLabel and MountLabel are the labels of SELinux, empty for none.
	ProcessLabel, MountLabel string
	// CgroupV2 says that the host has the unified hierarchy only.
	CgroupV2 bool
	// NoSwapLimit says that the kernel cannot limit swap (cgroup.SwapLimit).
	NoSwapLimit bool
}

// Build makes the OCI specification of a container. The result shares nothing
// with in that a caller could change.
func Build(in Input) (*specs.Spec, error) {
	sec := &in.Container.Security
	if sec.Privileged && !in.Pod.Privileged {
		return nil, errkind.New(errkind.InvalidArgument, "it asks to be privileged and its pod is not")
	}
	if err := checkUserNamespace(in); err != nil {
		return nil, err
	}
	p, err := process(in)
	if err != nil {
		return nil, err
	}
	in.Mounts = slices.Concat(deviceMounts(in), in.Mounts)
	mounts, err := allMounts(in)
	if err != nil {
		return nil, err
	}
	linux, err := linux(in)
	if err != nil {
		return nil, err
	}
	linux.RootfsPropagation = rootfsPropagation(mounts)
	return &specs.Spec{
		Version:     specs.Version,
		Process:     p,
		Root:        &specs.Root{Path: in.Rootfs, Readonly: sec.ReadonlyRootfs},
		Mounts:      mounts,
		Linux:       linux,
		Annotations: annotations(in),
	}, nil
}

func linux(in Input) (*specs.Linux, error) {
	sec := &in.Container.Security
	namespaces, err := namespaces(in)
	if err != nil {
		return nil, err
	}
	resources := LinuxResources(in.Container.Resources, in.CgroupV2, in.NoSwapLimit)
	resources.Devices = deviceRules(in)
	out := &specs.Linux{
		Namespaces:  namespaces,
		CgroupsPath: in.CgroupPath,
		Resources:   resources,
		Devices:     deviceNodes(in),
		MountLabel:  in.MountLabel,
	}
	if sec.Privileged {
		return out, nil
	}
	out.MaskedPaths = slices.Clone(sec.MaskedPaths)
	out.ReadonlyPaths = slices.Clone(sec.ReadonlyPaths)
	out.Seccomp = in.Seccomp
	if in.Seccomp == nil && sec.Seccomp != nil && sec.Seccomp.Mode != SeccompUnconfined {
		return nil, fmt.Errorf("its seccomp filter %q was not resolved", sec.Seccomp.Mode)
	}
	return out, nil
}

// namespaces lists those that are not the host's.
func namespaces(in Input) ([]specs.LinuxNamespace, error) {
	sec := &in.Container.Security
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if sec.Namespaces.HasUserNamespace() {
		path := in.NamespacePaths[specs.UserNamespace]
		if path == "" {
			return nil, errkind.New(errkind.FailedPrecondition, "there is no user namespace to join")
		}
		out = append(out, specs.LinuxNamespace{Type: specs.UserNamespace, Path: path})
	}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		mode NamespaceMode
	}{
		{specs.NetworkNamespace, sec.Namespaces.Network},
		{specs.IPCNamespace, sec.Namespaces.IPC},
		{specs.PIDNamespace, sec.Namespaces.PID},
	} {
		pid := n.kind == specs.PIDNamespace
		path := in.NamespacePaths[n.kind]
		switch {
		case n.mode == ModeNode:
		case n.mode == ModeContainer && pid:
			out = append(out, specs.LinuxNamespace{Type: n.kind})
		case n.mode != ModePod && (n.mode != ModeTarget || !pid):
			return nil, errkind.New(errkind.InvalidArgument, "%q is no mode of its %s namespace", n.mode, n.kind)
		case path == "":
			// Silence would be the host's namespace.
			return nil, errkind.New(errkind.FailedPrecondition, "there is no %s namespace to join", n.kind)
		default:
			out = append(out, specs.LinuxNamespace{Type: n.kind, Path: path})
		}
	}
	if path := in.NamespacePaths[specs.UTSNamespace]; path != "" {
		out = append(out, specs.LinuxNamespace{Type: specs.UTSNamespace, Path: path})
	}
	// On v1 a container sees its own groups through bind mounts instead.
	if in.CgroupV2 && !sec.Privileged {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out, nil
}
