package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Limits are the values of a group's control files at one moment. A change of
// several limits that fails half way is taken back with them: what was
// unlimited before has no other name that an undo could write.
type Limits struct {
	path  string
	files map[string]string // value by path
}

// limitFiles are the controls that a runtime sets, of both versions.
var limitFiles = []string{
	"cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.max", "cpu.weight", "cpu.idle",
	"cpuset.cpus", "cpuset.mems",
	"memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes",
	"memory.max", "memory.high", "memory.low", "memory.min", "memory.swap.max", "memory.oom.group",
	"pids.max",
	"hugetlb.*.limit_in_bytes", "hugetlb.*.max",
}

// ReadLimits reads what limits the group, and the files named more besides.
func ReadLimits(path string, more ...string) (Limits, error) { return local().readLimits(path, more) }

func (h host) readLimits(path string, more []string) (Limits, error) {
	dirs, err := h.owned(path)
	if err != nil {
		return Limits{}, err
	}
	l := Limits{path: path, files: map[string]string{}}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if gone(err) {
			continue
		}
		if err != nil {
			return Limits{}, fmt.Errorf("cannot read the limits of cgroup %s: %w", path, err)
		}
		for _, e := range entries {
			if !isLimit(e.Name()) && !slices.Contains(more, e.Name()) {
				continue
			}
			value, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				continue // nothing that could be written back
			}
			l.files[filepath.Join(dir, e.Name())] = string(value)
		}
	}
	return l, nil
}

func isLimit(name string) bool {
	return slices.ContainsFunc(limitFiles, func(pattern string) bool {
		ok, err := filepath.Match(pattern, name)
		return ok && err == nil
	})
}

// restoreRounds is how often Restore goes over the files: some values are
// possible only after others (a memory limit is at most that of memory and
// swap, a period at least its quota's).
const restoreRounds = 4

// Restore makes the limits again what they were.
func (l Limits) Restore() error {
	var errs []error
	for range restoreRounds {
		errs = nil
		for file, want := range l.files {
			now, err := os.ReadFile(file)
			if err == nil && string(now) != want {
				err = writeFile(file, want)
			}
			if err != nil && !gone(err) {
				errs = append(errs, err)
			}
		}
		if len(errs) == 0 {
			return nil
		}
	}
	return fmt.Errorf("cannot restore the limits of cgroup %s: %w", l.path, errors.Join(errs...))
}
