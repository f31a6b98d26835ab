package translate

import (
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/spec"
)

var fromMode = map[criv1.NamespaceMode]spec.NamespaceMode{
	criv1.NamespaceMode_POD:       spec.ModePod,
	criv1.NamespaceMode_CONTAINER: spec.ModeContainer,
	criv1.NamespaceMode_NODE:      spec.ModeNode,
	criv1.NamespaceMode_TARGET:    spec.ModeTarget,
}

// podNamespaces translates the options of a sandbox. Absent options mean POD
// for each kind, the zero value of CRI's enumeration.
func podNamespaces(o *criv1.NamespaceOption) (spec.Namespaces, error) {
	ns, err := sharedNamespaces(o)
	if err != nil {
		return spec.Namespaces{}, err
	}
	if ns.PID == spec.ModeTarget || o.GetTargetId() != "" {
		return spec.Namespaces{}, invalid("a pod cannot have the PID namespace of a target: that is for containers")
	}
	return ns, nil
}

// containerNamespaces translates the options of a container.
func containerNamespaces(o *criv1.NamespaceOption) (spec.Namespaces, error) {
	ns, err := sharedNamespaces(o)
	if err != nil {
		return spec.Namespaces{}, err
	}
	if ns.PID != spec.ModeTarget {
		return ns, nil // a target_id without TARGET means nothing, by CRI
	}
	if o.GetTargetId() == "" {
		return spec.Namespaces{}, invalid("PID namespace mode TARGET needs a target_id")
	}
	ns.TargetID = o.GetTargetId()
	return ns, nil
}

func sharedNamespaces(o *criv1.NamespaceOption) (spec.Namespaces, error) {
	ns := spec.Namespaces{Network: fromMode[o.GetNetwork()], PID: fromMode[o.GetPid()], IPC: fromMode[o.GetIpc()]}
	if ns.Network != spec.ModePod && ns.Network != spec.ModeNode {
		return ns, invalid("network namespace mode %s is not POD or NODE", o.GetNetwork())
	}
	if ns.IPC != spec.ModePod && ns.IPC != spec.ModeNode {
		return ns, invalid("IPC namespace mode %s is not POD or NODE", o.GetIpc())
	}
	if ns.PID == "" {
		return ns, invalid("unknown PID namespace mode %d", o.GetPid())
	}
	return ns, userNamespace(o.GetUsernsOptions())
}

// userNamespace accepts the absence of a user namespace, by nil (a kubelet
// that knows none) or by NODE. The shape of a wrong mapping is told before
// that a right one cannot be honoured, so that the caller mends it once.
func userNamespace(u *criv1.UserNamespace) error {
	if u == nil {
		return nil
	}
	switch u.Mode {
	case criv1.NamespaceMode_NODE:
		if len(u.Uids)+len(u.Gids) != 0 {
			return invalid("user namespace mode NODE takes no mappings")
		}
		return nil
	case criv1.NamespaceMode_POD:
		if err := idMapping("uid", u.Uids); err != nil {
			return err
		}
		if err := idMapping("gid", u.Gids); err != nil {
			return err
		}
		return unimplemented("user namespaces are not supported: use hostUsers: true")
	}
	return invalid("user namespace mode %s is not POD or NODE", u.Mode)
}

func idMapping(kind string, m []*criv1.IDMapping) error {
	if len(m) != 1 {
		return invalid("a user namespace needs exactly one %s mapping: got %d", kind, len(m))
	}
	if m[0].GetContainerId() != 0 || m[0].GetLength() == 0 {
		return invalid("the %s mapping must begin at container_id 0 and have a length: got %d and %d", kind, m[0].GetContainerId(), m[0].GetLength())
	}
	return nil
}

// namespaceOption is the reverse, for the echo in a pod's status.
func namespaceOption(ns spec.Namespaces) *criv1.NamespaceOption {
	o := &criv1.NamespaceOption{TargetId: ns.TargetID}
	for mode, name := range fromMode {
		if ns.Network == name {
			o.Network = mode
		}
		if ns.PID == name {
			o.Pid = mode
		}
		if ns.IPC == name {
			o.Ipc = mode
		}
	}
	return o
}
