package translate

import (
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// PodStatus gives the message for PodSandboxStatus.
func PodStatus(p *pod.PodStatus) *criv1.PodSandboxStatus {
	out := &criv1.PodSandboxStatus{
		Id:             p.ID,
		Metadata:       podMetadata(p.Config.Metadata),
		State:          podState(p.Ready),
		CreatedAt:      p.CreatedAt.UnixNano(),
		Network:        &criv1.PodSandboxNetworkStatus{},
		Linux:          &criv1.LinuxPodSandboxStatus{Namespaces: &criv1.Namespace{Options: namespaceOption(p.Config.Namespaces)}},
		Labels:         p.Config.Labels,
		Annotations:    p.Config.Annotations,
		RuntimeHandler: p.Config.RuntimeHandler,
	}
	for i, a := range p.Addresses {
		if i == 0 {
			out.Network.Ip = a.String()
			continue
		}
		out.Network.AdditionalIps = append(out.Network.AdditionalIps, &criv1.PodIP{Ip: a.String()})
	}
	return out
}

// PodItem gives one item of ListPodSandbox.
func PodItem(p *pod.PodStatus) *criv1.PodSandbox {
	return &criv1.PodSandbox{
		Id:             p.ID,
		Metadata:       podMetadata(p.Config.Metadata),
		State:          podState(p.Ready),
		CreatedAt:      p.CreatedAt.UnixNano(),
		Labels:         p.Config.Labels,
		Annotations:    p.Config.Annotations,
		RuntimeHandler: p.Config.RuntimeHandler,
	}
}

func podMetadata(m spec.PodMetadata) *criv1.PodSandboxMetadata {
	return &criv1.PodSandboxMetadata{Name: m.Name, Uid: m.UID, Namespace: m.Namespace, Attempt: m.Attempt}
}

func podState(ready bool) criv1.PodSandboxState {
	if ready {
		return criv1.PodSandboxState_SANDBOX_READY
	}
	return criv1.PodSandboxState_SANDBOX_NOTREADY
}

var fromState = map[criv1.ContainerState]pod.State{
	criv1.ContainerState_CONTAINER_CREATED: pod.StateCreated,
	criv1.ContainerState_CONTAINER_RUNNING: pod.StateRunning,
	criv1.ContainerState_CONTAINER_EXITED:  pod.StateExited,
	criv1.ContainerState_CONTAINER_UNKNOWN: pod.StateUnknown,
}

func containerState(s pod.State) criv1.ContainerState {
	for state, name := range fromState {
		if s == name {
			return state
		}
	}
	return criv1.ContainerState_CONTAINER_UNKNOWN
}

// ContainerStatus gives the message for ContainerStatus.
func ContainerStatus(c *pod.ContainerStatus) *criv1.ContainerStatus {
	image := imageOf(c)
	return &criv1.ContainerStatus{
		Id:          c.ID,
		Metadata:    containerMetadata(c),
		State:       containerState(c.State),
		CreatedAt:   nanos(c.CreatedAt),
		StartedAt:   nanos(c.StartedAt),
		FinishedAt:  nanos(c.FinishedAt),
		ExitCode:    c.ExitCode,
		Image:       &criv1.ImageSpec{Image: image.Name, UserSpecifiedImage: c.Config.UserImage},
		ImageRef:    image.Ref,
		ImageId:     image.ID,
		Reason:      c.Reason,
		Message:     c.Message,
		Labels:      c.Config.Labels,
		Annotations: c.Config.Annotations,
		Mounts:      criMounts(c.Config.Mounts, c.VolumeImages),
		LogPath:     c.LogPath,
		Resources:   &criv1.ContainerResources{Linux: criResources(c.Resources)},
		User:        containerUser(c.User),
		StopSignal:  criSignal(c.StopSignal),
	}
}

// ContainerItem gives one item of ListContainers.
func ContainerItem(c *pod.ContainerStatus) *criv1.Container {
	image := imageOf(c)
	return &criv1.Container{
		Id:           c.ID,
		PodSandboxId: c.PodID,
		Metadata:     containerMetadata(c),
		Image:        &criv1.ImageSpec{Image: image.Name, UserSpecifiedImage: c.Config.UserImage},
		ImageRef:     image.Ref,
		ImageId:      image.ID,
		State:        containerState(c.State),
		CreatedAt:    nanos(c.CreatedAt),
		Labels:       c.Config.Labels,
		Annotations:  c.Config.Annotations,
	}
}

// imageOf is never nil: the kubelet's client refuses a status without image
// and image_ref, and with it the status of the whole pod.
func imageOf(c *pod.ContainerStatus) *spec.ImageConfig {
	if c.Image != nil {
		return c.Image
	}
	return &spec.ImageConfig{Name: c.Config.Image, Ref: c.Config.Image}
}

func containerMetadata(c *pod.ContainerStatus) *criv1.ContainerMetadata {
	return &criv1.ContainerMetadata{Name: c.Config.Metadata.Name, Attempt: c.Config.Metadata.Attempt}
}

func containerUser(u spec.User) *criv1.ContainerUser {
	out := &criv1.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.Groups {
		out.SupplementalGroups = append(out.SupplementalGroups, int64(g))
	}
	return &criv1.ContainerUser{Linux: out}
}

// nanos gives CRI's 0 for "not yet", which is not the zero time's own number.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

var fromEvent = map[pod.EventKind]criv1.ContainerEventType{
	pod.EventCreated: criv1.ContainerEventType_CONTAINER_CREATED_EVENT,
	pod.EventStarted: criv1.ContainerEventType_CONTAINER_STARTED_EVENT,
	pod.EventStopped: criv1.ContainerEventType_CONTAINER_STOPPED_EVENT,
	pod.EventDeleted: criv1.ContainerEventType_CONTAINER_DELETED_EVENT,
}

// Event gives one message of GetContainerEvents.
func Event(e pod.Event) *criv1.ContainerEventResponse {
	out := &criv1.ContainerEventResponse{
		ContainerId:        e.ContainerID,
		ContainerEventType: fromEvent[e.Kind],
		CreatedAt:          nanos(e.At),
	}
	if e.Pod != nil {
		out.PodSandboxStatus = PodStatus(e.Pod)
	}
	for _, c := range e.Containers {
		out.ContainersStatuses = append(out.ContainersStatuses, ContainerStatus(c))
	}
	return out
}
