package pod

import (
	"sort"
	"strings"
	"time"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// snapshot is what lists and statuses are served from. It is replaced as a
// whole and never changed.
type snapshot struct {
	pods       []*PodStatus       // newest first
	containers []*ContainerStatus // newest first
	podByID    map[string]*PodStatus
	byID       map[string]*ContainerStatus
}

// publish makes the present records visible. What is not finished is left
// out: a listed half-made pod makes the kubelet count up its attempts.
func (t *Table) publish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &snapshot{podByID: make(map[string]*PodStatus, len(t.pods)), byID: make(map[string]*ContainerStatus, len(t.containers))}
	for _, p := range t.pods {
		if p.finished() {
			st := t.podStatus(p)
			s.pods = append(s.pods, st)
			s.podByID[p.id] = st
		}
	}
	for _, c := range t.containers {
		if c.finished() {
			st := t.containerStatus(c)
			s.containers = append(s.containers, st)
			s.byID[c.id] = st
		}
	}
	sort.Slice(s.pods, func(i, j int) bool { return s.pods[i].CreatedAt.After(s.pods[j].CreatedAt) })
	sort.Slice(s.containers, func(i, j int) bool { return s.containers[i].CreatedAt.After(s.containers[j].CreatedAt) })
	t.view.Store(s)
}

func (t *Table) podStatus(p *Pod) *PodStatus {
	rec := p.record()
	st := &PodStatus{ID: p.id, Origin: rec.Origin, Config: p.config, Ready: rec.Phase == phaseReady,
		CreatedAt: rec.CreatedAt, Addresses: rec.Lease.Addresses, Network: rec.Lease.On(),
		Overhead: rec.Config.Overhead, Resources: rec.Config.Resources}
	if hasNetns(p.config) {
		st.Netns = t.netns(p.id)
	}
	if a := rec.Lease.Attachments; len(a) > 0 {
		st.CNIResult = a[0].Result
	}
	return st
}

func (t *Table) containerStatus(c *container) *ContainerStatus {
	rec := c.record()
	st := &ContainerStatus{ID: c.id, PodID: rec.PodID, Origin: c.pod.origin(), Config: &rec.Config, Image: &rec.Image, VolumeImages: rec.VolumeImages,
		CreatedAt: rec.CreatedAt, StartedAt: rec.StartedAt, LogPath: rec.LogPath, User: rec.User,
		StopSignal: rec.StopSignal, Resources: rec.Resources, From: rec.From, StopAsked: rec.StopAsked, EarlierBoot: rec.BootID != t.cfg.BootID}
	st.ProcessLabel, st.MountLabel = t.toldLabels(c)
	switch rec.Phase {
	case phaseCreated, phaseStarting:
		st.State, st.Pid, st.StartedAt = StateCreated, rec.Process.Pid, time.Time{}
	case phaseRunning:
		st.State, st.Pid, st.Paused = StateRunning, rec.Process.Pid, rec.Paused
	case phaseExited:
		st.State = StateExited
	default:
		st.State = StateUnknown
	}
	if e := rec.Exit; e != nil && st.State == StateExited {
		st.FinishedAt, st.ExitCode, st.Reason, st.Message = e.At, e.Code, e.Reason, e.Message
		switch {
		case e.OOM:
			st.Reason = "OOMKilled"
		case st.Reason != "":
		case e.Code == 0:
			st.Reason = "Completed"
		default:
			st.Reason = "Error"
		}
	}
	return st
}

// Pod returns the status of one pod, by id or unique prefix.
func (t *Table) Pod(v View, id string) (*PodStatus, error) {
	return find("pod", id, t.view.Load().podByID, func(p *PodStatus) bool { return v.sees(p.Origin) })
}

// Container returns the status of one container, by id or unique prefix. When
// it is said to run but its process has gone, the exit is looked for first.
func (t *Table) Container(v View, id string) (*ContainerStatus, error) {
	st, err := find("container", id, t.view.Load().byID, func(c *ContainerStatus) bool { return v.sees(c.Origin) })
	if err == nil && st.Pid != 0 {
		t.nudge(st.ID)
	}
	return st, err
}

// Pods lists the pods that match f, newest first.
func (t *Table) Pods(v View, f PodFilter) []*PodStatus {
	var out []*PodStatus
	for _, p := range t.view.Load().pods {
		if v.sees(p.Origin) && strings.HasPrefix(p.ID, f.ID) && (f.Ready == nil || *f.Ready == p.Ready) && contains(p.Config.Labels, f.Labels) {
			out = append(out, p)
		}
	}
	return out
}

// Containers lists the containers that match f, newest first.
func (t *Table) Containers(v View, f ContainerFilter) []*ContainerStatus {
	var out []*ContainerStatus
	for _, c := range t.view.Load().containers {
		if v.sees(c.Origin) && strings.HasPrefix(c.ID, f.ID) && strings.HasPrefix(c.PodID, f.PodID) &&
			(f.State == "" || f.State == c.State) && contains(c.Config.Labels, f.Labels) {
			out = append(out, c)
		}
	}
	return out
}

// contains tells whether labels has every pair of want.
func contains(labels, want map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// notReady is the refusal to work in a pod that has been stopped.
func notReady(p *Pod) error {
	return errkind.New(errkind.FailedPrecondition, "pod %s is %s, not ready", p.id, p.phase())
}
