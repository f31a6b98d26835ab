package pod

import (
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
)

// userns is the user namespace of a pod, which owns its network, IPC and UTS
// namespaces; nil: the host's.
func (t *Table) userns(p *Pod) *idmap.Pinned {
	if p.config.Namespaces.User != spec.ModePod {
		return nil
	}
	return &idmap.Pinned{Map: p.config.Namespaces.IDs, Path: t.nsPath(p.id, "user")}
}
