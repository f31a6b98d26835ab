package translate

import (
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
)

// PodFilter translates the filter of ListPodSandbox; nil matches all.
func PodFilter(f *criv1.PodSandboxFilter) (pod.PodFilter, error) {
	out := pod.PodFilter{ID: f.GetId(), Labels: f.GetLabelSelector()}
	if f.GetState() == nil {
		return out, nil
	}
	if _, ok := criv1.PodSandboxState_name[int32(f.State.State)]; !ok {
		return out, invalid("filter: unknown pod state %d", f.State.State)
	}
	ready := f.State.State == criv1.PodSandboxState_SANDBOX_READY
	out.Ready = &ready
	return out, nil
}

// ContainerFilter translates the filter of ListContainers; nil matches all.
func ContainerFilter(f *criv1.ContainerFilter) (pod.ContainerFilter, error) {
	out := pod.ContainerFilter{ID: f.GetId(), PodID: f.GetPodSandboxId(), Labels: f.GetLabelSelector()}
	if f.GetState() == nil {
		return out, nil
	}
	state, ok := fromState[f.State.State]
	if !ok {
		return out, invalid("filter: unknown container state %d", f.State.State)
	}
	out.State = state
	return out, nil
}

// PodStatsFilter translates the filter of ListPodSandboxStats; nil matches all.
func PodStatsFilter(f *criv1.PodSandboxStatsFilter) pod.PodFilter {
	return pod.PodFilter{ID: f.GetId(), Labels: f.GetLabelSelector()}
}

// StatsFilter translates the filter of ListContainerStats; nil matches all.
func StatsFilter(f *criv1.ContainerStatsFilter) pod.ContainerFilter {
	return pod.ContainerFilter{ID: f.GetId(), PodID: f.GetPodSandboxId(), Labels: f.GetLabelSelector()}
}
