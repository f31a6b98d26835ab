package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/thread"
)

const newerKernel = "boot Linux 5.15 or newer, with what the distribution's own kernels have"

// release of the kernel: "6.18.4-amd64" is 6 and 18.
func (h Host) release() (text string, major, minor int) {
	text, err := h.read("/proc/sys/kernel/osrelease")
	if err == nil {
		_, err = fmt.Sscanf(text, "%d.%d", &major, &minor)
	}
	if err != nil {
		return text, 0, 0
	}
	return text, major, minor
}

func kernelVersion(_ context.Context, c *Config) []Finding {
	const name = "kernel.version"
	text, major, minor := c.Host.release()
	switch {
	case major == 0:
		return one(Finding{name, Warn, fmt.Sprintf("cannot tell the kernel's version from %q", text), "mount /proc: mount -t proc proc /proc"})
	case major < 5 || major == 5 && minor < 15:
		return one(Finding{name, Fail, fmt.Sprintf("Linux %s is older than 5.15, the oldest that berth is made for", text), newerKernel})
	}
	return one(good(name, "Linux %s", text))
}

// kernelBugs knows kernels by version that do harm which no probe can show
// without doing it.
func kernelBugs(_ context.Context, c *Config) []Finding {
	const name = "kernel.bugs"
	text, major, minor := c.Host.release()
	var bad []Finding
	// The query of a cgroup's BPF programs writes past the caller's memory
	// from Linux 6.17 to 7.1. opencontainers/cgroups v0.1.0, which berth uses,
	// asks another way; runc older than 1.5 does not.
	if major == 6 && minor >= 17 || major == 7 && minor <= 1 {
		if old := c.Host.otherRuntimes(); len(old) > 0 && c.Host.unified() {
			bad = append(bad, Finding{name, Warn,
				fmt.Sprintf("on Linux %s the query of device filters overwrites the memory of runc before 1.5; berth is not concerned, but %s here may be", text, strings.Join(old, " and ")),
				"runc --version; upgrade it to 1.5.2 or newer"})
		}
	}
	// Ubuntu's 5.4 and 5.15 kernels for 20.04 refuse tmpfs with nr_inodes=1,
	// with which masked paths are mounted.
	if id, version := c.Host.distribution(); id == "ubuntu" && version == "20.04" {
		bad = append(bad, Finding{name, Warn,
			"kernels of Ubuntu 20.04 refuse the smallest tmpfs, with which paths of /proc are masked", "upgrade to Ubuntu 22.04 or newer: do-release-upgrade"})
	}
	if len(bad) > 0 {
		return bad
	}
	return one(good(name, "no defect is known of this kernel that would concern containers here"))
}

// distribution is ID and VERSION_ID of os-release(5).
func (h Host) distribution() (id, version string) {
	text, _ := h.read("/etc/os-release")
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			id = value
		case "VERSION_ID":
			version = value
		}
	}
	return id, version
}

// A call is a system call that berth cannot do without, or not do well.
type call struct {
	name    string
	since   string // Linux that brought it
	verdict Verdict
	without string // what there is not
	try     func() error
}

func calls() []call {
	return []call{
		{"openat2", "5.6", Fail, "paths inside images cannot be followed safely", func() error {
			fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
			return closed(fd, err)
		}},
		{"pidfd_open", "5.3", Fail, "processes cannot be told from later ones with their number", func() error {
			fd, err := unix.PidfdOpen(os.Getpid(), 0)
			return closed(fd, err)
		}},
		{"pidfd_getfd", "5.6", Fail, "descriptors cannot be kept over the death of the shim", func() error {
			self, err := unix.PidfdOpen(os.Getpid(), 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(self) }()
			fd, err := unix.PidfdGetfd(self, self, 0)
			return closed(fd, err)
		}},
		{"close_range", "5.9", Fail, "descriptors of the shim would reach containers", func() error {
			// A range above every descriptor closes nothing.
			return unix.CloseRange(1<<30, 1<<30, 0)
		}},
		{"fsopen", "5.2", Warn, "images of very many layers cannot be mounted", func() error {
			fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
			return closed(fd, err)
		}},
		{"mount_setattr", "5.12", Warn, "there are no recursive read-only mounts and no user namespaces with mapped files", func() error {
			return inMountNamespace(func() error {
				fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
				if err != nil {
					return err
				}
				defer func() { _ = unix.Close(fd) }()
				return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
			})
		}},
	}
}

