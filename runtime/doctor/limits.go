package doctor

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// openFiles is the limit of this process, which containers do not exceed.
func openFiles(context.Context, *Config) []Finding {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return one(Finding{"process.files", Warn, fmt.Sprintf("cannot read the limit of open files: %v", err), "ulimit -n"})
	}
	return one(filesVerdict(r.Max))
}

// filesVerdict judges a hard limit of open files: a container holds some ten
// in the shim, and databases ask for tens of thousands of their own.
func filesVerdict(limit uint64) Finding {
	const name, fix = "process.files", "systemctl edit berthd: under [Service] LimitNOFILE=infinity; by hand: ulimit -n 1048576"
	switch {
	case limit < 4096:
		return Finding{name, Fail, fmt.Sprintf("berth's processes may open %d files only: some hundred containers use that up", limit), fix}
	case limit < 65536:
		return Finding{name, Warn, fmt.Sprintf("berth's processes may open %d files, and containers no more", limit), fix}
	}
	return good(name, "%s files may be open in a process", count(limit))
}

func count(n uint64) string {
	if n >= unix.RLIM_INFINITY>>1 {
		return "any number of"
	}
	return fmt.Sprint(n)
}

// atLeast compares kernel settings with what a node of a hundred pods uses.
func (h Host) atLeast(check, what string, settings []setting) []Finding {
	var bad []Finding
	for _, s := range settings {
		n, ok := h.number("/proc/sys/" + s.path)
		if ok && n < s.least {
			bad = append(bad, Finding{check, Warn, fmt.Sprintf("%s is %d, which %s", s.key, n, s.less),
				fmt.Sprintf("sysctl -w %s=%d; to keep it: echo '%s = %d' >/etc/sysctl.d/60-berth.conf", s.key, s.least, s.key, s.least)})
		}
	}
	if len(bad) > 0 {
		return bad
	}
	return one(good(check, "%s", what))
}

type setting struct {
	key, path string
	least     uint64
	less      string // what happens with less
}

func inotify(_ context.Context, c *Config) []Finding {
	return c.Host.atLeast("limits.inotify", "there are enough inotify instances and watches", []setting{
		{"fs.inotify.max_user_instances", "fs/inotify/max_user_instances", 512, `some dozens of containers that watch files use up: they end with "too many open files"`},
		{"fs.inotify.max_user_watches", "fs/inotify/max_user_watches", 65536, `programs that watch folders use up: they end with "no space left on device"`},
	})
}

func systemFiles(_ context.Context, c *Config) []Finding {
	return c.Host.atLeast("limits.files", "the machine may open enough files", []setting{
		{"fs.file-max", "fs/file-max", 262144, "all processes of the machine share"},
	})
}

func pids(_ context.Context, c *Config) []Finding {
	return c.Host.atLeast("limits.pids", "the machine may have enough processes and threads", []setting{
		{"kernel.pid_max", "kernel/pid_max", 32768, "all processes and threads of the machine share"},
		{"kernel.threads-max", "kernel/threads-max", 16384, "all processes of the machine share"},
	})
}

// clock asks the kernel whether something keeps its clock right.
func clock(context.Context, *Config) []Finding {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	var now unix.Timespec
	if err == nil {
		err = unix.ClockGettime(unix.CLOCK_REALTIME, &now)
	}
	if err != nil {
		return one(Finding{"clock", Warn, fmt.Sprintf("cannot read the clock: %v", err), "timedatectl status"})
	}
	const timeError = 5 // TIME_ERROR of adjtimex(2)
	return one(clockVerdict(now.Sec, state != timeError && tx.Status&unix.STA_UNSYNC == 0))
}

// built is 2026-01-01: before it no certificate of a registry is valid.
const built = 1767225600

func clockVerdict(seconds int64, kept bool) Finding {
	const name, fix = "clock", "timedatectl set-ntp true (or: apt-get install chrony); see: timedatectl status"
	switch {
	case seconds < built:
		return Finding{name, Fail, "the clock is years behind: certificates of registries seem not valid yet", fix}
	case !kept:
		return Finding{name, Warn, "nothing keeps the clock right, as far as the kernel knows (on a virtual machine the host may)", fix}
	}
	return good(name, "the clock is kept right")
}
