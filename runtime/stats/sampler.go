package stats

import (
	"errors"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fresh is how long a sample answers for. Over less than that a rate is noise.
const fresh = time.Second

// Sampler keeps the last sample of each container, and its cgroup open. It is
// safe for use by several goroutines; those that ask for one container wait
// for each other, those that ask for different ones do not.
type Sampler struct {
	hierarchy hierarchy
	now       func() time.Time

	mu   sync.Mutex
	last map[string]*slot
	left int // how many more groups may be held open

	carrying sync.Mutex         // held over a reading of interfaces; before mu
	carried  map[string]carried // by pod; guarded by mu
}

// carried is the last reading of a pod's interfaces.
type carried struct {
	at  time.Time
	all []Interface
}

type slot struct {
	mu     sync.Mutex
	sample Sample // zero before the first
	group  *group // nil: not held open
	gone   bool   // nobody finds it any more
}

// NewSampler makes an empty Sampler. Of the descriptors that the process may
// have it takes a quarter; cgroups for which that is too little are opened for
// each sample.
func NewSampler() *Sampler {
	var most unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &most) != nil {
		most.Cur = 0
	}
	return &Sampler{hierarchy: local(), now: time.Now, last: map[string]*slot{}, carried: map[string]carried{}, left: int(min(most.Cur, 1<<20)) / 4 / longestGroup}
}

// Sample is what container id uses, not older than a second. The rate is that
// between the last two readings; the first has none. The error of an absent
// cgroup is fs.ErrNotExist, and nothing is kept of it.
func (s *Sampler) Sample(id, cgroupPath string) (Sample, error) {
	slot := s.slot(id)
	slot.mu.Lock()
	defer slot.mu.Unlock()
	before, at := slot.sample, s.now()
	if age := at.Sub(before.At); !before.At.IsZero() && age >= 0 && age < fresh {
		return before, nil
	}
	now, err := s.read(slot, cgroupPath, at)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			s.drop(id, slot)
		}
		return Sample{}, err
	}
	now.NanoCores = rate(before, now)
	slot.sample = now
	return now, nil
}

// read takes a reading of the slot's cgroup, and leaves it open if it may. The
// caller holds slot.mu.
func (s *Sampler) read(slot *slot, cgroupPath string, at time.Time) (Sample, error) {
	if slot.group != nil {
		sample, err := slot.group.sample(at)
		if !errors.Is(err, fs.ErrNotExist) {
			return sample, err
		}
		s.shut(slot) // a pod's cgroup is its client's, who may make it again
	}
	g, err := s.hierarchy.open(cgroupPath)
	if err != nil {
		return Sample{}, err
	}
	if !slot.gone && s.take(1) {
		slot.group = g
	} else {
		defer g.close()
	}
	return g.sample(at)
}

// take takes n, which may be negative, of the groups that may be held open.
func (s *Sampler) take(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left < n {
		return false
	}
	s.left -= n
	return true
}

func (s *Sampler) slot(id string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[id] == nil {
		s.last[id] = new(slot)
	}
	return s.last[id]
}

// Interfaces gives those of the pods, not older than a second. Of the others it
// has read, which gets their ids, make a reading; a pod that it leaves out is
// left out. Who asks meanwhile waits and gets the same.
func (s *Sampler) Interfaces(pods []string, read func(pods []string) map[string][]Interface) map[string][]Interface {
	s.carrying.Lock()
	defer s.carrying.Unlock()
	now, out := s.now(), make(map[string][]Interface, len(pods))
	var old []string
	s.mu.Lock()
	for _, id := range pods {
		if c, ok := s.carried[id]; ok && now.Sub(c.at) >= 0 && now.Sub(c.at) < fresh {
			out[id] = c.all
		} else {
			old = append(old, id)
		}
	}
	s.mu.Unlock()
	if len(old) == 0 {
		return out
	}
	got := read(old)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range old {
		delete(s.carried, id)
		if all, ok := got[id]; ok {
			out[id], s.carried[id] = all, carried{now, all}
		}
	}
	return out
}

// Forget drops what is kept of a container or a pod. Whoever ends one calls it,
// or its descriptors stay for ever.
func (s *Sampler) Forget(id string) {
	s.mu.Lock()
	slot := s.last[id]
	delete(s.carried, id)
	s.mu.Unlock()
	if slot == nil {
		return
	}
	slot.mu.Lock()
	defer slot.mu.Unlock()
	s.drop(id, slot)
}

// shut closes a slot's cgroup; the caller holds slot.mu.
func (s *Sampler) shut(slot *slot) {
	if slot.group != nil {
		slot.group.close()
		slot.group = nil
		s.take(-1)
	}
}

// drop forgets a slot; the caller holds slot.mu.
func (s *Sampler) drop(id string, slot *slot) {
	slot.gone = true
	s.shut(slot)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last[id] == slot {
		delete(s.last, id)
	}
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
