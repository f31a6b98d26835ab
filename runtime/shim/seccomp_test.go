//go:build seccomp

package shim_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/moby/profiles/seccomp"
	lcseccomp "github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What a filter is asked about: the AUDIT_ARCH_* of linux/audit.h.
const (
	archX86_64  = 0xc000003e
	archX86     = 0x40000003
	archAARCH64 = 0xc00000b7
	archARM     = 0x40000028
)

// What it answers, of linux/seccomp.h.
const (
	killed  = 0x00000000
	refused = 0x00050000
	allowed = 0x7fff0000
)

// The default filter of either architecture, made by the library that the shim
// links, on whichever of the two this is: what it answers to system calls by
// their numbers there, which are other numbers for the same calls.
func TestDefaultSeccompOfEachArchitecture(t *testing.T) {
	for _, m := range []struct {
		goarch string
		arches []specs.Arch
		calls  []systemCall
	}{
		{"amd64", []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, []systemCall{
			{"read", archX86_64, 0, 0, allowed},
			{"openat", archX86_64, 257, 0, allowed},
			{"arch_prctl", archX86_64, 158, 0, allowed},
			{"mount", archX86_64, 165, 0, refused | uint32(unix.EPERM)},
			{"unshare", archX86_64, 272, 0, refused | uint32(unix.EPERM)},
			{"clone of a process", archX86_64, 56, uint64(unix.SIGCHLD), allowed},
			{"clone of a user namespace", archX86_64, 56, unix.CLONE_NEWUSER, refused | uint32(unix.EPERM)},
			{"clone3", archX86_64, 435, 0, refused | uint32(unix.ENOSYS)},
			{"personality of Linux", archX86_64, 135, 0, allowed},
			{"personality of another", archX86_64, 135, 1, refused | uint32(unix.EPERM)},
			{"read of 32 bits", archX86, 3, 0, allowed},
			{"mount of 32 bits", archX86, 21, 0, refused | uint32(unix.EPERM)},
			{"read of arm64", archAARCH64, 63, 0, killed},
		}},
		{"arm64", []specs.Arch{specs.ArchAARCH64, specs.ArchARM}, []systemCall{
			{"read", archAARCH64, 63, 0, allowed},
			{"openat", archAARCH64, 56, 0, allowed},
			{"mount", archAARCH64, 40, 0, refused | uint32(unix.EPERM)},
			{"unshare", archAARCH64, 97, 0, refused | uint32(unix.EPERM)},
			{"clone of a process", archAARCH64, 220, uint64(unix.SIGCHLD), allowed},
			{"clone of a user namespace", archAARCH64, 220, unix.CLONE_NEWUSER, refused | uint32(unix.EPERM)},
			{"clone3", archAARCH64, 435, 0, refused | uint32(unix.ENOSYS)},
			{"personality of Linux", archAARCH64, 92, 0, allowed},
			{"personality of another", archAARCH64, 92, 1, refused | uint32(unix.EPERM)},
			{"read of 32 bits", archARM, 3, 0, allowed},
			{"sync_file_range2 of 32 bits", archARM, 341, 0, allowed},
			{"cacheflush of 32 bits", archARM, 0xf0002, 0, allowed},
			{"set_tls of 32 bits", archARM, 0xf0005, 0, allowed},
			{"mount of 32 bits", archARM, 21, 0, refused | uint32(unix.EPERM)},
			{"read of amd64", archX86_64, 0, 0, killed},
		}},
	} {
		profile := defaultProfile(t, m.goarch)
		if !slices.Equal(profile.Architectures, m.arches) {
			t.Errorf("%s: it is for %v, not %v", m.goarch, profile.Architectures, m.arches)
		}
		filter := program(t, profile)
		for _, c := range m.calls {
			answer, err := filter.Run(c.asked())
			if err != nil {
				t.Fatal(err)
			}
			if uint32(answer) != c.want {
				t.Errorf("%s: %s (%d): the answer is %#x, not %#x", m.goarch, c.name, c.number, answer, c.want)
			}
		}
	}
}

type systemCall struct {
	name   string
	arch   uint32
	number uint32
	first  uint64 // argument
	want   uint32
}

