package doctor

import (
	"context"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func seccompAvailable(action *uint32) error {
	const getActionAvail = 2 // SECCOMP_GET_ACTION_AVAIL of linux/seccomp.h
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, getActionAvail, 0, uintptr(unsafe.Pointer(action)))
	if errno != 0 {
		return errno
	}
	return nil
}

// needed are the capabilities that containers cannot run without; the others
// of wanted lack in something.
var wanted = []struct {
	bit     int
	name    string
	verdict Verdict
	without string
}{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", Fail, "nothing can be mounted and no namespace made"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", Fail, "pods get no network"},
	{unix.CAP_CHOWN, "CAP_CHOWN", Fail, "layers cannot be unpacked"},
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", Fail, "files of other users cannot be reached"},
	{unix.CAP_FOWNER, "CAP_FOWNER", Fail, "layers cannot be unpacked"},
	{unix.CAP_MKNOD, "CAP_MKNOD", Fail, "whiteouts and devices cannot be made"},
	{unix.CAP_SETUID, "CAP_SETUID", Fail, "containers cannot run as another user"},
	{unix.CAP_SETGID, "CAP_SETGID", Fail, "containers cannot run in another group"},
	{unix.CAP_SETPCAP, "CAP_SETPCAP", Fail, "the capabilities of containers cannot be set"},
	{unix.CAP_KILL, "CAP_KILL", Fail, "containers of other users cannot be stopped"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", Warn, "namespaces of processes of other users cannot be joined"},
	{unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", Warn, "an oom_score_adj below that of the daemon is not set, and no limit above the daemon's own: guaranteed pods lose their protection"},
	{unix.CAP_SETFCAP, "CAP_SETFCAP", Warn, "file capabilities of images are lost"},
	{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT", Fail, "containers get no root of their own"},
	{unix.CAP_AUDIT_WRITE, "CAP_AUDIT_WRITE", Warn, "containers with the default capabilities do not get this one"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW", Warn, "containers cannot ping"},
}

func capabilities(_ context.Context, c *Config) []Finding {
	const name = "process.capabilities"
	status, err := c.Host.read("/proc/self/status")
	effective, ok := hexLine(status, "CapEff")
	bounding, _ := hexLine(status, "CapBnd")
	if err != nil || !ok {
		return one(Finding{name, Warn, "cannot read the capabilities of this process from /proc/self/status", "mount /proc: mount -t proc proc /proc"})
	}
	var bad []Finding
	for _, w := range wanted {
		bit := uint64(1) << w.bit
		if effective&bit != 0 {
			continue
		}
		fix := "run it as root: sudo berth doctor"
		if bounding&bit == 0 {
			fix = "give it back where it was taken: systemctl show berthd -p CapabilityBoundingSet, or the options of the container or machine that this runs in"
		}
		bad = append(bad, Finding{name, w.verdict, fmt.Sprintf("%s is missing: %s", w.name, w.without), fix})
	}
	if len(bad) > 0 {
		return bad
	}
	return one(good(name, "all capabilities are there that containers need"))
}

// hexLine is the value of a line "Key:\tHEX".
func hexLine(text, key string) (value uint64, ok bool) {
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(line, key+":"); found {
			_, err := fmt.Sscanf(strings.TrimSpace(rest), "%x", &value)
			return value, err == nil
		}
	}
	return 0, false
}

func appArmor(_ context.Context, c *Config) []Finding {
	const name = "security.apparmor"
	enabled, _ := c.Host.read("/sys/module/apparmor/parameters/enabled")
	if enabled != "Y" {
		return one(good(name, "the kernel has no AppArmor, or it is off; containers are confined by the other means"))
	}
	if _, err := c.Host.read("/sys/kernel/security/apparmor/profiles"); err != nil {
		return one(Finding{name, Fail, "AppArmor is on and its profiles cannot be read, so pods that name one are refused",
			"mount -t securityfs securityfs /sys/kernel/security"})
	}
	for _, dir := range []string{"/sbin", "/usr/sbin", "/bin", "/usr/bin"} {
		if c.Host.exists(dir + "/apparmor_parser") {
			return one(good(name, "AppArmor is on, and its parser is there to load the default profile"))
		}
	}
	return one(Finding{name, Warn, "AppArmor is on and has no parser here: containers run without the default profile",
		"apt-get install apparmor, then: systemctl restart berthd"})
}

func seLinux(_ context.Context, c *Config) []Finding {
	const name = "security.selinux"
	enforcing, err := c.Host.read("/sys/fs/selinux/enforce")
	switch {
	case err != nil && c.SELinux:
		return one(Finding{name, Fail, "selinux.enable is set and the kernel has no SELinux", "remove selinux.enable from /etc/berth/config.toml, or boot with: security=selinux selinux=1"})
	case err != nil:
		return one(good(name, "the kernel has no SELinux, or it is off"))
	case !c.SELinux:
		return one(Finding{name, Warn, "the host has SELinux and containers get no labels: those that ask for one are refused",
			"printf '[selinux]\\nenable = true\\n' >/etc/berth/conf.d/selinux.toml && systemctl restart berthd"})
	case !c.Host.hasContainerPolicy():
		return one(Finding{name, Fail, "SELinux is on and its policy does not know containers", "dnf install container-selinux (Debian has none: see share/doc/berth/selinux.md)"})
	case !c.Host.isContainerRuntime():
		return one(Finding{name, Warn, "the policy takes berthd for no container runtime: privileged containers have its label, whatever that may do",
			`semanage fcontext -a -t container_runtime_exec_t '/usr/(local/)?bin/berth(d|-shim)' && restorecon /usr/bin/berth* /usr/local/bin/berth* && systemctl restart berthd`})
	case enforcing != "1":
		return one(Finding{name, Warn, "SELinux only warns (permissive)", "setenforce 1"})
	}
	return one(good(name, "SELinux is enforcing, and its policy knows containers"))
}

// isContainerRuntime tells whether the label of this process, which the daemon
// has started, is of those that policies have for container runtimes.
func (h Host) isContainerRuntime() bool {
	label, _ := h.read("/proc/self/attr/current")
	parts := strings.SplitN(label, ":", 4)
	return len(parts) > 2 && strings.HasPrefix(parts[2], "container_")
}

// hasContainerPolicy tells whether a policy has told where its types for
// containers are.
func (h Host) hasContainerPolicy() bool {
	policy := "targeted"
	text, _ := h.read("/etc/selinux/config")
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "SELINUXTYPE="); ok {
			policy = v
		}
	}
	return h.exists("/etc/selinux/" + policy + "/contexts/lxc_contexts")
}
