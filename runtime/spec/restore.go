package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// CheckRestorable compares the specification that a container was saved with to
// that which one is restored with. The processes come back with what they had:
// their program and variables, credentials, capabilities, filters, limits,
// mounts and namespaces. So all of that must be the same, or a restore would
// quietly give what the new configuration does not. What the restoring node
// decides may differ: where things are on it, the cgroup and its limits, and
// annotations. A difference is errkind.FailedPrecondition and names the first.
func CheckRestorable(saved, now *specs.Spec) error {
	if saved.Hooks != nil || now.Hooks != nil {
		return errkind.New(errkind.FailedPrecondition, "it has hooks of CDI devices or plugins, which ran in the container that was saved")
	}
	was, err := kept(saved)
	if err != nil {
		return err
	}
	is, err := kept(now)
	if err != nil {
		return err
	}
	if at, a, b := firstDifference("", was, is); at != "" {
		return errkind.New(errkind.FailedPrecondition, "it was saved with %s = %.200s and is to be restored with %.200s, which its processes would not have", at, a, b)
	}
	return nil
}

// kept is, as JSON has it, what a restore must find the same.
func kept(s *specs.Spec) (any, error) {
	c := *s
	c.Annotations, c.Hostname, c.Root = nil, "", nil
	if s.Root != nil {
		c.Root = &specs.Root{Readonly: s.Root.Readonly}
	}
	c.Mounts = slices.Clone(s.Mounts)
	for i, m := range c.Mounts {
		if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
			c.Mounts[i].Source = ""
		}
	}
	if s.Linux != nil {
		l := *s.Linux
		l.CgroupsPath, l.Resources = "", nil
		l.Namespaces = slices.Clone(l.Namespaces)
		for i, ns := range l.Namespaces {
			if ns.Path != "" {
				l.Namespaces[i].Path = "the pod's"
			}
		}
		c.Linux = &l
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var out any
	return out, json.Unmarshal(b, &out)
}

// firstDifference finds where two values of JSON differ first, and how.
func firstDifference(at string, a, b any) (where, was, is string) {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			break
		}
		keys := slices.Collect(maps.Keys(x))
		for k := range y {
			if _, both := x[k]; !both {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			if where, was, is := firstDifference(at+"."+k, x[k], y[k]); where != "" {
				return where, was, is
			}
		}
		return "", "", ""
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			break
		}
		for i := range x {
			if where, was, is := firstDifference(fmt.Sprintf("%s[%d]", at, i), x[i], y[i]); where != "" {
				return where, was, is
			}
		}
		return "", "", ""
	default:
		if a == b {
			return "", "", ""
		}
	}
	if len(at) > 0 {
		at = at[1:]
	}
	return at, text(a), text(b)
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
