package shim

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"weak"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// newProcess turns the process of a specification into libcontainer's.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return nil, errkind.New(errkind.InvalidArgument, "no command was given")
	}
	if !strings.HasPrefix(p.Cwd, "/") {
		return nil, errkind.New(errkind.InvalidArgument, "working directory %q is not an absolute path", p.Cwd)
	}
	lp := &libcontainer.Process{
		Args:            p.Args,
		Env:             p.Env,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		Cwd:             p.Cwd,
		Label:           p.SelinuxLabel,
		NoNewPrivileges: &p.NoNewPrivileges,
		AppArmorProfile: p.ApparmorProfile,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
	}
	if p.ConsoleSize != nil {
		lp.ConsoleWidth = uint16(p.ConsoleSize.Width)
		lp.ConsoleHeight = uint16(p.ConsoleSize.Height)
	}
	if caps := p.Capabilities; caps != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding:    caps.Bounding,
			Effective:   caps.Effective,
			Inheritable: caps.Inheritable,
			Permitted:   caps.Permitted,
			Ambient:     caps.Ambient,
		}
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	var err error
	if lp.Rlimits, err = rlimits(p.Rlimits); err != nil {
		return nil, err
	}
	lp.CPUAffinity, err = configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	return lp, err
}

var rlimitTypes = map[string]int{
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
}

// rlimits checks what the kernel would only refuse half way through a start,
// with a number for a name.
func rlimits(in []specs.POSIXRlimit) (out []configs.Rlimit, err error) {
	for _, r := range in {
		typ, ok := rlimitTypes[r.Type]
		if !ok {
			return nil, errkind.New(errkind.InvalidArgument, "resource limit %q does not exist", r.Type)
		}
		if r.Soft > r.Hard {
			return nil, errkind.New(errkind.InvalidArgument, "%s: the soft limit %d is above the hard limit %d", r.Type, r.Soft, r.Hard)
		}
		var own unix.Rlimit
		if err := unix.Getrlimit(typ, &own); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Type, err)
		}
		if r.Hard > own.Max && !hasSysResource() {
			return nil, errkind.New(errkind.FailedPrecondition,
				"%s: %d is above the shim's own hard limit %d, and it lacks CAP_SYS_RESOURCE to raise it", r.Type, r.Hard, own.Max)
		}
		out = append(out, configs.Rlimit{Type: typ, Hard: r.Hard, Soft: r.Soft})
	}
	return out, nil
}

// clampOOMScore raises a score that this process may not set. A start that
// fails for it would help nobody: the score only orders victims.
func clampOOMScore(p *specs.Process) error {
	if p.OOMScoreAdj == nil || hasSysResource() {
		return nil
	}
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return err
	}
	own, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil {
		return err
	}
	score := max(*p.OOMScoreAdj, own)
	p.OOMScoreAdj = &score
	return nil
}

// hasSysResource tells whether limits may be raised and scores lowered.
func hasSysResource() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// filterSet makes equal seccomp profiles one object, for as long as a
// container has it. Nothing changes a profile once it is converted.
type filterSet struct {
	mu     sync.Mutex
	byHash map[[sha256.Size]byte]weak.Pointer[configs.Seccomp] // guarded by mu
}

func (s *filterSet) get(p *specs.LinuxSeccomp) (*configs.Seccomp, error) {
	if p == nil {
		return nil, nil
	}
	if slices.Contains(p.Architectures, specs.ArchX32) && !hasX32() {
		thin := *p
		thin.Architectures = slices.DeleteFunc(slices.Clone(p.Architectures), func(a specs.Arch) bool { return a == specs.ArchX32 })
		p = &thin
	}
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	key := sha256.Sum256(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.byHash[key].Value(); f != nil {
		return f, nil
	}
	f, err := specconv.SetupSeccomp(p)
	if err != nil {
		return nil, errkind.New(errkind.InvalidArgument, "seccomp profile: %w", err)
	}
	if s.byHash == nil {
		s.byHash = make(map[[sha256.Size]byte]weak.Pointer[configs.Seccomp])
	}
	for k, w := range s.byHash {
		if w.Value() == nil {
			delete(s.byHash, k)
		}
	}
	if f != nil {
		s.byHash[key] = weak.Make(f)
	}
	return f, nil
}

// hasX32 tells whether the kernel runs x32 programs, by calling getpid as they
// do. Hardly any does, and every init and every exec compiles the filter
// anew: without the rules for x32, of an exec's 22 ms 6 are saved (measured).
// A call that no program could make is then fatal instead of ENOSYS.
func hasX32() bool {
	const x32Bit = 0x40000000
	if runtime.GOARCH != "amd64" {
		return true
	}
	_, _, e := unix.RawSyscall(unix.SYS_GETPID|x32Bit, 0, 0, 0)
	return e != unix.ENOSYS
}

// classify gives err the kind that its text tells: what happens in a
// container's init reaches us as text only.
func classify(err error) error {
	if errkind.Of(err) != errkind.Unknown {
		return err
	}
	if errors.Is(err, libcontainer.ErrExist) {
		return errkind.New(errkind.AlreadyExists, "%w", err)
	}
	if errors.Is(err, libcontainer.ErrNotRunning) {
		return errkind.New(errkind.FailedPrecondition, "%w", err)
	}
	if isOfProgram(err) {
		return errkind.New(errkind.InvalidArgument, "%w", err)
	}
	return err
}

// isOfProgram tells whether err says, in exec.LookPath's words, that the
// program is absent or is none.
func isOfProgram(err error) bool {
	_, why, ok := strings.Cut(err.Error(), "exec: ")
	return ok && slices.ContainsFunc([]string{"executable file not found", "no such file or directory", "permission denied", "is a directory"},
		func(words string) bool { return strings.Contains(why, words) })
}