func closed(fd int, err error) error {
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

func kernelCalls(_ context.Context, c *Config) []Finding { return tried(calls()) }

// tried tells of each call that did not work, else of all together.
func tried(all []call) []Finding {
	const name = "kernel.calls"
	var names []string
	var bad []Finding
	for _, c := range all {
		names = append(names, c.name)
		if err := c.try(); err != nil {
			bad = append(bad, Finding{name, c.verdict,
				fmt.Sprintf("%s does not work (%v), which Linux has since %s: %s", c.name, err, c.since, c.without), newerKernel})
		}
	}
	if len(bad) > 0 {
		return bad
	}
	return one(good(name, "%s work", strings.Join(names, ", ")))
}

// namespaces are made by doing, each on a thread that ends with it.
func namespaces(_ context.Context, c *Config) []Finding {
	const name = "kernel.namespaces"
	for _, ns := range []struct {
		name string
		flag int
	}{
		{"mount", unix.CLONE_NEWNS}, {"network", unix.CLONE_NEWNET}, {"IPC", unix.CLONE_NEWIPC}, {"UTS", unix.CLONE_NEWUTS},
		{"PID", unix.CLONE_NEWPID}, {"cgroup", unix.CLONE_NEWCGROUP},
	} {
		if err := thread.Throwaway(func() error { return unix.Unshare(ns.flag) }); err != nil {
			fix := newerKernel
			if errors.Is(err, unix.EPERM) {
				fix = "run it as root, outside of any container: sudo berth doctor"
			} else if errors.Is(err, unix.ENOSPC) {
				fix = "sysctl -w user.max_net_namespaces=65536 (and its like: sysctl -a | grep user.max_)"
			}
			return one(Finding{name, Fail, fmt.Sprintf("cannot make a %s namespace: %v", ns.name, err), fix})
		}
	}
	if err := userNamespace(); err != nil {
		return one(Finding{name, Warn, fmt.Sprintf("cannot make a user namespace: %v; pods with hostUsers: false do not run", err), c.Host.userNamespaceFix()})
	}
	return one(good(name, "mount, network, IPC, UTS, PID, cgroup and user namespaces can be made"))
}

// userNamespace is made of ids that pods may get.
func userNamespace() error {
	ids := idmap.Range{Host: 1 << 16, Length: 1 << 16}
	return idmap.With(idmap.Map{UID: ids, GID: ids}, 0, func(func(string) string) error { return nil })
}

func (h Host) userNamespaceFix() string {
	if n, ok := h.number("/proc/sys/user/max_user_namespaces"); ok && n == 0 {
		return "sysctl -w user.max_user_namespaces=65536"
	}
	return newerKernel
}

func seccomp(context.Context, *Config) []Finding {
	const name = "kernel.seccomp"
	// seccomp(SECCOMP_GET_ACTION_AVAIL) changes nothing.
	action := uint32(unix.SECCOMP_RET_ERRNO)
	if err := seccompAvailable(&action); err != nil {
		return one(Finding{name, Fail, fmt.Sprintf("the kernel does not filter system calls (%v): containers with a seccomp profile, which is the default, do not start", err),
			"boot a kernel with CONFIG_SECCOMP_FILTER"})
	}
	return one(good(name, "system calls can be filtered"))
}

// inMountNamespace runs fn on a thread whose mounts nobody else sees and that
// vanish with it.
func inMountNamespace(fn func() error) error {
	return thread.Throwaway(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("cannot make a mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("cannot make the mounts private: %w", err)
		}
		return fn()
	})
}

// cloneIntoCgroup is how an exec gets into its cgroup on v2.
func cloneIntoCgroup(ctx context.Context, c *Config) []Finding {
	const name = "kernel.clone_into_cgroup"
	if !c.Host.unified() {
		return one(good(name, "not needed with cgroup v1"))
	}
	dir, undo, err := c.ownCgroup("doctor")
	if err != nil {
		return one(Finding{name, Warn, fmt.Sprintf("cannot try it: %v", err), delegate})
	}
	defer undo()
	group, err := os.Open(dir)
	if err == nil {
		defer func() { _ = group.Close() }()
		cmd := exec.CommandContext(ctx, "/bin/true")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
		err = cmd.Run()
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			err = nil // it was made there; that it has no program is no matter
		}
	}
	if err != nil {
		return one(Finding{name, Warn, fmt.Sprintf("a process cannot be started right in a cgroup: %v; execs take a longer way", err), newerKernel})
	}
	return one(good(name, "processes can be started right in their cgroup"))
}
