// Package doctor looks at a node before somebody depends on it: what the
// kernel can do, what limits and other programs stand in the way, and what
// would mend it.
//
// Model. A check has a name, looks at one thing and gives one Finding (some
// give one for each thing that they find). What the kernel can do is tried, on
// threads and in namespaces that end with the check; no version is parsed to
// learn it. Files are read below Host.Dir, so that a test shows each verdict
// on a host of its own making.
//
// Law. A check changes nothing that outlives it, asks no network unless a
// check of the caller's does, and ends in bounded time. A finding that is not
// OK says what is to be done, as a command where one command does it. Checks
// run in a process that does nothing else: `berthd doctor`, which a running
// daemon starts as a child of its own, with its own rights and limits.
package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Verdict of a check.
type Verdict string

// Verdicts, from the best to the worst.
const (
	OK   Verdict = "ok"
	Warn Verdict = "warn" // something is slower, weaker or missing that some need
	Fail Verdict = "fail" // containers cannot run, or not as they should
)

// Finding is what one check says.
type Finding struct {
	Check   string  `json:"check"` // "storage.overlay"
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"`        // one sentence, of OK ones too
	Fix     string  `json:"fix,omitempty"` // the command that mends it, or what to do; never of OK ones
}

// Config of a run.
type Config struct {
	Host Host

	Root, State   string   // the daemon's directories; they may not exist yet
	CgroupDriver  string   // "systemd" or "cgroupfs"
	CgroupParent  string   // of pods that name none
	Network       bool     // whether the embedded network is on
	SELinux       bool     // whether containers get labels
	KubeletSocket string   // path of the socket that is the kubelet's
	EveryPod      string   // path of the socket that shows every pod
	Programs      []string // paths of the programs that the daemon executes

	// More are checks of rooms that this one does not know.
	More []Check
}

// A Check looks at one thing. What it finds is named by it, or by names that
// begin with its own and a dot.
type Check struct {
	Name string
	Look func(context.Context) []Finding
}

// Attempt is a check that tries something. It is OK, with the words of well,
// if that gives no error.
func Attempt(name, well string, otherwise Verdict, fix string, try func(context.Context) error) Check {
	return Check{name, func(ctx context.Context) []Finding {
		if err := try(ctx); err != nil {
			return one(Finding{name, otherwise, strings.ReplaceAll(err.Error(), "\n", "; "), fix})
		}
		return one(good(name, "%s", well))
	}}
}

// patience is how long one check may take. A check that hangs in the kernel
// is left behind, which ends with the process.
const patience = 15 * time.Second

// check is one row of the table.
type check struct {
	name string
	look func(context.Context, *Config) []Finding
}

func table() []check {
	return []check{
		{"kernel.version", kernelVersion},
		{"kernel.bugs", kernelBugs},
		{"kernel.calls", kernelCalls},
		{"kernel.namespaces", namespaces},
		{"kernel.seccomp", seccomp},
		{"kernel.clone_into_cgroup", cloneIntoCgroup},
		{"process.capabilities", capabilities},
		{"process.files", openFiles},
		{"security.apparmor", appArmor},
		{"security.selinux", seLinux},
		{"cgroup.version", cgroupVersion},
		{"cgroup.controllers", cgroupControllers},
		{"cgroup.driver", cgroupDriver},
		{"cgroup.delegation", cgroupDelegation},
		{"storage.overlay", overlay},
		{"storage.space", space},
		{"storage.state", stateDir},
		{"network.links", links},
		{"limits.inotify", inotify},
		{"limits.files", systemFiles},
		{"limits.pids", pids},
		{"clock", clock},
		{"programs", programs},
		{"peers", peers},
		{"kubelet", kubelet},
	}
}

// Run makes all checks, in an order that stays.
func Run(ctx context.Context, cfg Config) []Finding {
	var all []Finding
	for _, c := range table() {
		all = append(all, bounded(ctx, c.name, func(ctx context.Context) []Finding { return c.look(ctx, &cfg) })...)
	}
	for _, more := range cfg.More {
		all = append(all, bounded(ctx, more.Name, more.Look)...)
	}
	return all
}

// bounded is what look finds, or that it did not end.
func bounded(ctx context.Context, name string, look func(context.Context) []Finding) []Finding {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found := make(chan []Finding, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				found <- one(Finding{name, Fail, fmt.Sprintf("the check itself failed: %v", p), "report it, with the output of: berth doctor --output json"})
			}
		}()
		found <- look(ctx)
	}()
	select {
	case f := <-found:
		return f
	case <-ctx.Done():
		return one(Finding{name, Fail, fmt.Sprintf("the check did not end within %s", patience), "look for what hangs: dmesg | tail; ps -eo pid,stat,wchan:30,comm | grep ' D'"})
	}
}

func one(f Finding) []Finding { return []Finding{f} }

func good(check, format string, args ...any) Finding {
	return Finding{Check: check, Verdict: OK, Reason: fmt.Sprintf(format, args...)}
}

// Host is where files of the kernel and of other programs are read.
type Host struct {
	Dir string // "/" if empty
}

func (h Host) path(name string) string { return filepath.Join("/", h.Dir, name) }

// read is a small file without the space around its text.
func (h Host) read(name string) (string, error) {
	b, err := os.ReadFile(h.path(name))
	return strings.TrimSpace(string(b)), err
}

func (h Host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

// isSocket tells whether a socket lies at name.
func (h Host) isSocket(name string) bool {
	st, err := os.Stat(h.path(name))
	return err == nil && st.Mode()&fs.ModeSocket != 0
}

// number reads a file that holds one. One that is absent or says something
// else, such as "max", is not ok.
func (h Host) number(name string) (n uint64, ok bool) {
	text, err := h.read(name)
	if err != nil {
		return 0, false
	}
	_, err = fmt.Sscan(text, &n)
	return n, err == nil
}

// existing is the nearest directory above path that is there.
func existing(path string) string {
	for path != "/" && path != "." {
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}
