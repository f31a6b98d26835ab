package spec

import (
	"fmt"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// MaxSeccompProfile bounds a profile in bytes. The default one, which names
// nearly every system call, has 20 KiB.
const MaxSeccompProfile = 1 << 20

// DefaultSeccomp is the filter of SeccompDefault for a container whose
// bounding set is caps: a capability lets the system calls pass that it is
// for. It also depends on the architecture and version of the kernel, which
// are the only facts in this package that do not come from an argument.
func DefaultSeccomp(caps []string) (*specs.LinuxSeccomp, error) {
	filter, err := seccomp.GetDefaultProfile(bounded(caps))
	if err != nil {
		return nil, fmt.Errorf("cannot make the default seccomp filter: %w", err)
	}
	return filter, nil
}

// ParseSeccompFile reads a profile of SeccompLocalhost, in Docker's form or
// OCI's, for a container whose bounding set is caps.
func ParseSeccompFile(data []byte, caps []string) (*specs.LinuxSeccomp, error) {
	if len(data) > MaxSeccompProfile {
		return nil, errkind.New(errkind.InvalidArgument,
			"cannot read the seccomp profile: it has %d bytes, at most %d are read", len(data), MaxSeccompProfile)
	}
	filter, err := seccomp.LoadProfile(string(data), bounded(caps))
	switch {
	case err != nil:
		return nil, errkind.New(errkind.InvalidArgument, "cannot read the seccomp profile: %w", err)
	case filter == nil || filter.DefaultAction == "":
		// Without this a profile of "{}" would mean no filter at all.
		return nil, errkind.New(errkind.InvalidArgument, "cannot use the seccomp profile: it has no defaultAction")
	case filter.ListenerPath != "" || notifies(filter):
		return nil, errkind.New(errkind.Unimplemented, "cannot use the seccomp profile: it wants a notification listener")
	}
	return filter, nil
}

func notifies(filter *specs.LinuxSeccomp) bool {
	for _, s := range filter.Syscalls {
		if s.Action == specs.ActNotify {
			return true
		}
	}
	return filter.DefaultAction == specs.ActNotify
}

func bounded(caps []string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
}
