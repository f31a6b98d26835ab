package spec

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// HasUserNamespace tells whether there is one besides the host's.
func (n *Namespaces) HasUserNamespace() bool { return n.User == ModePod }

// CheckUserNamespace refuses combinations that no kernel can have.
func (n *Namespaces) CheckUserNamespace() error {
	if n.HasUserNamespace() && n.PID == ModeNode {
		// /proc of the host cannot be mounted: that takes privilege over the
		// PID namespace.
		return errkind.New(errkind.InvalidArgument, "a user namespace goes with no PID namespace of the host's: use hostUsers: true, or hostPID: false")
	}
	return nil
}

// checkUserNamespace refuses a container whose user namespace is not its
// pod's, or which has users that the namespace has not.
func checkUserNamespace(in Input) error {
	pod, own := &in.Pod.Namespaces, &in.Container.Security.Namespaces
	if pod.HasUserNamespace() != own.HasUserNamespace() || pod.HasUserNamespace() && pod.IDs != own.IDs {
		return errkind.New(errkind.InvalidArgument, "its user namespace options are not those of its pod: they are %+v and %+v", own.IDs, pod.IDs)
	}
	if !own.HasUserNamespace() {
		return nil
	}
	if err := own.CheckUserNamespace(); err != nil {
		return err
	}
	if _, ok := own.IDs.UID.ToHost(in.User.UID); !ok {
		return errkind.New(errkind.InvalidArgument, "the pod's user namespace has no user %d: it has %d", in.User.UID, own.IDs.UID.Length)
	}
	for _, g := range append([]uint32{in.User.GID}, in.User.Groups...) {
		if _, ok := own.IDs.GID.ToHost(g); !ok {
			return errkind.New(errkind.InvalidArgument, "the pod's user namespace has no group %d: it has %d", g, own.IDs.GID.Length)
		}
	}
	return nil
}

// inUserNamespace changes the default mounts that the root of a user namespace
// may not make.
func inUserNamespace(mounts []specs.Mount, n *Namespaces) []specs.Mount {
	if !n.HasUserNamespace() {
		return mounts
	}
	for i, m := range mounts {
		switch {
		case m.Destination == "/sys" && n.Network == ModeNode:
			// Mounting sysfs takes privilege over the network namespace; the
			// host's can be bound, and then nothing of it may be written.
			mounts[i] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "rprivate", "rro", "nosuid", "nodev", "noexec"}}
		case m.Destination == "/dev/pts" && n.IDs.GID.Length <= ttyGroup:
			mounts[i].Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "gid=5" })
		}
	}
	return mounts
}

// ttyGroup is the group of terminals, whose number is 5 everywhere.
const ttyGroup = 5