// asked is the seccomp_data of c. The words are big-endian, as bpf.VM reads
// them; the kernel's are the machine's own.
func (c systemCall) asked() []byte {
	var b []byte
	for _, word := range []uint32{c.number, c.arch, 0, 0, uint32(c.first), uint32(c.first >> 32)} {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	return append(b, make([]byte, 5*8)...)
}

// defaultProfile is the default of a container without capabilities on another
// machine than this, perhaps. On this one it is what the daemon uses.
func defaultProfile(t *testing.T, goarch string) *specs.LinuxSeccomp {
	t.Helper()
	all := seccomp.DefaultProfile()
	profile := all.LinuxSeccomp
	native := map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}[goarch]
	for _, a := range all.ArchMap {
		if a.Arch == native {
			profile.Architectures = append([]specs.Arch{a.Arch}, a.SubArches...)
		}
	}
	for _, s := range all.Syscalls {
		in, out := s.Includes, s.Excludes
		switch {
		case in != nil && (len(in.Caps) > 0 || len(in.Arches) > 0 && !slices.Contains(in.Arches, goarch)):
		case out != nil && slices.Contains(out.Arches, goarch):
		default:
			profile.Syscalls = append(profile.Syscalls, s.LinuxSyscall)
		}
	}
	if goarch == runtime.GOARCH {
		own, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
		if err != nil || !reflect.DeepEqual(own, &profile) {
			t.Errorf("%s: its own default is %+v, %v; not %+v", goarch, own, err, profile)
		}
	}
	return &profile
}

// program compiles a profile for its architectures only. A rule is added by
// the number here, which the library translates.
func program(t *testing.T, profile *specs.LinuxSeccomp) *bpf.VM {
	t.Helper()
	actions := map[specs.LinuxSeccompAction]libseccomp.ScmpAction{specs.ActAllow: libseccomp.ActAllow, specs.ActErrno: libseccomp.ActErrno}
	operators := map[specs.LinuxSeccompOperator]libseccomp.ScmpCompareOp{
		specs.OpEqualTo: libseccomp.CompareEqual, specs.OpNotEqual: libseccomp.CompareNotEqual, specs.OpMaskedEqual: libseccomp.CompareMaskedEqual,
		specs.OpLessThan: libseccomp.CompareLess, specs.OpLessEqual: libseccomp.CompareLessOrEqual,
		specs.OpGreaterThan: libseccomp.CompareGreater, specs.OpGreaterEqual: libseccomp.CompareGreaterEqual,
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	filter, err := libseccomp.NewFilter(libseccomp.ActErrno.SetReturnCode(int16(*profile.DefaultErrnoRet)))
	must(err)
	defer filter.Release()
	native, err := libseccomp.GetNativeArch()
	must(err)
	must(filter.RemoveArch(native))
	for _, name := range profile.Architectures {
		text, err := lcseccomp.ConvertStringToArch(string(name))
		must(err)
		arch, err := libseccomp.GetArchFromString(text)
		must(err)
		must(filter.AddArch(arch))
	}
	for _, s := range profile.Syscalls {
		action, known := actions[s.Action]
		if !known {
			t.Fatalf("the profile has the action %s", s.Action)
		}
		if s.ErrnoRet != nil {
			action = action.SetReturnCode(int16(*s.ErrnoRet))
		}
		var conditions []libseccomp.ScmpCondition
		for _, a := range s.Args {
			operator, known := operators[a.Op]
			if !known {
				t.Fatalf("the profile has the operator %s", a.Op)
			}
			c, err := libseccomp.MakeCondition(a.Index, operator, a.Value, a.ValueTwo)
			must(err)
			conditions = append(conditions, c)
		}
		for _, name := range s.Names {
			number, err := libseccomp.GetSyscallFromName(name)
			if err != nil {
				continue // newer than the library; libcontainer passes over it too
			}
			if len(conditions) == 0 {
				must(filter.AddRule(number, action))
			} else {
				must(filter.AddRuleConditional(number, action, conditions))
			}
		}
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "filter"))
	must(err)
	defer file.Close()
	must(filter.ExportBPF(file))
	code, err := os.ReadFile(file.Name())
	must(err)
	var raw []bpf.RawInstruction
	for ; len(code) > 0; code = code[8:] { // struct sock_filter
		raw = append(raw, bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(code), Jt: code[2], Jf: code[3], K: binary.NativeEndian.Uint32(code[4:]),
		})
	}
	instructions, complete := bpf.Disassemble(raw)
	if !complete {
		t.Fatal("the filter has instructions that are none of BPF's")
	}
	vm, err := bpf.NewVM(instructions)
	must(err)
	return vm
}
