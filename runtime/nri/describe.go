package nri

import (
	"time"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// sandbox is a pod in NRI's words.
func sandbox(p *pod.PodStatus) *api.PodSandbox {
	c := p.Config
	out := &api.PodSandbox{Id: p.ID, Name: c.Metadata.Name, Uid: c.Metadata.UID, Namespace: c.Metadata.Namespace,
		Labels: c.Labels, Annotations: c.Annotations, RuntimeHandler: c.RuntimeHandler,
		Linux: &api.LinuxPodSandbox{CgroupParent: c.CgroupParent, PodOverhead: limits(p.Overhead), PodResources: limits(p.Resources)}}
	for _, a := range p.Addresses {
		out.Ips = append(out.Ips, a.String())
	}
	if p.Netns != "" {
		out.Linux.Namespaces = []*api.LinuxNamespace{{Type: string(specs.NetworkNamespace), Path: p.Netns}}
	}
	return out
}

// container is a container in NRI's words, with what is known of its
// specification: nothing of one whose files are gone.
func (s *Service) container(node Node, c *pod.ContainerStatus) *api.Container {
	oci, err := node.Spec(c.ID)
	if err != nil {
		oci = &specs.Spec{}
	}
	return described(c, oci)
}

func described(c *pod.ContainerStatus, oci *specs.Spec) *api.Container {
	out := &api.Container{Id: c.ID, PodSandboxId: c.PodID, Name: c.Config.Metadata.Name, State: state(c.State), Pid: uint32(max(c.Pid, 0)),
		Labels: c.Config.Labels, Annotations: c.Config.Annotations,
		CreatedAt: nanos(c.CreatedAt), StartedAt: nanos(c.StartedAt), FinishedAt: nanos(c.FinishedAt),
		ExitCode: c.ExitCode, StatusReason: c.Reason, StatusMessage: c.Message,
		Image:  &api.Image{Name: c.Image.Name, Digest: c.Image.Ref, ConfigDigest: c.Image.ID},
		Mounts: api.FromOCIMounts(oci.Mounts), Hooks: api.FromOCIHooks(oci.Hooks), Linux: &api.LinuxContainer{}}
	for _, name := range c.Config.CDIDevices {
		out.CDIDevices = append(out.CDIDevices, &api.CDIDevice{Name: name})
	}
	if p := oci.Process; p != nil {
		out.Args, out.Env = p.Args, p.Env
		out.User = &api.User{Uid: p.User.UID, Gid: p.User.GID, AdditionalGids: p.User.AdditionalGids}
		out.Linux.OomScoreAdj = api.Int(p.OOMScoreAdj)
		out.Linux.IoPriority, out.Linux.Scheduler = api.FromOCILinuxIOPriority(p.IOPriority), api.FromOCILinuxScheduler(p.Scheduler)
		for _, l := range p.Rlimits {
			out.Rlimits = append(out.Rlimits, &api.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
		}
	}
	if l := oci.Linux; l != nil {
		out.Linux.Namespaces, out.Linux.Devices = api.FromOCILinuxNamespaces(l.Namespaces), api.FromOCILinuxDevices(l.Devices)
		out.Linux.Resources = api.FromOCILinuxResources(l.Resources, nil)
		out.Linux.CgroupsPath, out.Linux.Sysctl = l.CgroupsPath, l.Sysctl
		if l.Seccomp != nil {
			out.Linux.SeccompPolicy = api.FromOCILinuxSeccomp(l.Seccomp)
		}
	}
	return out
}

func state(s pod.State) api.ContainerState {
	switch s {
	case pod.StateCreated:
		return api.ContainerState_CONTAINER_CREATED
	case pod.StateRunning:
		return api.ContainerState_CONTAINER_RUNNING
	case pod.StateExited:
		return api.ContainerState_CONTAINER_STOPPED
	case pod.StateUnknown:
	}
	return api.ContainerState_CONTAINER_UNKNOWN
}

// nanos is 0 for what has not been.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// limits are the limits as they were asked for, whatever the kernel can. A
// limit of swap that follows from that of memory is left out: it has to follow
// the plugins' one too.
func limits(r spec.Resources) *api.LinuxResources {
	return api.FromOCILinuxResources(spec.LinuxResources(r, true, r.MemorySwap == 0), nil)
}
