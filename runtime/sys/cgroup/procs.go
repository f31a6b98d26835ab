package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killTimeout bounds the wait for killed processes to go: one in an
// uninterruptible sleep may never.
const killTimeout = 10 * time.Second

// Procs lists the processes of the group and those below, in ascending order.
// A process counts if it is there in any hierarchy. An absent group has none.
func Procs(path string) ([]int, error) { return local().procs(path) }

// Kill signals every process of the group and those below. With SIGKILL it
// returns when none is left and fails if some stay for ten seconds; any other
// signal is sent once. An absent group is success.
func Kill(path string, sig unix.Signal) error { return local().kill(path, sig) }

// Thaw lets the processes of the group and those below run again that a v1
// freezer stopped: until then none of them takes SIGKILL. On v2 they do.
func Thaw(path string) error {
	dirs, err := local().owned(path)
	if err == nil {
		thaw(dirs)
	}
	return err
}

func thaw(dirs []string) {
	for _, dir := range dirs {
		_ = walk(dir, func(dir string) error {
			_ = writeFile(filepath.Join(dir, "freezer.state"), "THAWED") // most hierarchies have none
			return nil
		})
	}
}

// Frozen tells whether a freezer is to stop the group, or one above it; on v2
// that is true also while a process of the group dies.
func Frozen(path string) bool { return local().frozen(path) }

func (h host) frozen(path string) bool {
	for path = filepath.Join("/", path); path != "/"; path = filepath.Dir(path) {
		for _, dir := range h.paths(path) {
			v2, _ := os.ReadFile(filepath.Join(dir, "cgroup.freeze")) // each is absent in the other version
			v1, _ := os.ReadFile(filepath.Join(dir, "freezer.state"))
			if string(v2) == "1\n" || string(v1) == "FROZEN\n" {
				return true
			}
		}
	}
	return false
}

// Of is the path of the v2 group that a process is in; on a hybrid host it may
// be in others of v1 besides.
func Of(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("cannot find the cgroup of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n"), nil
		}
	}
	return "", fmt.Errorf("cannot find the cgroup of process %d: the host has no v2 hierarchy", pid)
}

// HeldBack counts how often the kernel has made processes of the group wait
// for a limit of CPU time or memory, the group's own or one above it. Of memory
// v1 does not tell.
func HeldBack(path string) uint64 { return local().heldBack(path) }

func (h host) heldBack(path string) (n uint64) {
	for path = filepath.Join("/", path); path != "/"; path = filepath.Dir(path) {
		for _, dir := range h.paths(path) {
			throttled, _ := counter(filepath.Join(dir, "cpu.stat"), "nr_throttled") // absent without its controller
			high, _ := counter(filepath.Join(dir, "memory.events.local"), "high")
			n += throttled + high
		}
	}
	return n
}

// OOMKills counts the processes of the group and those below that the
// kernel's OOM killer ended. The error of an absent group is os.ErrNotExist.
func OOMKills(path string) (uint64, error) { return local().oomKills(path) }

func (h host) procs(path string) ([]int, error) {
	var pids []int
	for _, root := range h.paths(path) {
		err := walk(root, func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			// EOPNOTSUPP: a threaded group, whose processes its root lists.
			if err != nil && !gone(err) && !errors.Is(err, unix.EOPNOTSUPP) {
				return err
			}
			for f := range strings.FieldsSeq(string(data)) {
				// 0 is a process that our PID namespace cannot see.
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("cannot list processes of cgroup %s: %w", path, err)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

func (h host) kill(path string, sig unix.Signal) error {
	dirs, err := h.owned(path)
	if err != nil {
		return err
	}
	if sig != unix.SIGKILL {
		_, err := h.signal(path, sig)
		return err
	}
	for _, dir := range dirs {
		// cgroup.kill (Linux 5.14) reaches also what forks meanwhile.
		_ = writeFile(filepath.Join(dir, "cgroup.kill"), "1")
	}
	deadline := time.Now().Add(killTimeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		left, err := h.signal(path, sig)
		if err != nil || len(left) == 0 {
			return err
		}
		thaw(dirs)
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot kill cgroup %s: processes %v are still there after %s", path, left, killTimeout)
		}
		time.Sleep(pause)
	}
}

// signal sends sig to each process of the group and returns those it found. A
// number may be another process's by the time of the signal, so each process
// is first held by a descriptor and then seen in the group once more.
func (h host) signal(path string, sig unix.Signal) ([]int, error) {
	pids, err := h.procs(path)
	if err != nil || len(pids) == 0 {
		return nil, err
	}
	held := make(map[int]int, len(pids))
	defer func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot signal process %d of cgroup %s: %w", pid, path, err)
		}
		held[pid] = fd
	}
	again, err := h.procs(path)
	if err != nil {
		return nil, err
	}
	for _, pid := range again {
		fd, ok := held[pid]
		if !ok {
			continue // it came meanwhile; the next round has it
		}
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, fmt.Errorf("cannot signal process %d of cgroup %s: %w", pid, path, err)
		}
	}
	return again, nil
}

func (h host) oomKills(path string) (uint64, error) {
	for _, root := range h.paths(path) {
		// On v2 the count includes the groups below.
		n, err := counter(filepath.Join(root, "memory.events"), "oom_kill")
		if err == nil {
			return n, nil
		}
		if n, err = counter(filepath.Join(root, "memory.oom_control"), "oom_kill"); err != nil {
			continue
		}
		total := n
		err = walk(root, func(dir string) error {
			if dir != root {
				n, _ := counter(filepath.Join(dir, "memory.oom_control"), "oom_kill")
				total += n
			}
			return nil
		})
		return total, err
	}
	return 0, fmt.Errorf("cannot count OOM kills of cgroup %s: %w", path, os.ErrNotExist)
}

// counter reads the value of key in a file of "key value" lines.
func counter(file, key string) (uint64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), " "); ok && k == key {
			return strconv.ParseUint(v, 10, 64)
		}
	}
	return 0, fmt.Errorf("cannot find %s in %s", key, file)
}
