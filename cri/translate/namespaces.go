package translate

import (
	"math"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
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
	var err error
	ns.User, ns.IDs, err = userNamespace(o.GetUsernsOptions())
	return ns, err
}

// userNamespace translates the choice of a user namespace. Its absence, by nil
// (a kubelet that knows none) or by NODE, means the host's.
func userNamespace(u *criv1.UserNamespace) (mode spec.NamespaceMode, ids idmap.Map, err error) {
	if u == nil {
		return "", ids, nil
	}
	switch u.Mode {
	case criv1.NamespaceMode_NODE:
		if len(u.Uids)+len(u.Gids) != 0 {
			return "", ids, invalid("user namespace mode NODE takes no mappings")
		}
		return spec.ModeNode, ids, nil
	case criv1.NamespaceMode_POD:
		ids, err = idMap("a user namespace", u.Uids, u.Gids)
		return spec.ModePod, ids, err
	}
	return "", ids, invalid("user namespace mode %s is not POD or NODE", u.Mode)
}

// idMap translates the mappings of what, of which there must be one for each
// kind of id, as the kubelet sends them.
func idMap(what string, uids, gids []*criv1.IDMapping) (m idmap.Map, err error) {
	if m.UID, err = idRange(what, "uid", uids); err != nil {
		return m, err
	}
	m.GID, err = idRange(what, "gid", gids)
	return m, err
}

func idRange(what, kind string, m []*criv1.IDMapping) (idmap.Range, error) {
	if len(m) != 1 {
		return idmap.Range{}, invalid("%s needs exactly one %s mapping: got %d", what, kind, len(m))
	}
	r := idmap.Range{Host: m[0].GetHostId(), Length: m[0].GetLength()}
	if m[0].GetContainerId() != 0 || r.Length == 0 {
		return r, invalid("the %s mapping of %s must begin at container_id 0 and have a length: got %d and %d", kind, what, m[0].GetContainerId(), r.Length)
	}
	// The last number is no id: it means "unchanged" to the kernel.
	if r.Length > math.MaxUint32-r.Host {
		return r, invalid("the %s mapping of %s goes beyond the last id of the host: %d from %d", kind, what, r.Length, r.Host)
	}
	return r, nil
}

// criRange is the reverse of idRange.
func criRange(r idmap.Range) []*criv1.IDMapping {
	return []*criv1.IDMapping{{HostId: r.Host, Length: r.Length}}
}

// namespaceOption is the reverse, for the echo in a pod's status.
func namespaceOption(ns spec.Namespaces) *criv1.NamespaceOption {
	o := &criv1.NamespaceOption{TargetId: ns.TargetID}
	switch ns.User {
	case spec.ModePod:
		o.UsernsOptions = &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: criRange(ns.IDs.UID), Gids: criRange(ns.IDs.GID)}
	case spec.ModeNode:
		o.UsernsOptions = &criv1.UserNamespace{Mode: criv1.NamespaceMode_NODE}
	}
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
