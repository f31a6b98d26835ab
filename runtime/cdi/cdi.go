// Package cdi puts devices of the Container Device Interface (CDI) into OCI
// specifications. A device is a name, VENDOR/CLASS=NAME; files in a few
// directories, which device plugins and administrators write, say what a
// container needs to use it: nodes, variables, mounts, groups and hooks.
//
// Law. Those files are trusted like our own configuration: their hooks run as
// root on the host. Hence only names out of CDI's own field of a request come
// here, never annotations, labels or anything of an image or a checkpoint
// (CVE-2026-53492). The files are read anew for each container that asks for
// devices, so that nothing needs watching and a new file counts at once.
package cdi

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Dirs are the directories of specification files, the most important last.
type Dirs []string

// hookSeconds bounds a hook that sets itself no limit. Without one, a hook that
// hangs would keep its container from being made, or removed, for ever.
const hookSeconds = 60

// Inject edits oci for the devices named. A name that is malformed is
// errkind.InvalidArgument, one that no file defines errkind.FailedPrecondition;
// oci is then as before.
func (d Dirs) Inject(oci *specs.Spec, names []string) error {
	if len(names) == 0 {
		return nil
	}
	for _, name := range names {
		if _, _, _, err := parser.ParseQualifiedName(name); err != nil {
			return errkind.New(errkind.InvalidArgument, "%q is no name of a CDI device such as vendor.com/class=name: %w", name, err)
		}
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(d...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("cannot read CDI specifications: %w", err)
	}
	unresolved, err := cache.InjectDevices(oci, names...)
	if len(unresolved) > 0 {
		return errkind.New(errkind.FailedPrecondition, "cannot find CDI device %s: no specification in %s defines it%s",
			strings.Join(unresolved, ", "), strings.Join(d, " or "), broken(cache))
	}
	if err != nil {
		return errkind.New(errkind.FailedPrecondition, "cannot use CDI devices %s: %w", strings.Join(names, ", "), err)
	}
	boundHooks(oci.Hooks)
	if oci.Linux != nil && slices.ContainsFunc(oci.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace }) {
		bindNodes(oci, cache, names)
	}
	return nil
}

// bindNodes binds the host's nodes for a user namespace, where nobody can make
// one. libcontainer would do so too, but from the path that the container is to
// see, which on the host may be another device or none.
func bindNodes(oci *specs.Spec, cache *cdi.Cache, names []string) {
	host := map[string]string{} // by the path in the container
	for _, name := range names {
		device := cache.GetDevice(name)
		for _, n := range slices.Concat(device.GetSpec().ContainerEdits.DeviceNodes, device.ContainerEdits.DeviceNodes) {
			host[n.Path] = cmp.Or(n.HostPath, n.Path)
		}
	}
	oci.Linux.Devices = slices.DeleteFunc(oci.Linux.Devices, func(d specs.LinuxDevice) bool {
		source, ours := host[d.Path]
		if ours {
			oci.Mounts = append(oci.Mounts, specs.Mount{Destination: d.Path, Type: "bind", Source: source, Options: []string{"bind", "rprivate"}})
		}
		return ours
	})
}

// broken tells of the files that could not be used: the device that is missed
// may be in one of them.
func broken(cache *cdi.Cache) string {
	var b strings.Builder
	all := cache.GetErrors()
	for _, path := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "; %s is not used: %v", path, all[path][0])
	}
	return b.String()
}

func boundHooks(h *specs.Hooks) {
	if h == nil {
		return
	}
	limit := hookSeconds
	for _, list := range [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop} { //nolint:staticcheck // CDI has the deprecated kind too
		for i := range list {
			if list[i].Timeout == nil {
				list[i].Timeout = &limit
			}
		}
	}
}
