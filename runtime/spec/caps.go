package spec

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// DefaultCaps is the set that a container has without asking: the fourteen
// that Docker chose and every runtime since gives.
func DefaultCaps() []string {
	return []string{
		"CAP_CHOWN",
		"CAP_DAC_OVERRIDE",
		"CAP_FSETID",
		"CAP_FOWNER",
		"CAP_MKNOD",
		"CAP_NET_RAW",
		"CAP_SETGID",
		"CAP_SETUID",
		"CAP_SETFCAP",
		"CAP_SETPCAP",
		"CAP_NET_BIND_SERVICE",
		"CAP_SYS_CHROOT",
		"CAP_KILL",
		"CAP_AUDIT_WRITE",
	}
}

// AllCaps is every capability that this build knows, in the kernel's order.
func AllCaps() []string {
	known := capability.ListKnown()
	out := make([]string, len(known))
	for i, c := range known {
		out[i] = "CAP_" + strings.ToUpper(c.String())
	}
	return out
}

// Capabilities tells the bounding set that a container gets, in the kernel's
// order: the default, then ALL added, ALL dropped, single ones added, single
// ones dropped, whatever the order in the lists. Nothing that hostCaps lacks
// is in it.
func Capabilities(sec *Security, hostCaps []string) ([]string, error) {
	all := AllCaps()
	add, addAll, err := capNames(sec.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := capNames(sec.CapDrop)
	if err != nil {
		return nil, err
	}
	set := DefaultCaps()
	switch {
	case sec.Privileged:
		set, add, drop = all, nil, nil
	case dropAll:
		set = nil
	case addAll:
		set = all
	}
	set = append(set, add...)
	return slices.DeleteFunc(all, func(c string) bool {
		return !slices.Contains(set, c) || slices.Contains(drop, c) || !slices.Contains(hostCaps, c)
	}), nil
}

// capNames brings names to the form CAP_NAME; all tells that ALL was among them.
func capNames(names []string) (caps []string, all bool, err error) {
	known := AllCaps()
	for _, name := range names {
		name = strings.ToUpper(name)
		if name == "ALL" {
			all = true
			continue
		}
		c := "CAP_" + strings.TrimPrefix(name, "CAP_")
		if !slices.Contains(known, c) {
			return nil, false, errkind.New(errkind.InvalidArgument, "unknown capability %q", name)
		}
		caps = append(caps, c)
	}
	return caps, all, nil
}

// processCaps are the five sets of the first process. The inheritable set is
// empty but for what the ambient set needs: whatever is inheritable, a file
// of the image could raise (CVE-2022-24769).
func processCaps(sec *Security, hostCaps []string) (*specs.LinuxCapabilities, error) {
	bounding, err := Capabilities(sec, hostCaps)
	if err != nil {
		return nil, err
	}
	ambient, all, err := capNames(sec.CapAmbient)
	if err != nil {
		return nil, err
	}
	if all {
		ambient = slices.Clone(bounding)
	}
	for _, c := range ambient {
		if !slices.Contains(bounding, c) {
			return nil, errkind.New(errkind.InvalidArgument,
				"capability %s cannot be ambient: the container does not have it; add it too", c)
		}
	}
	slices.Sort(ambient)
	ambient = slices.Compact(ambient)
	return &specs.LinuxCapabilities{
		Bounding:    bounding,
		Effective:   slices.Clone(bounding),
		Permitted:   slices.Clone(bounding),
		Inheritable: slices.Clone(ambient),
		Ambient:     ambient,
	}, nil
}
