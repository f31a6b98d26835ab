package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/stats"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// PodStats is one sample of a pod.
type PodStats struct {
	Pod        *PodStatus
	At         time.Time
	CPU        CPUStats
	Memory     MemoryStats
	IO         *stats.Stall      // pressure on disks; nil if the kernel does not tell
	Processes  uint64            // with their threads
	Interfaces []stats.Interface // the default one first; none on the host network
	Containers []*Stats          // those that have a process
}

// PodStats samples a pod that is ready.
func (t *Table) PodStats(ctx context.Context, v View, id string) (*PodStats, error) {
	p, err := t.Pod(v, id)
	if err != nil {
		return nil, err
	}
	if !p.Ready {
		return nil, errkind.New(errkind.Unavailable, "cannot sample pod %s: it is not ready", p.ID)
	}
	on, err := t.interfaces(p)
	if err != nil {
		return nil, err
	}
	return t.samplePod(ctx, p, t.Containers(ViewAll, ContainerFilter{PodID: p.ID}), on)
}

// PodStatsList samples the pods that match f and are ready. One that ends
// meanwhile is left out.
func (t *Table) PodStatsList(ctx context.Context, v View, f PodFilter) []*PodStats {
	ready := t.readyPods(v, f)
	containers, carried := t.containersByPod(), t.allInterfaces(ready)
	var out []*PodStats
	for _, p := range ready {
		on, ok := carried[p.ID]
		if !ok {
			continue // it ended
		}
		if s, err := t.samplePod(ctx, p, containers[p.ID], on); err == nil {
			out = append(out, s)
		}
	}
	return out
}

// readyPods are those that match f and are ready.
func (t *Table) readyPods(v View, f PodFilter) []*PodStatus {
	ready := true
	f.Ready = &ready
	return t.Pods(v, f)
}

// containersByPod are all containers, by the id of their pod.
func (t *Table) containersByPod() map[string][]*ContainerStatus {
	out := map[string][]*ContainerStatus{}
	for _, c := range t.Containers(ViewAll, ContainerFilter{}) {
		out[c.PodID] = append(out[c.PodID], c)
	}
	return out
}

func (t *Table) samplePod(ctx context.Context, p *PodStatus, containers []*ContainerStatus, on []stats.Interface) (*PodStats, error) {
	out := &PodStats{Pod: p, At: time.Now(), Interfaces: on, Containers: t.sampleAll(ctx, containers)}
	if p.Config.CgroupParent == "" {
		// Pods that name no cgroup share one: theirs is what their containers use.
		out.sum()
	} else if err := t.samplePodGroup(out); err != nil {
		return nil, fmt.Errorf("cannot sample pod %s: %w", p.ID, err)
	}
	return out, nil
}

// interfaces gives those of the pod, the default one first.
func (t *Table) interfaces(p *PodStatus) ([]stats.Interface, error) {
	all, ok := t.allInterfaces([]*PodStatus{p})[p.ID]
	if !ok {
		return nil, errkind.New(errkind.Unavailable, "cannot read the interfaces of pod %s: its network namespace cannot be entered; is it ending?", p.ID)
	}
	return all, nil
}

// allInterfaces gives those of the pods, by id, without the pods whose network
// namespace cannot be entered any more. Pods on the host network have none: the
// host's are not theirs.
func (t *Table) allInterfaces(pods []*PodStatus) map[string][]stats.Interface {
	paths := make(map[string]string, len(pods))
	var own, host []string
	for _, p := range pods {
		if p.Netns == "" {
			host = append(host, p.ID)
			continue
		}
		own, paths[p.ID] = append(own, p.ID), p.Netns
	}
	out := t.sampler.Interfaces(own, func(ids []string) map[string][]stats.Interface { return readInterfaces(ids, paths) })
	for _, id := range host {
		out[id] = nil
	}
	return out
}

// readInterfaces reads those in the network namespaces at paths, by id.
func readInterfaces(ids []string, paths map[string]string) map[string][]stats.Interface {
	in := make([]string, len(ids))
	for n, id := range ids {
		in[n] = paths[id]
	}
	out := make(map[string][]stats.Interface, len(ids))
	netns.Each(in, func(n int, err error) {
		if err != nil {
			return
		}
		if all, err := stats.ReadInterfaces(); err == nil {
			defaultFirst(all)
			out[ids[n]] = all
		}
	})
	return out
}

// samplePodGroup reads the pod's cgroup, which its client has made.
func (t *Table) samplePodGroup(out *PodStats) error {
	_, group := t.cgroup(out.Pod.Config.CgroupParent, out.Pod.ID)
	s, err := t.sampler.Sample(out.Pod.ID, path.Dir(group))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it comes with the first container
	}
	if err != nil {
		return err
	}
	out.At, out.Processes = s.At, s.Pids
	out.CPU, out.Memory, out.IO = cpuStats(s), memoryStats(s), s.Pressure.IO
	return nil
}

// sum adds up the containers. A limit of the whole there is none.
func (s *PodStats) sum() {
	var rate uint64
	rated := len(s.Containers) > 0
	for _, c := range s.Containers {
		s.CPU.UsageNanos += c.CPU.UsageNanos
		s.Memory.Usage += c.Memory.Usage
		s.Memory.WorkingSet += c.Memory.WorkingSet
		s.Memory.RSS += c.Memory.RSS
		s.Memory.PageFaults += c.Memory.PageFaults
		s.Memory.MajorPageFaults += c.Memory.MajorPageFaults
		s.Processes += c.Processes
		if rated = rated && c.CPU.NanoCores != nil; rated {
			rate += *c.CPU.NanoCores
		}
	}
	if rated {
		s.CPU.NanoCores = &rate
	}
}

// defaultFirst puts the interface that has the pod's addresses before those of
// further networks: by convention it is eth0.
func defaultFirst(all []stats.Interface) {
	for i := range all {
		if all[i].Name == "eth0" {
			first := all[i]
			copy(all[1:i+1], all[:i])
			all[0] = first
			return
		}
	}
}
