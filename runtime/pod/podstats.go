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
	return t.samplePod(ctx, p)
}

// PodStatsList samples the pods that match f and are ready. One that ends
// meanwhile is left out.
func (t *Table) PodStatsList(ctx context.Context, v View, f PodFilter) []*PodStats {
	var out []*PodStats
	for _, p := range t.Pods(v, f) {
		if !p.Ready {
			continue
		}
		if s, err := t.samplePod(ctx, p); err == nil {
			out = append(out, s)
		}
	}
	return out
}

func (t *Table) samplePod(ctx context.Context, p *PodStatus) (*PodStats, error) {
	out := &PodStats{Pod: p, At: time.Now()}
	var err error
	if out.Containers, err = t.StatsList(ctx, ViewAll, ContainerFilter{PodID: p.ID}); err != nil {
		return nil, err
	}
	if p.Config.CgroupParent == "" {
		// Pods that name no cgroup share one: theirs is what their containers use.
		out.sum()
	} else if err := t.samplePodGroup(out); err != nil {
		return nil, fmt.Errorf("cannot sample pod %s: %w", p.ID, err)
	}
	out.Interfaces, err = interfaces(p)
	return out, err
}

// interfaces reads those of the pod's network namespace, the default one first.
func interfaces(p *PodStatus) (all []stats.Interface, err error) {
	if p.Netns == "" {
		return nil, nil // on the host network they are the host's
	}
	err = netns.Do(p.Netns, func() (err error) {
		all, err = stats.ReadInterfaces()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the interfaces of pod %s: %w", p.ID, err)
	}
	defaultFirst(all)
	return all, nil
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
