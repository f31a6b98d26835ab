// Package stats reads what a container uses from its cgroups.
package stats

import "time"

// Sample is one reading.
type Sample struct {
	At                          time.Time
	CPUNanos                    uint64  // since the cgroup was made
	NanoCores                   *uint64 // rate since the sample before; set by Sampler only
	Usage, WorkingSet, RSS      uint64
	PageFaults, MajorPageFaults uint64
	Limit                       *uint64 // nil: unlimited
	SwapUsage, SwapLimit        *uint64 // SwapUsage nil: not accounted; SwapLimit nil: unlimited or unknown
	Pids                        uint64
}

// Read reads the cgroup at cgroupPath.
func Read(cgroupPath string) (Sample, error) { panic("unfinished") }

// Sampler keeps the last sample of each container.
type Sampler struct{}

// NewSampler makes an empty Sampler.
func NewSampler() *Sampler { panic("unfinished") }

// Sample reads id's cgroup, at most once a second.
func (s *Sampler) Sample(id, cgroupPath string) (Sample, error) { panic("unfinished") }

// Forget drops what is kept of id.
func (s *Sampler) Forget(id string) {}
