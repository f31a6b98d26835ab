package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestLawsOfEverySpec builds every combination of the switches that bear on a
// container's confinement and expects of each what must always hold (T-SPEC).
func TestLawsOfEverySpec(t *testing.T) {
	t.Parallel()
	switches := []func(*Input){
		func(in *Input) { in.Pod.Privileged, in.Container.Security.Privileged = true, true },
		func(in *Input) { in.CgroupV2 = true },
		func(in *Input) { in.Handler.CgroupWritable = true },
		func(in *Input) { in.Handler.NoHostDevices = true },
		func(in *Input) { in.Handler.OpenDevices = true },
		func(in *Input) {
			in.Handler.PodAnnotations, in.Handler.ContainerAnnotations = []string{"*", "*/*"}, []string{"*", "*/*"}
		},
		func(in *Input) { in.Container.Security.CapAdd = []string{"ALL"} },
		func(in *Input) { in.Container.Security.RunAsUser = new(int64) },
		func(in *Input) {
			in.Container.Security.Namespaces = Namespaces{Network: ModeNode, PID: ModeNode, IPC: ModeNode}
		},
		func(in *Input) { in.Container.Security.MaskedPaths, in.Container.Security.ReadonlyPaths = nil, nil },
	}
	for set := range 1 << len(switches) {
		in := input()
		in.HostDevices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}
		in.Container.Security.Seccomp, in.Seccomp = &Seccomp{Mode: SeccompDefault}, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
		in.Pod.Annotations = map[string]string{"org.systemd.property.Slice": "'-.slice'", "org.criu.config": "x"}
		in.Container.Annotations = in.Pod.Annotations
		for i, turn := range switches {
			if set&(1<<i) != 0 {
				turn(&in)
			}
		}
		for _, broken := range brokenLaws(&in, mustBuild(t, in)) {
			t.Errorf("switches %0*b: %s", len(switches), set, broken)
		}
	}
}

// brokenLaws lists what s has and must not have, whatever was asked for.
func brokenLaws(in *Input, s *specs.Spec) (out []string) {
	law := func(holds bool, format string, args ...any) {
		if !holds {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	sec, privileged := &in.Container.Security, in.Container.Security.Privileged
	caps := s.Process.Capabilities
	law(len(caps.Inheritable)+len(caps.Ambient) == 0, "inheritable %v, ambient %v, and none asked for", caps.Inheritable, caps.Ambient)
	law(!slices.ContainsFunc(caps.Bounding, func(c string) bool { return !slices.Contains(in.HostCaps, c) }), "capabilities that the host lacks")
	law(slices.Contains(s.Process.User.AdditionalGids, s.Process.User.GID), "groups %v without the primary one", s.Process.User.AdditionalGids)
	law(s.Linux.CgroupsPath == in.CgroupPath, "cgroup %s", s.Linux.CgroupsPath)
	law(s.Process.OOMScoreAdj != nil, "the daemon's own OOM score is inherited")

	own := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace && n.Path == "" })
	law(own == (in.CgroupV2 && !privileged), "a cgroup namespace of its own: %v", own)
	groups := s.Mounts[slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/sys/fs/cgroup" })]
	law(slices.Contains(groups.Options, "ro") || privileged || own && in.Handler.CgroupWritable, "writable cgroups (CVE-2023-25809)")

	rules := s.Linux.Resources.Devices
	open := privileged && (!in.Handler.NoHostDevices || in.Handler.OpenDevices)
	law(!rules[0].Allow && rules[0].Type == "" && rules[0].Access == "rwm" || open, "the devices are not denied first: %+v", rules[0])
	law(len(s.Linux.Devices) == 0 || privileged && !in.Handler.NoHostDevices, "the host's devices")

	law(privileged || s.Linux.Seccomp != nil, "no filter")
	law(privileged || slices.Equal(s.Linux.MaskedPaths, sec.MaskedPaths) && slices.Equal(s.Linux.ReadonlyPaths, sec.ReadonlyPaths), "other masked paths")
	law(s.Hooks == nil, "hooks")
	for key := range s.Annotations {
		law(strings.HasPrefix(key, "io.kubernetes.cri."), "annotation %s", key)
	}
	return out
}

// T-TAINT: TestTaint sets every field of an image's configuration, also those that are
// new, and expects that only the process's words differ: never its user or
// its capabilities, and nothing outside of it.
func TestTaint(t *testing.T) {
	t.Parallel()
	in := input()
	clean := mustBuild(t, in)
	in.Image = new(ImageConfig)
	taint(reflect.ValueOf(in.Image).Elem())
	tainted := mustBuild(t, in)
	if want := []string{evil, "/proc", evil, "/proc"}; !slices.Equal(tainted.Process.Args, want) {
		t.Errorf("args %q, want %q: the taint does not reach what it may", tainted.Process.Args, want)
	}
	for _, s := range []*specs.Spec{clean, tainted} {
		s.Process.Args, s.Process.Env, s.Process.Cwd = nil, nil, ""
	}
	if !reflect.DeepEqual(clean, tainted) {
		text, _ := json.Marshal(tainted)
		t.Errorf("the image changed more than the process: %s", text)
	}
}

const evil = "EVIL"

// taint fills a structure with the sentinel, and maps with keys that other
// runtimes have acted upon.
func taint(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); f.Interface().(type) {
		case string:
			f.SetString(evil)
		case []string:
			f.Set(reflect.ValueOf([]string{evil, "/proc"}))
		case map[string]string:
			f.Set(reflect.ValueOf(map[string]string{
				evil: evil, "io.kubernetes.cri.container-type": "sandbox", "cdi.k8s.io/x": "vendor/class=all", "org.systemd.property.Slice": evil,
			}))
		default:
			panic("say how to taint a field of type " + f.Type().String())
		}
	}
}
