package spec

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// HostDevice is a node for the container, and where the host has it.
type HostDevice struct {
	specs.LinuxDevice
	HostPath string
}

// deviceMounts are the devices asked for, in a user namespace: there nobody can
// make a node, and libcontainer would bind the host's of the path that the
// container is to see, which may be another device.
func deviceMounts(in Input) []specs.Mount {
	if !in.Container.Security.Namespaces.HasUserNamespace() {
		return nil
	}
	var out []specs.Mount
	for _, d := range in.Devices {
		out = append(out, specs.Mount{Destination: d.Path, Type: "bind", Source: d.HostPath, Options: []string{"bind", "rprivate"}})
	}
	return out
}

// deviceNodes are the nodes in the container's /dev beside the usual ones:
// those asked for, then for a privileged container the host's, at paths that
// are free.
func deviceNodes(in Input) []specs.LinuxDevice {
	sec := &in.Container.Security
	var out []specs.LinuxDevice
	if !sec.Namespaces.HasUserNamespace() {
		for _, d := range in.Devices {
			if in.Handler.DeviceOwnership {
				own(&d.LinuxDevice, sec)
			}
			out = append(out, d.LinuxDevice)
		}
	}
	if !sec.Privileged || in.Handler.NoHostDevices {
		return out
	}
	for _, d := range in.HostDevices {
		if !slices.ContainsFunc(in.Devices, func(a HostDevice) bool { return a.Path == d.Path }) {
			out = append(out, d)
		}
	}
	return out
}

// own gives a node to the ids that sec asks for. An id that is not in range
// does not come this far: no user could be resolved from it.
func own(d *specs.LinuxDevice, sec *Security) {
	if id := sec.RunAsUser; id != nil {
		uid := uint32(*id)
		d.UID = &uid
	}
	if id := sec.RunAsGroup; id != nil {
		gid := uint32(*id)
		d.GID = &gid
	}
}

// deviceRules is the device cgroup: everything is denied but the nodes that
// every container has in /dev, and the devices it was given.
func deviceRules(in Input) []specs.LinuxDeviceCgroup {
	if in.Container.Security.Privileged && (!in.Handler.NoHostDevices || in.Handler.OpenDevices) {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	allow := func(kind string, major, minor int64, access string) {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access})
	}
	allow("c", 1, 3, "rwm") // null
	allow("c", 1, 5, "rwm") // zero
	allow("c", 1, 7, "rwm") // full
	allow("c", 1, 8, "rwm") // random
	allow("c", 1, 9, "rwm") // urandom
	allow("c", 5, 0, "rwm") // tty
	allow("c", 5, 2, "rwm") // ptmx
	pts := int64(136)       // pts/*: every minor
	rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &pts, Access: "rwm"})
	for _, d := range in.Devices {
		allow(d.Type, d.Major, d.Minor, access(in.Container.Devices, d.Path))
	}
	return rules
}

// access finds the permissions asked for the node at node: a request may name
// a directory, whose nodes all came of it. The closest request decides.
func access(asked []Device, node string) string {
	best, out := -1, "rwm"
	for _, d := range asked {
		dir := path.Clean(d.ContainerPath)
		if node != dir && !strings.HasPrefix(node, strings.TrimSuffix(dir, "/")+"/") || len(dir) <= best {
			continue
		}
		best = len(dir)
		if out = d.Permissions; out == "" {
			out = "rwm"
		}
	}
	return out
}
