package nri

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/api"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/cdi"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/device"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// adjust makes the changes that plugins ask for. What would break the laws of
// the house, or cannot be done here, is refused.
func adjust(oci *specs.Spec, a *api.ContainerAdjustment, devices cdi.Dirs) error {
	if a == nil {
		return nil
	}
	if err := doable(a.GetLinux()); err != nil {
		return err
	}
	if err := bindable(oci, a.GetLinux().GetDevices()); err != nil {
		return err
	}
	var names []string
	for _, d := range a.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	if err := devices.Inject(oci, names); err != nil {
		return err
	}
	if oci.Annotations = merged(oci.Annotations, a.GetAnnotations()); len(a.GetArgs()) > 0 {
		oci.Process.Args = a.GetArgs()
	}
	oci.Process.Env = environment(oci.Process.Env, a.GetEnv())
	for _, m := range a.GetMounts() {
		dst, gone := m.IsMarkedForRemoval()
		oci.Mounts = slices.DeleteFunc(oci.Mounts, func(old specs.Mount) bool { return old.Destination == dst })
		if !gone {
			oci.Mounts = append(oci.Mounts, m.ToOCI(nil))
		}
	}
	for _, l := range a.GetRlimits() {
		oci.Process.Rlimits = slices.DeleteFunc(oci.Process.Rlimits, func(old specs.POSIXRlimit) bool { return old.Type == l.GetType() })
		oci.Process.Rlimits = append(oci.Process.Rlimits, specs.POSIXRlimit{Type: l.GetType(), Hard: l.GetHard(), Soft: l.GetSoft()})
	}
	addHooks(oci, a.GetHooks())
	adjustLinux(oci, a.GetLinux())
	return nil
}

// doable refuses what has no place here.
func doable(l *api.LinuxContainerAdjustment) error {
	refuse := func(what, why string) error {
		return errkind.New(errkind.InvalidArgument, "it changes %s, which %s", what, why)
	}
	switch {
	case l.GetCgroupsPath() != "":
		return refuse("the cgroup's path", "tells the kubelet and berth whose it is")
	case len(l.GetNamespaces()) > 0:
		return refuse("namespaces", "are the pod's")
	case len(l.GetNetDevices()) > 0:
		return refuse("network devices", "only the pod's network has")
	case asksRDT(l.GetRdt()):
		return refuse("Intel RDT", "berth does not manage")
	}
	return classes(l.GetResources())
}

// bindable refuses a device for a user namespace, where nobody can make a node,
// unless the host has it under the same path: libcontainer binds what is there.
func bindable(oci *specs.Spec, devices []*api.LinuxDevice) error {
	if !slices.ContainsFunc(oci.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace }) {
		return nil
	}
	for _, d := range devices {
		if _, gone := d.IsMarkedForRemoval(); gone {
			continue
		}
		node, err := device.Stat(d.GetPath())
		if err != nil || node.Type != d.GetType() || node.Major != d.GetMajor() || node.Minor != d.GetMinor() {
			return errkind.New(errkind.InvalidArgument, "in a user namespace device %s must be what the host has at that path, and it is not %s %d:%d there",
				d.GetPath(), d.GetType(), d.GetMajor(), d.GetMinor())
		}
	}
	return nil
}

// asksRDT looks into r, which the library always makes.
func asksRDT(r *api.LinuxRdt) bool {
	return r.GetClosId() != nil || r.GetSchemata() != nil || r.GetEnableMonitoring() != nil || r.GetRemove()
}

// classes refuses classes: no configuration of berth says what they mean.
func classes(r *api.LinuxResources) error {
	if r.GetBlockioClass() != nil || r.GetRdtClass() != nil {
		return errkind.New(errkind.InvalidArgument, "it asks for a class of block I/O or RDT, and berth has none")
	}
	return nil
}

// merged lays changes over old; a marked key is removed.
func merged(old, changes map[string]string) map[string]string {
	if len(changes) == 0 {
		return old
	}
	out := maps.Clone(old)
	if out == nil {
		out = map[string]string{}
	}
	for k, v := range changes {
		if key, gone := api.IsMarkedForRemoval(k); gone {
			delete(out, key)
		} else {
			out[k] = v
		}
	}
	return out
}

// stillSet are the variables of env that now has too, whatever their values.
func stillSet(env, now []string) []string {
	names := map[string]bool{}
	for _, kv := range now {
		name, _, _ := strings.Cut(kv, "=")
		names[name] = true
	}
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return !names[name]
	})
}

// environment changes variables in their places and appends new ones.
func environment(env []string, changes []*api.KeyValue) []string {
	for _, kv := range changes {
		key, gone := kv.IsMarkedForRemoval()
		at := slices.IndexFunc(env, func(old string) bool { return strings.HasPrefix(old, key+"=") })
		switch {
		case gone && at >= 0:
			env = slices.Delete(env, at, at+1)
		case gone:
		case at >= 0:
			env[at] = kv.ToOCI()
		default:
			env = append(env, kv.ToOCI())
		}
	}
	return env
}

// hookSeconds bounds a hook that sets itself no limit.
const hookSeconds = 60

