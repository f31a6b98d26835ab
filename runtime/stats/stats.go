// Package stats reads what a container uses from its cgroups.
//
// Read takes one reading. A Sampler keeps the last reading of each container,
// for two reasons: a rate needs two of them, and clients that ask in bursts
// are answered from memory. Nothing is read while nobody asks.
package stats

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// Sample is one reading.
type Sample struct {
	At                          time.Time
	CPUNanos                    uint64  // since the cgroup was made
	NanoCores                   *uint64 // rate since the sample before; set by Sampler only
	Usage, WorkingSet, RSS      uint64  // bytes
	PageFaults, MajorPageFaults uint64
	Limit                       *uint64 // nil: unlimited
	SwapUsage                   *uint64 // nil: not accounted
	SwapLimit                   *uint64 // of swap alone; nil: unlimited or not accounted
	Pids                        uint64
}

// Read reads the cgroup at cgroupPath, an OCI linux.cgroupsPath, with what is
// below it. The error of an absent one is os.ErrNotExist.
func Read(cgroupPath string) (Sample, error) {
	h := hierarchy{root: "/sys/fs/cgroup", v2: cgroup.Unified()}
	return h.read(cgroupPath)
}

// hierarchy is where the controllers' files are. Tests have their own.
type hierarchy struct {
	root string
	v2   bool
}

func (h hierarchy) read(path string) (Sample, error) {
	// A rooted Join keeps ".." inside the hierarchy.
	path = filepath.Join("/", path)
	read := readV1
	if h.v2 {
		read = readV2
	}
	s := Sample{At: time.Now()}
	if err := read(&s, h.root, path); err != nil {
		return Sample{}, fmt.Errorf("cannot read the usage of cgroup %s: %w", path, err)
	}
	return s, nil
}

func readV1(s *Sample, root, path string) error {
	var err error
	if s.CPUNanos, err = number(filepath.Join(root, "cpuacct", path, "cpuacct.usage")); err != nil {
		return err
	}
	memory := filepath.Join(root, "memory", path)
	if s.Usage, err = number(filepath.Join(memory, "memory.usage_in_bytes")); err != nil {
		return err
	}
	stat, err := table(filepath.Join(memory, "memory.stat"))
	if err != nil {
		return err
	}
	s.RSS, s.WorkingSet = stat["total_rss"], minus(s.Usage, stat["total_inactive_file"])
	s.PageFaults, s.MajorPageFaults = stat["total_pgfault"], stat["total_pgmajfault"]
	if s.Limit, err = limit(filepath.Join(memory, "memory.limit_in_bytes")); err != nil {
		return err
	}
	// memsw is memory and swap together, and exists with swap accounting only.
	both, err := limit(filepath.Join(memory, "memory.memsw.limit_in_bytes"))
	switch {
	case err == nil:
		swap := stat["total_swap"]
		s.SwapUsage = &swap
		if both != nil && s.Limit != nil {
			only := minus(*both, *s.Limit)
			s.SwapLimit = &only
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return optional(&s.Pids, filepath.Join(root, "pids", path, "pids.current"))
}

func readV2(s *Sample, root, path string) error {
	dir := filepath.Join(root, path)
	cpu, err := table(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return err
	}
	s.CPUNanos = cpu["usage_usec"] * 1000
	if s.Usage, err = number(filepath.Join(dir, "memory.current")); err != nil {
		return err
	}
	stat, err := table(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return err
	}
	s.RSS, s.WorkingSet = stat["anon"], minus(s.Usage, stat["inactive_file"])
	s.PageFaults, s.MajorPageFaults = stat["pgfault"], stat["pgmajfault"]
	if s.Limit, err = limit(filepath.Join(dir, "memory.max")); err != nil {
		return err
	}
	swap, err := number(filepath.Join(dir, "memory.swap.current"))
	switch {
	case err == nil:
		s.SwapUsage = &swap
		if s.SwapLimit, err = limit(filepath.Join(dir, "memory.swap.max")); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return optional(&s.Pids, filepath.Join(dir, "pids.current"))
}

// minus is a difference that readings of different moments cannot turn negative.
func minus(a, b uint64) uint64 { return a - min(a, b) }

func number(file string) (uint64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// optional is number for a controller that a kernel may lack.
func optional(n *uint64, file string) error {
	got, err := number(file)
	if err == nil {
		*n = got
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// limit reads a limit, nil for none: "max" on v2, on v1 the largest multiple
// of the page size that fits in 63 bits.
func limit(file string) (*uint64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return nil, nil // no limit, and no error
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if n >= 1<<62 {
		return nil, nil // no limit, and no error
	}
	return &n, nil
}

// table reads a file of "key value" lines.
func table(file string) (map[string]uint64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := make(map[string]uint64, 64)
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: line %q: %w", file, line, err)
		}
		out[key] = n
	}
	return out, nil
}
