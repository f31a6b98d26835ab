package translate

import (
	"maps"
	"slices"
	"strconv"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/spec"
)

// pidsMax is the unified key that stands for a pids limit: CRI has no field of
// its own, and this way it holds on cgroup v1 too.
const pidsMax = "pids.max"

// unlimited is the value of a unified key that sets no limit.
const unlimited = "max"

// Resources translates limits verbatim; nil is all unset.
func Resources(r *criv1.LinuxContainerResources) spec.Resources {
	out := spec.Resources{
		CPUPeriod:   r.GetCpuPeriod(),
		CPUQuota:    r.GetCpuQuota(),
		CPUShares:   r.GetCpuShares(),
		Memory:      r.GetMemoryLimitInBytes(),
		MemorySwap:  r.GetMemorySwapLimitInBytes(),
		OOMScoreAdj: r.GetOomScoreAdj(),
		CpusetCPUs:  r.GetCpusetCpus(),
		CpusetMems:  r.GetCpusetMems(),
		Unified:     r.GetUnified(),
	}
	n, err := strconv.ParseInt(out.Unified[pidsMax], 10, 64)
	if out.Unified[pidsMax] == unlimited {
		n, err = -1, nil
	}
	if err == nil && (n > 0 || n == -1) {
		out.PidsLimit = n
		out.Unified = maps.Clone(out.Unified)
		delete(out.Unified, pidsMax)
	}
	for _, h := range r.GetHugepageLimits() {
		if out.Hugepages == nil {
			out.Hugepages = make(map[string]uint64)
		}
		out.Hugepages[h.GetPageSize()] = h.GetLimit()
	}
	return out
}

// criResources is the reverse. The kubelet compares what it gets here with
// what it asked for, so shares stay shares on cgroup v2 too.
func criResources(r spec.Resources) *criv1.LinuxContainerResources {
	out := &criv1.LinuxContainerResources{
		CpuPeriod:              r.CPUPeriod,
		CpuQuota:               r.CPUQuota,
		CpuShares:              r.CPUShares,
		MemoryLimitInBytes:     r.Memory,
		MemorySwapLimitInBytes: r.MemorySwap,
		OomScoreAdj:            r.OOMScoreAdj,
		CpusetCpus:             r.CpusetCPUs,
		CpusetMems:             r.CpusetMems,
		Unified:                r.Unified,
	}
	if r.PidsLimit != 0 {
		if out.Unified = maps.Clone(r.Unified); out.Unified == nil {
			out.Unified = map[string]string{}
		}
		out.Unified[pidsMax] = unlimited
		if r.PidsLimit > 0 {
			out.Unified[pidsMax] = strconv.FormatInt(r.PidsLimit, 10)
		}
	}
	for _, size := range slices.Sorted(maps.Keys(r.Hugepages)) {
		out.HugepageLimits = append(out.HugepageLimits, &criv1.HugepageLimit{PageSize: size, Limit: r.Hugepages[size]})
	}
	return out
}
