package spec

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// defaultMounts are the file systems that every container has.
func defaultMounts(in Input) []specs.Mount {
	sec, access, groups := &in.Container.Security, "ro", "ro"
	if sec.Privileged {
		access = "rw"
	}
	// In a cgroup namespace the root is the container's own group. Elsewhere
	// writing would reach the host's (CVE-2023-25809).
	if sec.Privileged || in.Handler.CgroupWritable && in.CgroupV2 {
		groups = "rw"
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", groups}},
	}
	// The queues of the host's IPC namespace are not shown: a mount of them
	// would be the host's own, with the host's permissions.
	if sec.Namespaces.IPC != ModeNode {
		out = append(out, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	}
	return out
}

// allMounts puts volumes over the default mounts and orders all by depth, so
// that none hides another; equals keep their order.
func allMounts(in Input) ([]specs.Mount, error) {
	given := map[string]int{}
	for i, m := range in.Mounts {
		dst := path.Clean(m.Destination)
		if !path.IsAbs(dst) || dst == "/" || hasNUL(dst) {
			return nil, errkind.New(errkind.InvalidArgument, "%q is no place for a mount", m.Destination)
		}
		given[dst] = i
	}
	_, ownDev := given["/dev"]
	var out []specs.Mount
	for _, m := range inUserNamespace(defaultMounts(in), &in.Container.Security.Namespaces) {
		_, replaced := given[m.Destination]
		if replaced || ownDev && strings.HasPrefix(m.Destination, "/dev/") {
			continue
		}
		out = append(out, m)
	}
	for i, m := range in.Mounts {
		m.Destination = path.Clean(m.Destination)
		if given[m.Destination] == i {
			out = append(out, m)
		}
	}
	sortMounts(out)
	return out, nil
}

// sortMounts orders by depth; equals keep their order.
func sortMounts(mounts []specs.Mount) {
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
}

// rootfsPropagation is the propagation of the container's root: a mount in it
// cannot receive (or give) more than its root does. The default is private.
func rootfsPropagation(mounts []specs.Mount) string {
	out := ""
	for _, m := range mounts {
		switch {
		case slices.Contains(m.Options, "rshared"), slices.Contains(m.Options, "shared"):
			return "rshared"
		case slices.Contains(m.Options, "rslave"), slices.Contains(m.Options, "slave"):
			out = "rslave"
		}
	}
	return out
}
