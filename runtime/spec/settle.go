package spec

import (
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Settle holds a specification that hooks have changed to what Build itself
// keeps: it refuses what cannot be, and orders the mounts so that none hides
// another. Hooks are the node's and may give a container what the host has;
// what they say must be well formed all the same.
func Settle(oci *specs.Spec) error {
	if err := checkProcess(oci.Process); err != nil {
		return err
	}
	for i := range oci.Mounts {
		dst := path.Clean(oci.Mounts[i].Destination)
		if !path.IsAbs(dst) || dst == "/" || hasNUL(dst) {
			return errkind.New(errkind.InvalidArgument, "%q is no place for a mount", oci.Mounts[i].Destination)
		}
		oci.Mounts[i].Destination = dst
	}
	sortMounts(oci.Mounts)
	oci.Linux.RootfsPropagation = rootfsPropagation(oci.Mounts)
	for _, d := range oci.Linux.Devices {
		if !path.IsAbs(d.Path) || hasNUL(d.Path) || !slices.Contains([]string{"b", "c", "u", "p"}, d.Type) {
			return errkind.New(errkind.InvalidArgument, "%q of type %q is no device node", d.Path, d.Type)
		}
	}
	if h := oci.Hooks; h != nil {
		for _, hook := range slices.Concat(h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop) { //nolint:staticcheck // Prestart is deprecated, and still run
			if !path.IsAbs(hook.Path) || hasNUL(hook.Path) {
				return errkind.New(errkind.InvalidArgument, "hook %q is not an absolute path", hook.Path)
			}
		}
	}
	return nil
}

func checkProcess(p *specs.Process) error {
	if len(p.Args) == 0 || p.Args[0] == "" || slices.ContainsFunc(p.Args, hasNUL) {
		return errkind.New(errkind.InvalidArgument, "the command line %q is empty or has a NUL byte", p.Args)
	}
	for _, kv := range p.Env {
		if strings.IndexByte(kv, '=') < 1 || hasNUL(kv) {
			return errkind.New(errkind.InvalidArgument, "%q is not a variable of an environment", kv)
		}
	}
	for _, l := range p.Rlimits {
		if !strings.HasPrefix(l.Type, "RLIMIT_") || l.Soft > l.Hard {
			return errkind.New(errkind.InvalidArgument, "%s=%d:%d is no resource limit", l.Type, l.Soft, l.Hard)
		}
	}
	if s := p.OOMScoreAdj; s != nil && (*s < -1000 || *s > 1000) {
		return errkind.New(errkind.InvalidArgument, "oom_score_adj %d is not in -1000 to 1000", *s)
	}
	return nil
}

// ResourcesOf is what LinuxResources makes its result of. Limits that have no
// field in Resources are left out.
func ResourcesOf(l *specs.LinuxResources) Resources {
	var r Resources
	if l == nil {
		return r
	}
	if c := l.CPU; c != nil {
		r.CPUShares, r.CPUPeriod, r.CPUQuota = signed(c.Shares), signed(c.Period), value(c.Quota)
		r.CpusetCPUs, r.CpusetMems = c.Cpus, c.Mems
	}
	if m := l.Memory; m != nil {
		r.Memory, r.MemorySwap = value(m.Limit), value(m.Swap)
	}
	if l.Pids != nil {
		r.PidsLimit = value(l.Pids.Limit)
	}
	for _, h := range l.HugepageLimits {
		if r.Hugepages == nil {
			r.Hugepages = map[string]uint64{}
		}
		r.Hugepages[h.Pagesize] = h.Limit
	}
	r.Unified = maps.Clone(l.Unified)
	return r
}

// value is 0, not set, for nil.
func value(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

func signed(p *uint64) int64 {
	if p == nil {
		return 0
	}
	return int64(min(*p, math.MaxInt64))
}
