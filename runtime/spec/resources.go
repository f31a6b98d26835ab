package spec

import (
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// LinuxResources translates limits, at create and at update. What is zero is
// left out, which libcontainer takes for unchanged. A memory limit without a
// swap limit forbids swap, unless the kernel cannot limit it (noSwapLimit).
func LinuxResources(r Resources, cgroupV2, noSwapLimit bool) *specs.LinuxResources {
	out := &specs.LinuxResources{CPU: cpuLimits(r), Memory: memoryLimits(r, noSwapLimit)}
	if r.PidsLimit != 0 {
		out.Pids = &specs.LinuxPids{Limit: &r.PidsLimit}
	}
	for _, size := range slices.Sorted(maps.Keys(r.Hugepages)) {
		// Kubelets list every page size of the machine, with 0 for "not asked".
		if limit := r.Hugepages[size]; limit != 0 {
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
		}
	}
	if cgroupV2 {
		out.Unified = maps.Clone(r.Unified)
	}
	return out
}

func cpuLimits(r Resources) *specs.LinuxCPU {
	cpu := specs.LinuxCPU{Cpus: r.CpusetCPUs, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		shares := uint64(r.CPUShares)
		cpu.Shares = &shares
	}
	if r.CPUPeriod > 0 {
		period := uint64(r.CPUPeriod)
		cpu.Period = &period
	}
	if r.CPUQuota != 0 {
		cpu.Quota = &r.CPUQuota
	}
	if cpu == (specs.LinuxCPU{}) {
		return nil
	}
	return &cpu
}

func memoryLimits(r Resources, noSwapLimit bool) *specs.LinuxMemory {
	var memory specs.LinuxMemory
	if r.Memory != 0 {
		memory.Limit = &r.Memory
	}
	swap := r.MemorySwap
	if swap == 0 {
		swap = r.Memory
	}
	if swap != 0 && !noSwapLimit {
		memory.Swap = &swap
	}
	if memory == (specs.LinuxMemory{}) {
		return nil
	}
	return &memory
}
