package pod

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Process is one process of a container, as the host sees it.
type Process struct {
	Pid, Parent int
	UID         uint32 // on the host
	CPU         time.Duration
	Command     string // arguments with spaces between them, at most maxCommandLine bytes; its own words, not to be trusted
}

// maxCommandLine bounds what is read of a command line: its author is the
// container.
const maxCommandLine = 4 << 10

// Processes lists what runs in a container, execs too, in the order of their
// numbers. One that ends meanwhile is left out.
func (t *Table) Processes(v View, id string) ([]Process, error) {
	c, err := t.findContainer(v, id)
	if err != nil {
		return nil, err
	}
	if ph := c.record().Phase; ph != phaseRunning && ph != phaseCreated {
		return nil, errkind.New(errkind.FailedPrecondition, "container %s has no processes: it is %s", c.id, ph)
	}
	_, group := t.cgroup(c.pod.config.CgroupParent, c.id)
	pids, err := cgroup.Procs(group)
	if err != nil {
		return nil, fmt.Errorf("cannot list the processes of container %s: %w", c.id, err)
	}
	out := []Process{}
	for _, pid := range pids {
		if p, err := readProcess(pid); err == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// readProcess reads /proc/PID (proc(5)).
func readProcess(pid int) (Process, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return Process{}, err
	}
	// The name, which may have anything in it, ends with the last parenthesis.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Process{}, fmt.Errorf("cannot read %sstat: it has no name", dir)
	}
	name, fields := string(stat[open+1:end]), strings.Fields(string(stat[end+1:]))
	if len(fields) < 13 {
		return Process{}, fmt.Errorf("cannot read %sstat: it has %d fields", dir, len(fields))
	}
	p := Process{Pid: pid}
	user, uerr := strconv.ParseInt(fields[11], 10, 64)
	system, serr := strconv.ParseInt(fields[12], 10, 64)
	if p.Parent, err = strconv.Atoi(fields[1]); err != nil || uerr != nil || serr != nil {
		return Process{}, fmt.Errorf("cannot read %sstat: a field is no number", dir)
	}
	p.CPU = time.Duration(user+system) * (time.Second / 100) // the kernel's USER_HZ is 100 everywhere
	if p.UID, err = ownerOf(dir); err != nil {
		return Process{}, err
	}
	if p.Command, err = commandLine(dir); err != nil {
		return Process{}, err
	}
	if p.Command == "" {
		p.Command = "[" + name + "]" // a zombie, as ps(1) has it
	}
	return p, nil
}

// ownerOf is the effective user of a process.
func ownerOf(dir string) (uint32, error) {
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			if f := strings.Fields(ids); len(f) > 1 {
				uid, err := strconv.ParseUint(f[1], 10, 32)
				return uint32(uid), err
			}
		}
	}
	return 0, fmt.Errorf("cannot read %sstatus: it has no user", dir)
}

func commandLine(dir string) (string, error) {
	f, err := os.Open(dir + "cmdline")
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxCommandLine))
	return string(bytes.ReplaceAll(bytes.TrimRight(b, "\x00"), []byte{0}, []byte{' '})), err
}
