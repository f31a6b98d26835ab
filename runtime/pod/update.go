package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// UpdatePod records the sums of what the pod's containers and its overhead
// need, for whoever asks. They limit nothing: the pod's cgroup is that of the
// client, which has set it already.
func (t *Table) UpdatePod(ctx context.Context, v View, id string, overhead, resources spec.Resources) error {
	p, err := t.findPod(v, id)
	if err != nil {
		return err
	}
	return t.detached(ctx, func(ctx context.Context) error {
		p.verbs.RLock()
		defer p.verbs.RUnlock()
		if p.phase() != phaseReady {
			return fmt.Errorf("cannot update the resources of a pod: %w", notReady(p))
		}
		var quiet hold
		quiet.take(t.cfg.Hooks)
		defer quiet.drop()
		asked := t.podStatus(p)
		asked.Overhead, asked.Resources = overhead, resources
		if err := t.askPod(ctx, TurnUpdate, asked); err != nil {
			return fmt.Errorf("cannot update the resources of pod %s: %w", p.id, err)
		}
		if err := t.setPod(p, func(r *podRecord) { r.Config.Overhead, r.Config.Resources = overhead, resources }); err != nil {
			return err
		}
		logged(ctx, "A hook failed after an update", t.askPod(ctx, TurnUpdated, t.podStatus(p)))
		return nil
	})
}

// checkResources refuses limits that this kernel could only ignore.
func checkResources(r spec.Resources) error {
	if len(r.Unified) > 0 && !cgroup.Unified() {
		return errkind.New(errkind.InvalidArgument, "the limits %s are files of cgroup v2, and this node has cgroup v1: leave them out, or use the fields of their own",
			strings.Join(slices.Sorted(maps.Keys(r.Unified)), ", "))
	}
	for _, size := range slices.Sorted(maps.Keys(r.Hugepages)) {
		if r.Hugepages[size] != 0 && !cgroup.Controls("hugetlb") {
			return errkind.New(errkind.FailedPrecondition, "a limit of %s pages needs the cgroup controller hugetlb, which this node does not have", size)
		}
	}
	return nil
}

// Update changes the limits of a created or running container; zero fields
// stay as they are. All of it holds, and is recorded, or nothing does.
func (t *Table) Update(ctx context.Context, v View, id string, r spec.Resources) error {
	c, err := t.findContainer(v, id)
	if err != nil {
		return err
	}
	if err := checkResources(r); err != nil {
		return fmt.Errorf("cannot update container %s: %w", c.id, err)
	}
	return t.detached(ctx, func(ctx context.Context) error { return t.update(ctx, c, r) })
}

func (t *Table) update(ctx context.Context, c *container, r spec.Resources) error {
	c.op.Lock()
	defer c.op.Unlock()
	if t.cfg.Hooks == nil {
		return t.setLimits(ctx, c, r)
	}
	if err := c.updatable(); err != nil {
		return err
	}
	c.quiet.take(t.cfg.Hooks)
	defer c.quiet.drop()
	r, err := t.cfg.Hooks.Limit(ctx, t.podStatus(c.pod), t.containerStatus(c), r)
	if err == nil {
		err = checkResources(r)
	}
	if err != nil {
		return fmt.Errorf("cannot update container %s: %w", c.id, err)
	}
	if err := t.setLimits(ctx, c, r); err != nil {
		return err
	}
	t.tellContainer(ctx, TurnUpdated, c)
	return nil
}

func (c *container) updatable() error {
	if ph := c.record().Phase; ph != phaseRunning && ph != phaseCreated {
		return errkind.New(errkind.FailedPrecondition, "cannot update container %s: it is %s", c.id, ph)
	}
	return nil
}

// setLimits does an update; the caller holds c.op.
func (t *Table) setLimits(ctx context.Context, c *container, r spec.Resources) error {
	if err := c.updatable(); err != nil {
		return err
	}
	rec := c.record()
	merged := mergeResources(rec.Resources, r)
	if rec.StartError != "" { // there is nothing to limit
		return t.setContainer(c, func(rec *containerRecord) { rec.Resources = merged })
	}
	limits := spec.LinuxResources(merged, cgroup.Unified(), !cgroup.SwapLimit())
	if limits.Memory != nil {
		// Less than what is used would end processes on v2; v1 refuses by itself.
		check := true
		limits.Memory.CheckBeforeUpdate = &check
	}
	b, err := json.Marshal(limits)
	if err != nil {
		return err
	}
	file := filepath.Join(t.bundle(c.id), "resources.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(file) }()
	shim, err := t.shims.client(ctx, c.pod)
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
	if r.MemorySwap == 0 && old.MemorySwap != 0 && old.MemorySwap == old.Memory {
		r.MemorySwap = r.Memory // no swap stays no swap
	}
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
	if len(r.Unified) > 0 {
		merged := map[string]string{}
		maps.Copy(merged, old.Unified)
		maps.Copy(merged, r.Unified)
		old.Unified = merged
	}
	if len(r.Hugepages) > 0 {
		old.Hugepages = r.Hugepages
	}
	return old
}
