package spec

import (
	"bytes"
	"runtime"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func allows(filter *specs.LinuxSeccomp, name string) bool {
	return slices.ContainsFunc(filter.Syscalls, func(s specs.LinuxSyscall) bool {
		return s.Action == specs.ActAllow && len(s.Args) == 0 && slices.Contains(s.Names, name)
	})
}

func TestDefaultSeccompFollowsCapabilities(t *testing.T) {
	t.Parallel()
	plain, err := DefaultSeccomp(DefaultCaps())
	if err != nil {
		t.Fatal(err)
	}
	admin, err := DefaultSeccomp(append(DefaultCaps(), "CAP_SYS_ADMIN"))
	if err != nil {
		t.Fatal(err)
	}
	if plain.DefaultAction != specs.ActErrno || !allows(plain, "read") || allows(plain, "mount") || !allows(admin, "mount") {
		t.Error("mount(2) does not follow CAP_SYS_ADMIN")
	}
}

// Each architecture has programs of 32 bits beside its own, and system calls
// that others lack. (What the numbers are is a test of runtime/shim, which
// links the library that knows them.)
func TestDefaultSeccompFollowsTheArchitecture(t *testing.T) {
	t.Parallel()
	type facts struct {
		arches []specs.Arch
		own    []string
	}
	all := map[string]facts{
		"amd64": {[]specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, []string{"arch_prctl", "modify_ldt"}},
		"arm64": {[]specs.Arch{specs.ArchAARCH64, specs.ArchARM},
			[]string{"arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"}},
	}
	filter, err := DefaultSeccomp(DefaultCaps())
	if err != nil {
		t.Fatal(err)
	}
	if want, known := all[runtime.GOARCH]; !known || !slices.Equal(filter.Architectures, want.arches) {
		t.Errorf("on %s it is for %v, not %v", runtime.GOARCH, filter.Architectures, want.arches)
	}
	for arch, f := range all {
		for _, name := range f.own {
			if allows(filter, name) != (arch == runtime.GOARCH) {
				t.Errorf("on %s it allows %s: %t", runtime.GOARCH, name, arch != runtime.GOARCH)
			}
		}
	}
}

func TestParseSeccompFile(t *testing.T) {
	t.Parallel()
	got, err := ParseSeccompFile([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
		"syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"},{"names":["a"],"action":"SCMP_ACT_LOG","includes":{"caps":["CAP_X"]}}]}`), nil)
	if err != nil || got.DefaultAction != specs.ActAllow || len(got.Syscalls) != 1 || got.Syscalls[0].Names[0] != "chmod" {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, data := range map[string]string{
		"nothing":           "",
		"empty object":      "{}",
		"no default action": `{"syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG"}]}`,
		"no JSON":           "unconfined",
		"wrong type":        `{"defaultAction":7}`,
		"both archs":        `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x"],"archMap":[{"architecture":"y"}]}`,
		"large":             string(bytes.Repeat([]byte(" "), MaxSeccompProfile)) + `{"defaultAction":"SCMP_ACT_ALLOW"}`,
	} {
		if _, err := ParseSeccompFile([]byte(data), nil); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
	if _, err := ParseSeccompFile([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x"}`), nil); !errkind.Is(err, errkind.Unimplemented) {
		t.Errorf("listener: %v, want Unimplemented", err)
	}
}
