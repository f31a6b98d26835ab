package spec

import (
	"encoding/json"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func restorable() *specs.Spec {
	return &specs.Spec{
		Annotations: map[string]string{"a": "1"},
		Root:        &specs.Root{Path: "/run/a/rootfs", Readonly: true},
		Process: &specs.Process{Args: []string{"sleep", "600"}, Env: []string{"A=1"}, Cwd: "/", NoNewPrivileges: true,
			User:            specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{7}},
			Capabilities:    &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}},
			ApparmorProfile: "berth-default"},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/etc/hosts", Type: "bind", Source: "/run/a/hosts", Options: []string{"rbind", "ro"}}},
		Linux: &specs.Linux{CgroupsPath: "/a/b", MaskedPaths: []string{"/proc/kcore"},
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/run/netns/a"}},
			Resources:  &specs.LinuxResources{Unified: map[string]string{"memory.high": "max"}},
			Seccomp:    &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}},
	}
}

func TestWhatARestoreMayChange(t *testing.T) {
	t.Parallel()
	now := restorable()
	now.Annotations["a"] = "2"
	now.Root.Path, now.Hostname = "/run/b/rootfs", "other"
	now.Mounts[1].Source = "/run/b/hosts"
	now.Linux.CgroupsPath, now.Linux.Resources = "/c/d", nil
	now.Linux.Namespaces[1].Path = "/run/netns/b"
	before, _ := json.Marshal(now)
	if err := CheckRestorable(restorable(), now); err != nil {
		t.Error(err)
	}
	if after, _ := json.Marshal(now); string(after) != string(before) {
		t.Error("the comparison changed the specification")
	}
}

// Whatever a process would keep of the container that was saved.
func TestWhatARestoreMayNotChange(t *testing.T) {
	t.Parallel()
	for where, change := range map[string]func(*specs.Spec){
		"process.args[1]":                  func(s *specs.Spec) { s.Process.Args[1] = "60" },
		"process.args":                     func(s *specs.Spec) { s.Process.Args = s.Process.Args[:1] },
		"process.env[0]":                   func(s *specs.Spec) { s.Process.Env[0] = "A=2" },
		"process.cwd":                      func(s *specs.Spec) { s.Process.Cwd = "/tmp" },
		"process.user.uid":                 func(s *specs.Spec) { s.Process.User.UID = 1 },
		"process.user.additionalGids":      func(s *specs.Spec) { s.Process.User.AdditionalGids = nil },
		"process.noNewPrivileges":          func(s *specs.Spec) { s.Process.NoNewPrivileges = false },
		"process.capabilities.bounding[0]": func(s *specs.Spec) { s.Process.Capabilities.Bounding[0] = "CAP_CHOWN" },
		"process.capabilities.ambient":     func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_KILL"} },
		"process.apparmorProfile":          func(s *specs.Spec) { s.Process.ApparmorProfile = "" },
		"process.selinuxLabel":             func(s *specs.Spec) { s.Process.SelinuxLabel = "a:b:c:s0" },
		"process.rlimits":                  func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}} },
		"root.readonly":                    func(s *specs.Spec) { s.Root.Readonly = false },
		"mounts[1].options[1]":             func(s *specs.Spec) { s.Mounts[1].Options = []string{"rbind", "rw"} },
		"mounts[1].destination":            func(s *specs.Spec) { s.Mounts[1].Destination = "/etc" },
		"mounts[0].source":                 func(s *specs.Spec) { s.Mounts[0].Source = "other" },
		"mounts":                           func(s *specs.Spec) { s.Mounts = s.Mounts[:1] },
		"linux.maskedPaths":                func(s *specs.Spec) { s.Linux.MaskedPaths = nil },
		"linux.readonlyPaths":              func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/proc/sys"} },
		"linux.namespaces[0].path":         func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" },
		"linux.namespaces[1].path":         func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "" },
		"linux.seccomp":                    func(s *specs.Spec) { s.Linux.Seccomp = nil },
		"linux.seccomp.defaultAction":      func(s *specs.Spec) { s.Linux.Seccomp.DefaultAction = specs.ActAllow },
		"linux.devices":                    func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x"}} },
		"linux.uidMappings":                func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"hooks":                            func(s *specs.Spec) { s.Hooks = &specs.Hooks{} },
	} {
		now := restorable()
		change(now)
		err := CheckRestorable(restorable(), now)
		if !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), where) {
			t.Errorf("%s: %v", where, err)
		}
		if err := CheckRestorable(now, restorable()); err == nil {
			t.Errorf("%s: the other way round it may differ", where)
		}
	}
}
