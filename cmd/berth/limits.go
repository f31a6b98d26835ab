package main

import (
	"fmt"
	"math"
	"strconv"

	"github.com/docker/go-units"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	cpuPeriod = 100_000 // microseconds; the kernel's default
	minMemory = 6 << 20 // bytes; below it not even the runtime's init fits
	minQuota  = 1_000   // microseconds; the kernel refuses less
)

// parseLimits turns --cpus, --memory and --pids-limit into CRI's resources.
// An empty string or a zero sets nothing.
func parseLimits(cpus, memory string, pids int64) (*criv1.LinuxContainerResources, error) {
	r := &criv1.LinuxContainerResources{}
	if cpus != "" {
		n, err := strconv.ParseFloat(cpus, 64)
		if err != nil || math.IsNaN(n) || n*cpuPeriod < minQuota || n > 1<<16 {
			return nil, &problem{
				what: fmt.Sprintf("cannot limit the CPUs to %q", cpus),
				why:  "it is not a number of CPUs from 0.01 upwards",
				do:   "write for example --cpus 1.5",
			}
		}
		r.CpuPeriod = cpuPeriod
		r.CpuQuota = int64(math.Round(n * cpuPeriod))
	}
	if memory != "" {
		n, err := units.RAMInBytes(memory)
		if err != nil || n < minMemory {
			return nil, &problem{
				what: fmt.Sprintf("cannot limit the memory to %q", memory),
				why:  "it is not a size of at least 6m",
				do:   "write a number with b, k, m or g, for example --memory 256m",
			}
		}
		r.MemoryLimitInBytes = n
	}
	switch {
	case pids < -1:
		return nil, &problem{
			what: fmt.Sprintf("cannot limit the processes to %d", pids),
			why:  "it is negative",
			do:   "write a number above 0, or -1 for no limit",
		}
	case pids > 0:
		// CRI has no field for it; this is cgroup v2's file, which the daemon
		// reads as the limit on either version.
		r.Unified = map[string]string{"pids.max": strconv.FormatInt(pids, 10)}
	case pids == -1:
		r.Unified = map[string]string{"pids.max": "max"}
	}
	return r, nil
}
