package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU times in /proc: USER_HZ is 100 on every Linux.
const tick = 10 * time.Millisecond

// samples are durations, and the CPU time that the whole machine spent in
// them: everything of a container's life counts, the kernel's part too.
type samples struct {
	took []time.Duration
	cpu  time.Duration
}

func (s *samples) take(f func() error) error {
	cpu, begin := machineCPU(), time.Now()
	err := f()
	s.took = append(s.took, time.Since(begin))
	s.cpu += machineCPU() - cpu
	return err
}

func (s *samples) print(name string) {
	slices.Sort(s.took)
	at := func(percent int) time.Duration {
		return s.took[min(len(s.took)-1, len(s.took)*percent/100)].Round(100 * time.Microsecond)
	}
	fmt.Printf("  %-28s %12s %12s %14s\n", name, at(50), at(95), (s.cpu / time.Duration(len(s.took))).Round(100*time.Microsecond))
}

// machineCPU is the time that all CPUs were busy since boot.
func machineCPU() time.Duration {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	busy := 0
	for n, field := range strings.Fields(line)[1:] {
		if n == 3 || n == 4 || n > 6 { // idle, iowait; guests count as user already
			continue
		}
		v, _ := strconv.Atoi(field)
		busy += v
	}
	return time.Duration(busy) * tick
}

// cpuOf is the CPU time of processes and of the children they waited for.
func cpuOf(pids []int) time.Duration {
	sum := 0
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		for _, field := range fields[11:15] { // user and system time, then the children's
			v, _ := strconv.Atoi(field)
			sum += v
		}
	}
	return time.Duration(sum) * tick
}

// pss is the proportional set size of processes in bytes.
func pss(pids ...int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		n, err := memory(pid, "smaps_rollup", "Pss:")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// peak is what a process had resident at most, in bytes, since resetPeak.
func peak(pid int) (int64, error) { return memory(pid, "status", "VmHWM:") }

// resetPeak makes the kernel forget what was resident before.
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// memory reads one line of a file below /proc/PID.
func memory(pid int, file, key string) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, fmt.Errorf("cannot read the memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("cannot read the memory of process %d: %s has no %s", pid, file, key)
}

func mebi(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
