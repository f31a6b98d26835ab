package spec

import (
	"maps"
	"path"
	"slices"
	"strings"

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

// deviceRules is the device cgroup: everything is denied but the nodes that
// every container has in /dev, and the devices it was given.
func deviceRules(in Input) []specs.LinuxDeviceCgroup {
	if in.Container.Security.Privileged {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	allow := func(kind string, major, minor int64, access string) {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access})
	}
	allow("c", 1, 3, "rwm") // null
	allow("c", 1, 5, "rwm") // zero
	allow("c", 1, 7, "rwm") // full
	allow("c", 1, 8, "rwm") // random
	allow("c", 1, 9, "rwm") // urandom
	allow("c", 5, 0, "rwm") // tty
	allow("c", 5, 2, "rwm") // ptmx
	pts := int64(136)       // pts/*: every minor
	rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &pts, Access: "rwm"})
	for _, d := range in.Devices {
		allow(d.Type, d.Major, d.Minor, access(in.Container.Devices, d.Path))
	}
	return rules
}

// access finds the permissions asked for the node at node: a request may name
// a directory, whose nodes all came of it. The closest request decides; a
// node that was not asked for by path (CDI) has all.
func access(asked []Device, node string) string {
	best, out := -1, "rwm"
	for _, d := range asked {
		dir := path.Clean(d.ContainerPath)
		if node != dir && !strings.HasPrefix(node, strings.TrimSuffix(dir, "/")+"/") || len(dir) <= best {
			continue
		}
		best = len(dir)
		if out = d.Permissions; out == "" {
			out = "rwm"
		}
	}
	return out
}