func addHooks(oci *specs.Spec, h *api.Hooks) {
	if h == nil {
		return
	}
	if oci.Hooks == nil {
		oci.Hooks = &specs.Hooks{}
	}
	add := func(to *[]specs.Hook, from []*api.Hook) {
		for _, hook := range from {
			made := hook.ToOCI()
			if made.Timeout == nil {
				limit := hookSeconds
				made.Timeout = &limit
			}
			*to = append(*to, made)
		}
	}
	add(&oci.Hooks.Prestart, h.GetPrestart()) //nolint:staticcheck // deprecated, and NRI has it
	add(&oci.Hooks.CreateRuntime, h.GetCreateRuntime())
	add(&oci.Hooks.CreateContainer, h.GetCreateContainer())
	add(&oci.Hooks.StartContainer, h.GetStartContainer())
	add(&oci.Hooks.Poststart, h.GetPoststart())
	add(&oci.Hooks.Poststop, h.GetPoststop())
}

func adjustLinux(oci *specs.Spec, l *api.LinuxContainerAdjustment) {
	if l == nil {
		return
	}
	linux := oci.Linux
	for _, d := range l.GetDevices() {
		path, gone := d.IsMarkedForRemoval()
		linux.Devices = slices.DeleteFunc(linux.Devices, func(old specs.LinuxDevice) bool { return old.Path == path })
		if gone {
			continue
		}
		made := d.ToOCI()
		linux.Devices = append(linux.Devices, made)
		linux.Resources.Devices = append(linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: made.Type, Major: &made.Major, Minor: &made.Minor, Access: d.AccessString()})
	}
	if score := l.GetOomScoreAdj(); score != nil {
		n := int(score.GetValue())
		oci.Process.OOMScoreAdj = &n
	}
	if p := l.GetIoPriority(); p != nil {
		oci.Process.IOPriority = p.ToOCI()
	}
	if s := l.GetScheduler(); s != nil {
		oci.Process.Scheduler = s.ToOCI()
	}
	if p := l.GetMemoryPolicy(); p != nil {
		linux.MemoryPolicy = p.ToOCI()
	}
	if s := l.GetSeccompPolicy(); s != nil {
		linux.Seccomp = seccomp(s)
	}
	linux.Sysctl = merged(linux.Sysctl, l.GetSysctl())
	adjustLimits(linux.Resources, l.GetResources())
}

func seccomp(s *api.LinuxSeccomp) *specs.LinuxSeccomp {
	out := &specs.LinuxSeccomp{DefaultAction: specs.LinuxSeccompAction(s.GetDefaultAction()), ListenerPath: s.GetListenerPath(),
		ListenerMetadata: s.GetListenerMetadata(), Syscalls: api.ToOCILinuxSyscalls(s.GetSyscalls())}
	if e := s.GetDefaultErrno(); e != nil {
		n := uint(e.GetValue())
		out.DefaultErrnoRet = &n
	}
	for _, a := range s.GetArchitectures() {
		out.Architectures = append(out.Architectures, specs.Arch(a))
	}
	for _, f := range s.GetFlags() {
		out.Flags = append(out.Flags, specs.LinuxSeccompFlag(f))
	}
	return out
}

// adjustLimits lays the limits that are set over those of the container. A
// memory limit forbids swap, like any that comes without one for swap.
func adjustLimits(to *specs.LinuxResources, r *api.LinuxResources) {
	if c := r.GetCpu(); c != nil {
		if to.CPU == nil {
			to.CPU = &specs.LinuxCPU{}
		}
		to.CPU.Shares = cmp.Or(c.GetShares().Get(), to.CPU.Shares)
		to.CPU.Quota = cmp.Or(c.GetQuota().Get(), to.CPU.Quota)
		to.CPU.Period = cmp.Or(c.GetPeriod().Get(), to.CPU.Period)
		to.CPU.RealtimeRuntime = cmp.Or(c.GetRealtimeRuntime().Get(), to.CPU.RealtimeRuntime)
		to.CPU.RealtimePeriod = cmp.Or(c.GetRealtimePeriod().Get(), to.CPU.RealtimePeriod)
		to.CPU.Cpus, to.CPU.Mems = cmp.Or(c.GetCpus(), to.CPU.Cpus), cmp.Or(c.GetMems(), to.CPU.Mems)
	}
	if limit := r.GetMemory().GetLimit().Get(); limit != nil && *limit != 0 {
		if to.Memory == nil {
			to.Memory = &specs.LinuxMemory{}
		}
		to.Memory.Limit = limit
		if cgroup.SwapLimit() {
			to.Memory.Swap = limit
		}
	}
	if p := r.GetPids(); p != nil {
		limit := p.GetLimit()
		to.Pids = &specs.LinuxPids{Limit: &limit}
	}
	for _, h := range r.GetHugepageLimits() {
		to.HugepageLimits = slices.DeleteFunc(to.HugepageLimits, func(old specs.LinuxHugepageLimit) bool { return old.Pagesize == h.GetPageSize() })
		to.HugepageLimits = append(to.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	to.Unified = merged(to.Unified, r.GetUnified())
}

// resources are limits that a plugin asks for, in our words.
func resources(r *api.LinuxResources) (spec.Resources, error) {
	if err := classes(r); err != nil {
		return spec.Resources{}, err
	}
	return spec.ResourcesOf(r.ToOCI()), nil
}
