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
	before, err := cgroup.ReadLimits(c.cgroup, slices.Collect(maps.Keys(r.Unified))...)
	if err != nil {
		return err
	}
	old := *c.current().lc.Config().Cgroups.Resources
	res := old
	apply(&res, &r)
	err = c.setLimits(res)
	if err == nil {
		return nil
	}
	if c.SystemdCgroup {
		// Its unit keeps what the control files no longer say, and writes it
		// again at the next reload. What fails here the files show.
		_ = c.setLimits(named(old, &r))
	}
	return classify(errors.Join(err, before.Restore()))
}

// setLimits sets all of res but the devices: a plug-in may have changed them.
func (c *container) setLimits(res cgroups.Resources) error {
	lc := c.current().lc
	config := lc.Config()
	group := *config.Cgroups
	group.Resources = &res
	config.Cgroups = &group
	res.SkipDevices = true
	// Start refuses a container with the flag set, and an exec is a Start.
	defer func() { res.SkipDevices = false }()
	return lc.Set(config)
}

// named gives what r limits, and res does not, the value of no limit.
func named(res cgroups.Resources, r *specs.LinuxResources) cgroups.Resources {
	if r.CPU != nil {
		unlessSet(&res.CpuQuota, -1)
		unlessSet(&res.CpuPeriod, defaultCPUPeriod)
		unlessSet(&res.CpuWeight, defaultCPUWeight)
	}
	if r.Memory != nil {
		unlessSet(&res.Memory, -1)
		unlessSet(&res.MemorySwap, -1)
	}
	return res
}

// What the kernel gives a group that nobody has limited.
const (
	defaultCPUPeriod = 100000 // microseconds
	defaultCPUWeight = 100
)

// unlessSet stores v where there is nothing yet.
func unlessSet[T comparable](dst *T, v T) {
	var zero T
	if *dst == zero {
		*dst = v
	}
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
