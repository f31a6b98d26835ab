package shim

import (
	"errors"
	"maps"
	"slices"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// update changes limits of a running container; what the file does not set
// stays as it is. All of it holds or none: libcontainer writes one controller
// after the other, and its own undo knows no value for what was unlimited.
func (s *server) update(id, file string) error {
	unlock := s.ids.Lock(id)
	defer unlock()
	c, err := s.find(id)
	if err != nil {
		return err
	}
	var r specs.LinuxResources
	if err := readJSON(file, &r); err != nil {
		return err
	}
	config := c.lc.Config()
	group, res := *config.Cgroups, *config.Cgroups.Resources
	apply(&res, &r)
	// The devices stay as they are: a plug-in may have changed them.
	res.SkipDevices = true
	group.Resources = &res
	config.Cgroups = &group
	before, err := cgroup.ReadLimits(c.cgroup, slices.Collect(maps.Keys(r.Unified))...)
	if err != nil {
		return err
	}
	err = c.lc.Set(config)
	// Start refuses a container with the flag set, and an exec is a Start.
	res.SkipDevices = false
	if err != nil {
		return classify(errors.Join(err, before.Restore()))
	}
	return nil
}

func apply(res *cgroups.Resources, r *specs.LinuxResources) {
	if cpu := r.CPU; cpu != nil {
		set(&res.CpuShares, cpu.Shares)
		set(&res.CpuQuota, cpu.Quota)
		set(&res.CpuPeriod, cpu.Period)
		set(&res.CpuRtRuntime, cpu.RealtimeRuntime)
		set(&res.CpuRtPeriod, cpu.RealtimePeriod)
		if cpu.Burst != nil {
			res.CpuBurst = cpu.Burst
		}
		if cpu.Idle != nil {
			res.CPUIdle = cpu.Idle
		}
		if cpu.Shares != nil {
			res.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*cpu.Shares)
		}
		if cpu.Cpus != "" {
			res.CpusetCpus = cpu.Cpus
		}
		if cpu.Mems != "" {
			res.CpusetMems = cpu.Mems
		}
	}
	if mem := r.Memory; mem != nil {
		set(&res.Memory, mem.Limit)
		set(&res.MemoryReservation, mem.Reservation)
		set(&res.MemorySwap, mem.Swap)
		set(&res.MemoryCheckBeforeUpdate, mem.CheckBeforeUpdate)
		if mem.Limit != nil && *mem.Limit == -1 && mem.Swap == nil {
			// No swap limit without a memory limit.
			res.MemorySwap = 0
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		res.PidsLimit = r.Pids.Limit
	}
	for _, h := range r.HugepageLimits {
		res.HugetlbLimit = append(res.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	if len(r.Unified) > 0 {
		res.Unified = r.Unified
	}
}

// set stores *v if there is one.
func set[T any](dst *T, v *T) {
	if v != nil {
		*dst = *v
	}
}
