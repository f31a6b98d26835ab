package pod

import (
	"context"
	"fmt"

	"github.com/berth-runtime/berth/runtime/stats"
)

// Stats samples one container. For one that does not run only the writable
// layer is filled.
func (t *Table) Stats(ctx context.Context, v View, id string) (*Stats, error) {
	st, err := t.Container(v, id)
	if err != nil {
		return nil, err
	}
	return t.sample(ctx, st)
}

// StatsList samples the containers that match f and have a process. One that
// ends meanwhile is left out.
func (t *Table) StatsList(ctx context.Context, v View, f ContainerFilter) ([]*Stats, error) {
	return t.sampleAll(ctx, t.Containers(v, f)), nil
}

func (t *Table) sampleAll(ctx context.Context, containers []*ContainerStatus) []*Stats {
	var out []*Stats
	for _, st := range containers {
		if st.Pid == 0 {
			continue
		}
		if s, err := t.sample(ctx, st); err == nil {
			out = append(out, s)
		}
	}
	return out
}

func (t *Table) sample(ctx context.Context, st *ContainerStatus) (*Stats, error) {
	out := &Stats{Container: st, Layer: LayerStats{Mountpoint: t.cfg.Images.Mountpoint()}}
	var err error
	if out.Layer.Bytes, out.Layer.Inodes, err = t.cfg.Images.SnapshotUsage(ctx, st.ID); err != nil {
		return nil, fmt.Errorf("cannot tell the usage of container %s: %w", st.ID, err)
	}
	if st.Pid == 0 {
		return out, nil
	}
	p, err := t.findPod(ViewAll, st.PodID)
	if err != nil {
		return nil, err
	}
	_, path := t.cgroup(p.config.CgroupParent, st.ID)
	s, err := t.sampler.Sample(st.ID, path)
	if err != nil {
		return nil, fmt.Errorf("cannot sample container %s: %w", st.ID, err)
	}
	out.At, out.Processes = s.At, s.Pids
	out.CPU, out.Memory, out.IO = cpuStats(s), memoryStats(s), s.Pressure.IO
	return out, nil
}

func cpuStats(s stats.Sample) CPUStats {
	return CPUStats{UsageNanos: s.CPUNanos, NanoCores: s.NanoCores, Pressure: s.Pressure.CPU}
}

func memoryStats(s stats.Sample) MemoryStats {
	return MemoryStats{Usage: s.Usage, WorkingSet: s.WorkingSet, RSS: s.RSS, PageFaults: s.PageFaults,
		MajorPageFaults: s.MajorPageFaults, SwapUsage: s.SwapUsage, SwapAvailable: remaining(s.SwapLimit, s.SwapUsage),
		Available: remaining(s.Limit, &s.WorkingSet), Pressure: s.Pressure.Memory}
}

// remaining is limit minus used, not below zero; nil if either is unknown.
func remaining(limit, used *uint64) *uint64 {
	if limit == nil || used == nil {
		return nil
	}
	left := *limit - min(*limit, *used)
	return &left
}
