package stats

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// file is an open file of a cgroup.
type file struct {
	name string
	fd   int // -1: this kernel, or this cgroup, has none
}

// group is a cgroup whose files are held open: so a reading costs an eighth of
// what it does with opening them each time. It does not keep the cgroup alive,
// and of one that was removed its readings are fs.ErrNotExist. Who opened it
// closes it, and is alone with it.
type group struct {
	path     string
	v2       bool
	cpu      file
	usage    file // of memory
	memory   file // its statistics
	limit    file
	swap     file // v2; v1 has it in the statistics
	swapMost file // limit of swap; on v1 of memory and swap together
	pids     file
	pressure [3]file // of CPU, memory and disks; v2
}

// longestGroup is how many files a group holds open at most.
const longestGroup = 10

// open opens what there is of the cgroup at path.
func (h hierarchy) open(path string) (*group, error) {
	// A rooted Join keeps ".." inside the hierarchy.
	g := &group{path: filepath.Join("/", path), v2: h.v2}
	if h.v2 {
		g.cpu.name, g.usage.name, g.memory.name, g.limit.name = "cpu.stat", "memory.current", "memory.stat", "memory.max"
		g.swap.name, g.swapMost.name, g.pids.name = "memory.swap.current", "memory.swap.max", "pids.current"
		for i, resource := range []string{"cpu", "memory", "io"} {
			g.pressure[i].name = resource + ".pressure"
		}
	} else {
		g.cpu.name, g.usage.name, g.memory.name, g.limit.name = "cpuacct.usage", "memory.usage_in_bytes", "memory.stat", "memory.limit_in_bytes"
		g.swapMost.name, g.pids.name = "memory.memsw.limit_in_bytes", "pids.current"
	}
	all := g.files()
	for _, f := range all {
		f.fd = -1
	}
	for _, f := range all {
		err := f.open(h.file(g.path, f.name))
		optional := f != &g.cpu && f != &g.usage && f != &g.memory && f != &g.limit
		if err != nil && (!optional || !errors.Is(err, fs.ErrNotExist)) {
			g.close()
			return nil, fmt.Errorf("cannot read the usage of cgroup %s: %w", g.path, err)
		}
	}
	return g, nil
}

// file is where the hierarchy has a file of the cgroup at path.
func (h hierarchy) file(path, name string) string {
	if h.v2 {
		return filepath.Join(h.root, path, name)
	}
	controller, _, _ := strings.Cut(name, ".")
	return filepath.Join(h.root, controller, path, name)
}

func (g *group) files() []*file {
	return []*file{&g.cpu, &g.usage, &g.memory, &g.limit, &g.swap, &g.swapMost, &g.pids, &g.pressure[0], &g.pressure[1], &g.pressure[2]}
}

func (f *file) open(path string) (err error) {
	if f.name == "" {
		return nil
	}
	f.fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.fd = -1
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return nil
}

func (g *group) close() {
	for _, f := range g.files() {
		if f.fd >= 0 {
			_ = unix.Close(f.fd)
			f.fd = -1
		}
	}
}

// longestFile is more than any of these files has: memory.stat has some two
// kilobytes.
const longestFile = 16 << 10

// scratch is what files are read into.
type scratch [longestFile]byte

// text is what the file says; nothing if it is not there. The kernel makes the
// text anew for each reading from the beginning.
func (b *scratch) text(f file) ([]byte, error) {
	if f.fd < 0 {
		return nil, nil
	}
	n, err := unix.Pread(f.fd, b[:], 0)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("%s: %w", f.name, fs.ErrNotExist) // the cgroup was removed
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil // pressure that is switched off
	case err != nil:
		return nil, fmt.Errorf("%s: %w", f.name, err)
	case n == len(b):
		return nil, fmt.Errorf("%s has more than %d bytes", f.name, n-1)
	}
	return bytes.TrimSpace(b[:n]), nil
}

// number is what a file of one number says; 0 if it is not there.
func (b *scratch) number(f file) (uint64, error) {
	text, err := b.text(f)
	if err != nil || len(text) == 0 {
		return 0, err
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", f.name, err)
	}
	return n, nil
}

// most is what a file with a limit says, nil for none.
func (b *scratch) most(f file) (*uint64, error) {
	text, err := b.text(f)
	if err != nil || len(text) == 0 {
		return nil, err
	}
	return parseLimit(f.name, string(text))
}

// pairs calls each for the lines "key value" of a file.
func (b *scratch) pairs(f file, each func(key []byte, n uint64)) error {
	text, err := b.text(f)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(text) {
		key, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		n, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: line %q: %w", f.name, line, err)
		}
		each(key, n)
	}
	return nil
}

// sample takes a reading.
func (g *group) sample(now time.Time) (Sample, error) {
	s := Sample{At: now}
	var b scratch
	err := b.memory(&s, g)
	if err == nil {
		err = b.cpu(&s, g)
	}
	if err == nil {
		s.Pids, err = b.number(g.pids)
	}
	for i, to := range []**Stall{&s.Pressure.CPU, &s.Pressure.Memory, &s.Pressure.IO} {
		if err == nil {
			*to, err = b.stall(g.pressure[i])
		}
	}
	if err != nil {
		return Sample{}, fmt.Errorf("cannot read the usage of cgroup %s: %w", g.path, err)
	}
	return s, nil
}

func (b *scratch) cpu(s *Sample, g *group) (err error) {
	if !g.v2 {
		s.CPUNanos, err = b.number(g.cpu)
		return err
	}
	return b.pairs(g.cpu, func(key []byte, n uint64) {
		if string(key) == "usage_usec" {
			s.CPUNanos = n * 1000
		}
	})
}

func (b *scratch) memory(s *Sample, g *group) (err error) {
	if s.Usage, err = b.number(g.usage); err != nil {
		return err
	}
	var inactive, swap uint64
	err = b.pairs(g.memory, func(key []byte, n uint64) {
		if !g.v2 { // there the group's own figures are beside those with what is below it
			var total bool
			if key, total = bytes.CutPrefix(key, []byte("total_")); !total {
				return
			}
		}
		switch string(key) {
		case "anon", "rss":
			s.RSS = n
		case "inactive_file":
			inactive = n
		case "pgfault":
			s.PageFaults = n
		case "pgmajfault":
			s.MajorPageFaults = n
		case "swap":
			swap = n
		}
	})
	if err != nil {
		return err
	}
	s.WorkingSet = minus(s.Usage, inactive)
	if s.Limit, err = b.most(g.limit); err != nil {
		return err
	}
	if g.swapMost.fd < 0 {
		return nil // not accounted
	}
	limit, err := b.most(g.swapMost)
	if err != nil {
		return err
	}
	if g.v2 {
		if swap, err = b.number(g.swap); err != nil {
			return err
		}
	} else if limit != nil {
		// It is of memory and swap together.
		if s.Limit == nil {
			limit = nil
		} else {
			*limit = minus(*limit, *s.Limit)
		}
	}
	s.SwapUsage, s.SwapLimit = &swap, limit
	return nil
}
