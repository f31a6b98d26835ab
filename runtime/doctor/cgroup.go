package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	cgroupDir = "/sys/fs/cgroup"
	delegate  = "systemctl edit berthd: under [Service] Delegate=yes; then systemctl restart berthd"
)

// unified tells whether the host has the v2 hierarchy only. The mount of a
// made up host is known by its file.
func (h Host) unified() bool {
	var st unix.Statfs_t
	if h.Dir == "" {
		return unix.Statfs(cgroupDir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
	}
	return h.exists(cgroupDir + "/cgroup.controllers")
}

func cgroupVersion(_ context.Context, c *Config) []Finding {
	const name = "cgroup.version"
	if c.Host.unified() {
		return one(good(name, "cgroup v2"))
	}
	if len(c.Host.v1Controllers()) == 0 {
		return one(Finding{name, Fail, "no cgroups are mounted at " + cgroupDir, "mount -t cgroup2 cgroup2 " + cgroupDir})
	}
	return one(Finding{name, Warn, "the host has cgroup v1: the kubelet refuses it unless failCgroupV1 is false, and pressure, memory.high and others are missing",
		"boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line, or upgrade the distribution"})
}

// v1Controllers are the hierarchies below the directory, by their names.
func (h Host) v1Controllers() []string {
	entries, err := os.ReadDir(h.path(cgroupDir))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if h.exists(path.Join(cgroupDir, e.Name(), "cgroup.procs")) {
			out = append(out, strings.Split(e.Name(), ",")...)
		}
	}
	return out
}

func cgroupControllers(_ context.Context, c *Config) []Finding {
	const name = "cgroup.controllers"
	have := c.Host.v1Controllers()
	needed := []string{"cpu", "memory", "pids", "cpuset", "devices", "freezer"}
	if c.Host.unified() {
		text, _ := c.Host.read(cgroupDir + "/cgroup.controllers")
		have = strings.Fields(text)
		needed = []string{"cpu", "memory", "pids", "cpuset", "io"}
	}
	var missing []string
	for _, n := range needed {
		if !slices.Contains(have, n) {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return one(good(name, "%s are there", strings.Join(needed, ", ")))
	}
	fix := "take cgroup_disable= from the kernel's command line: cat /proc/cmdline"
	if slices.Contains(missing, "memory") {
		fix = "add cgroup_enable=memory to the kernel's command line (on a Raspberry Pi: /boot/firmware/cmdline.txt) and reboot"
	}
	return one(Finding{name, Fail, fmt.Sprintf("the host lacks the controllers %s: those limits would not hold", strings.Join(missing, ", ")), fix})
}

func cgroupDriver(_ context.Context, c *Config) []Finding {
	const name = "cgroup.driver"
	systemd := c.Host.exists("/run/systemd/system")
	const change = "remove cgroup.driver from /etc/berth/config.toml and conf.d, then: systemctl restart berthd kubelet"
	switch {
	case c.CgroupDriver == "systemd" && !systemd:
		return one(Finding{name, Fail, "cgroup.driver is systemd, and systemd does not run this machine", change})
	case c.CgroupDriver == "systemd" && !c.Host.isSocket("/run/dbus/system_bus_socket") && !c.Host.isSocket("/run/systemd/private"):
		return one(Finding{name, Fail, "systemd cannot be asked for cgroups: there is neither /run/dbus/system_bus_socket nor /run/systemd/private", "apt-get install dbus && systemctl start dbus"})
	case c.CgroupDriver == "cgroupfs" && systemd && c.Host.unified():
		return one(Finding{name, Warn, "cgroup.driver is cgroupfs on a machine that systemd runs: two masters of one tree", change})
	}
	return one(good(name, "%s", c.CgroupDriver))
}

// cgroupDelegation makes a group where pods of the command line go, with a
// limit, and removes it.
func cgroupDelegation(_ context.Context, c *Config) []Finding {
	const name = "cgroup.delegation"
	if c.CgroupDriver == "systemd" {
		return one(good(name, "systemd makes the cgroups of pods"))
	}
	dir, undo, err := c.ownCgroup("doctor")
	if err != nil {
		return one(Finding{name, Fail, fmt.Sprintf("cannot make cgroups: %v", err), delegate})
	}
	defer undo()
	limit := path.Join(dir, "pids.max")
	err = os.WriteFile(limit, []byte("64"), 0o644)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		// Controllers are passed down on demand; the one above must have them.
		text, _ := os.ReadFile(path.Join(path.Dir(dir), "cgroup.controllers"))
		if slices.Contains(strings.Fields(string(text)), "pids") {
			err = nil
		}
	}
	if err != nil {
		return one(Finding{name, Fail, fmt.Sprintf("cgroups can be made and not limited: %v", err), delegate})
	}
	return one(good(name, "cgroups can be made and limited"))
}

// ownCgroup makes a group of this process beside where pods go, in one
// hierarchy: v2's, or v1's for pids.
func (c *Config) ownCgroup(kind string) (dir string, undo func(), err error) {
	hierarchy := cgroupDir
	if !c.Host.unified() {
		hierarchy = path.Join(cgroupDir, "pids")
	}
	dir = c.Host.path(path.Join(hierarchy, fmt.Sprintf("berth-%s-%d", kind, os.Getpid())))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", nil, err
	}
	return dir, func() { _ = os.Remove(dir) }, nil
}
