// Package stats reads what a container uses from its cgroups.
//
// Read takes one reading. A Sampler keeps the last reading of each container,
// for two reasons: a rate needs two of them, and clients that ask in bursts
// are answered from memory. It also holds the files of their cgroups open, for
// the next reading. Nothing is read while nobody asks.
package stats

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	Pressure                    Pressure
}

// Read reads the cgroup at cgroupPath, an OCI linux.cgroupsPath, with what is
// below it. The error of an absent one is os.ErrNotExist.
func Read(cgroupPath string) (Sample, error) {
	return local().read(cgroupPath)
}

func local() hierarchy { return hierarchy{root: "/sys/fs/cgroup", v2: cgroup.Unified()} }

// hierarchy is where the controllers' files are. Tests have their own.
type hierarchy struct {
	root string
	v2   bool
}

func (h hierarchy) read(path string) (Sample, error) {
	g, err := h.open(path)
	if err != nil {
		return Sample{}, err
	}
	defer g.close()
	return g.sample(time.Now())
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

// limit reads a file with a limit, nil for none.
func limit(file string) (*uint64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseLimit(file, strings.TrimSpace(string(data)))
}

// parseLimit is nil for no limit: "max" on v2, on v1 the largest multiple of
// the page size that fits in 63 bits.
func parseLimit(file, text string) (*uint64, error) {
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
