package stats

import (
	"sync"
	"time"
)

// fresh is how long a sample answers for. Over less than that a rate is noise.
const fresh = time.Second

// Sampler keeps the last sample of each container. It is safe for use by
// several goroutines; those that ask for one container wait for each other,
// those that ask for different ones do not.
type Sampler struct {
	read func(cgroupPath string) (Sample, error)

	mu   sync.Mutex
	last map[string]*slot
}

type slot struct {
	mu     sync.Mutex
	sample Sample // zero before the first
}

// NewSampler makes an empty Sampler.
func NewSampler() *Sampler { return &Sampler{read: Read, last: map[string]*slot{}} }

// Sample is what container id uses, not older than a second. The rate is that
// between the last two readings; the first has none.
func (s *Sampler) Sample(id, cgroupPath string) (Sample, error) {
	slot := s.slot(id)
	slot.mu.Lock()
	defer slot.mu.Unlock()
	before := slot.sample
	if !before.At.IsZero() && time.Since(before.At) < fresh {
		return before, nil
	}
	now, err := s.read(cgroupPath)
	if err != nil {
		return Sample{}, err
	}
	now.NanoCores = rate(before, now)
	slot.sample = now
	return now, nil
}

func (s *Sampler) slot(id string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[id] == nil {
		s.last[id] = new(slot)
	}
	return s.last[id]
}

// Forget drops what is kept of container id. Whoever removes a container
// calls it, or its slot stays for ever.
func (s *Sampler) Forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.last, id)
}

// rate is the CPU time per time in nanoseconds per second. It is nil without
// a sample before, and after a counter that began anew.
func rate(before, now Sample) *uint64 {
	elapsed := now.At.Sub(before.At)
	if before.At.IsZero() || elapsed <= 0 || now.CPUNanos < before.CPUNanos {
		return nil
	}
	r := uint64(float64(now.CPUNanos-before.CPUNanos) / elapsed.Seconds())
	return &r
}
