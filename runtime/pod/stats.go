package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
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
	var out []*Stats
	for _, st := range t.Containers(v, f) {
		if st.State != StateRunning && st.State != StateCreated {
			continue
		}
		if s, err := t.sample(ctx, st); err == nil {
			out = append(out, s)
		}
	}
	return out, nil
}

func (t *Table) sample(ctx context.Context, st *ContainerStatus) (*Stats, error) {
	out := &Stats{Container: st, Layer: LayerStats{Mountpoint: t.cfg.Images.Mountpoint()}}
	var err error
	if out.Layer.Bytes, out.Layer.Inodes, err = t.cfg.Images.SnapshotUsage(ctx, st.ID); err != nil {
		return nil, fmt.Errorf("cannot tell the usage of container %s: %w", st.ID, err)
	}
	if st.State != StateRunning && st.State != StateCreated {
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
	out.At = s.At
	out.CPU = CPUStats{UsageNanos: s.CPUNanos, NanoCores: s.NanoCores}
	out.Memory = MemoryStats{Usage: s.Usage, WorkingSet: s.WorkingSet, RSS: s.RSS, PageFaults: s.PageFaults,
		MajorPageFaults: s.MajorPageFaults, SwapUsage: s.SwapUsage, SwapAvailable: remaining(s.SwapLimit, s.SwapUsage),
		Available: remaining(s.Limit, &s.WorkingSet)}
	return out, nil
}

// remaining is limit minus used, not below zero; nil if either is unknown.
func remaining(limit, used *uint64) *uint64 {
	if limit == nil || used == nil {
		return nil
	}
	left := *limit - min(*limit, *used)
	return &left
}

// Update changes the limits of a created or running container; zero fields
// stay as they are. The kernel's answer decides before anything is recorded.
func (t *Table) Update(ctx context.Context, v View, id string, r spec.Resources) error {
	c, err := t.findContainer(v, id)
	if err != nil {
		return err
	}
	return t.detached(ctx, func(ctx context.Context) error { return t.update(ctx, c, r) })
}

func (t *Table) update(ctx context.Context, c *container, r spec.Resources) error {
	c.op.Lock()
	defer c.op.Unlock()
	rec := c.record()
	if rec.Phase != phaseRunning && rec.Phase != phaseCreated {
		return errkind.New(errkind.FailedPrecondition, "cannot update container %s: it is %s", c.id, rec.Phase)
	}
	merged := mergeResources(rec.Resources, r)
	b, err := json.Marshal(spec.LinuxResources(merged, cgroup.Unified(), !cgroup.SwapLimit()))
	if err != nil {
		return err
	}
	file := filepath.Join(t.bundle(c.id), "resources.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(file) }()
	shim, err := t.shims.client(ctx, c.pod.id)
	if err != nil {
		return err
	}
	if err := shim.Update(ctx, c.id, file); err != nil {
		return fmt.Errorf("cannot update container %s: %w", c.id, err)
	}
	return t.setContainer(c, func(rec *containerRecord) { rec.Resources = merged })
}

// mergeResources lays the set fields of r over old.
func mergeResources(old, r spec.Resources) spec.Resources {
	for _, f := range []struct{ dst, src *int64 }{
		{&old.CPUPeriod, &r.CPUPeriod}, {&old.CPUQuota, &r.CPUQuota}, {&old.CPUShares, &r.CPUShares},
		{&old.Memory, &r.Memory}, {&old.MemorySwap, &r.MemorySwap}, {&old.PidsLimit, &r.PidsLimit},
	} {
		if *f.src != 0 {
			*f.dst = *f.src
		}
	}
	if r.CpusetCPUs != "" {
		old.CpusetCPUs = r.CpusetCPUs
	}
	if r.CpusetMems != "" {
		old.CpusetMems = r.CpusetMems
	}
	merged := make(map[string]string, len(old.Unified)+len(r.Unified))
	for _, m := range []map[string]string{old.Unified, r.Unified} {
		for k, v := range m {
			merged[k] = v
		}
	}
	if len(merged) > 0 {
		old.Unified = merged
	}
	if len(r.Hugepages) > 0 {
		old.Hugepages = r.Hugepages
	}
	return old
}
