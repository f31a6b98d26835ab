package pod

import (
	"fmt"
	"maps"
	"slices"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// handler finds the runtime handler of a name. A pod of a handler that the
// configuration lost is stopped and removed like any other, since only what
// makes a pod or a container looks here.
func (t *Table) handler(name string) (spec.Handler, error) {
	h, ok := t.cfg.Handlers[name]
	if ok || name == "" {
		return h, nil
	}
	known := "only the default one"
	if names := slices.Sorted(maps.Keys(t.cfg.Handlers)); len(names) > 0 {
		known = fmt.Sprintf("%q", names)
	}
	return spec.Handler{}, errkind.New(errkind.InvalidArgument, "runtime handler %q is not configured: there is %s", name, known)
}

// checkHandlers refuses what this machine cannot do.
func checkHandlers(all map[string]spec.Handler) error {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name].CgroupWritable && !cgroup.Unified() {
			return errkind.New(errkind.FailedPrecondition, "cannot use runtime handler %q: writable cgroups need cgroup v2, and this machine has v1", name)
		}
	}
	return nil
}
