// Package pidfd names processes so that a recycled pid is never signalled or
// waited for by mistake.
//
// What each kernel brought: pidfd_send_signal 5.1, pidfd_open 5.3,
// PIDFD_GET_INFO 6.13, its exit information 6.15 (filled when the process has
// been reaped: read it after POLLHUP).
package pidfd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process is a pid together with its start time in clock ticks since boot
// (field 22 of /proc/PID/stat), which no later owner of the pid shares.
type Process struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
}

// Find reads the identity of the process that has pid now.
func Find(pid int) (Process, error) {
	st, err := readStat(pid)
	return Process{Pid: pid, StartTime: st.start}, err
}

// Session reads the id of the session that pid is in now: the pid of its leader.
func Session(pid int) (int, error) {
	st, err := readStat(pid)
	return st.session, err
}

// Alive tells whether p still runs; a zombie does not.
func (p Process) Alive() bool {
	if p.Pid <= 0 {
		return false
	}
	st, err := readStat(p.Pid)
	return err == nil && st.start == p.StartTime && st.state != 'Z' && st.state != 'X'
}

// Open returns a pidfd of p that the caller closes, or ESRCH if p has ended.
// A zombie that still has its pid can be opened.
func (p Process) Open() (*os.File, error) {
	if p.Pid <= 0 {
		return nil, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(p.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	// The check comes after the open: the descriptor pins the identity.
	if st, err := readStat(p.Pid); err != nil || st.start != p.StartTime {
		_ = unix.Close(fd)
		return nil, unix.ESRCH
	}
	return os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(p.Pid)), nil
}

// Signal sends sig to p. A process that has ended is success: what the signal
// was to bring about has happened.
func (p Process) Signal(sig unix.Signal) error {
	f, err := p.Open()
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	err = unix.PidfdSendSignal(int(f.Fd()), sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// Wait returns when the process behind f has ended, true, or when d has
// passed, false. A negative d waits for ever.
func Wait(f *os.File, d time.Duration) (bool, error) {
	deadline := time.Now().Add(d)
	for {
		ms := -1
		if d >= 0 {
			ms = int(max(time.Until(deadline), 0) / time.Millisecond)
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, ms)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, fmt.Errorf("cannot poll %s: %w", f.Name(), err)
		case n > 0:
			return true, nil
		case time.Until(deadline) <= 0:
			return false, nil
		}
	}
}

// info is struct pidfd_info of linux/pidfd.h, version 1 (64 bytes).
type info struct {
	mask                                     uint64
	cgroupid                                 uint64
	pid, tgid, ppid                          uint32
	ruid, rgid, euid, egid, suid, sgid, fsid uint32
	fsgid                                    uint32
	exitCode                                 int32
}

const (
	infoExit     = 1 << 3
	ioctlGetInfo = 0xc040ff0b // _IOWR(0xFF, 11, struct pidfd_info of 64 bytes)
)

// ErrNoStatus says that the kernel cannot tell a stranger's exit status, or
// that the process has not been reaped yet.
var ErrNoStatus = errors.New("exit status not available")

// ExitStatus asks the kernel for the wait status of a process that has ended
// and been reaped, by whomever (Linux 6.15).
func ExitStatus(f *os.File) (unix.WaitStatus, error) {
	in := info{mask: infoExit}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlGetInfo, uintptr(unsafe.Pointer(&in)))
	if e != 0 {
		return 0, fmt.Errorf("%w: %w", ErrNoStatus, e)
	}
	if in.mask&infoExit == 0 {
		return 0, ErrNoStatus
	}
	return unix.WaitStatus(in.exitCode), nil
}

// Code is the exit code that CRI reports for a wait status: the code itself,
// or 128 plus the signal.
func Code(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// procStat is what is needed of /proc/PID/stat.
type procStat struct {
	state   byte
	session int
	start   uint64 // clock ticks since boot
}

func readStat(pid int) (procStat, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	b, err := os.ReadFile(path)
	if err != nil {
		return procStat{}, err
	}
	// The command, in parentheses, may hold spaces and parentheses itself.
	i := bytes.LastIndexByte(b, ')')
	f := bytes.Fields(b[i+1:])
	if i < 0 || len(f) < 20 {
		return procStat{}, fmt.Errorf("cannot parse %s", path)
	}
	session, err := strconv.Atoi(string(f[3]))
	if err != nil {
		return procStat{}, fmt.Errorf("cannot parse %s: %w", path, err)
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("cannot parse %s: %w", path, err)
	}
	return procStat{state: f[0][0], session: session, start: start}, nil
}
