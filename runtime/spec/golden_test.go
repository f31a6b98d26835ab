package spec

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/idmap"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldens are the T-SPEC matrix: each case changes the ordinary container of
// input in one respect, and its file in testdata shows all that comes of it.
// Beside a case stand the vulnerabilities of other runtimes that it is about.
func goldens() map[string]func(*Input) {
	sec := func(change func(*Security)) func(*Input) {
		return func(in *Input) { change(&in.Container.Security) }
	}
	privileged := func(in *Input) {
		in.Pod.Privileged, in.Container.Security.Privileged = true, true
		in.HostDevices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}
	}
	uid, gid := int64(1000), int64(2000)
	return map[string]func(*Input){
		"plain": func(*Input) {},

		// Capabilities. CVE-2016-8867, CVE-2018-1000400, CVE-2022-29162,
		// CVE-2022-24769, GHSA-c9cp-9c75-9v8c, CVE-2022-27649, -27651, -27652,
		// CVE-2018-10856: nothing ambient or inheritable that was not asked for.
		"caps-add":     sec(func(s *Security) { s.CapAdd = []string{"NET_ADMIN", "cap_sys_ptrace"} }),
		"caps-drop":    sec(func(s *Security) { s.CapDrop = []string{"ALL"} }),
		"caps-all":     sec(func(s *Security) { s.CapAdd, s.CapDrop = []string{"ALL"}, []string{"SYS_ADMIN"} }),
		"caps-ambient": sec(func(s *Security) { s.CapAdd, s.CapAmbient = []string{"NET_ADMIN"}, []string{"NET_ADMIN"} }),
		"caps-of-host": func(in *Input) {
			in.HostCaps, in.Container.Security.CapAdd = []string{"CAP_CHOWN", "CAP_KILL"}, []string{"ALL"}
		},

		// Confinement. CVE-2019-16884, CVE-2015-3630: what is masked is what was
		// asked for, and an empty list masks nothing.
		"unmasked": sec(func(s *Security) { s.MaskedPaths, s.ReadonlyPaths = []string{}, []string{} }),
		"confined": func(in *Input) {
			s := &in.Container.Security
			s.NoNewPrivs, s.ReadonlyRootfs, in.AppArmor = true, true, "berth-default"
			s.Seccomp, in.Seccomp = &Seccomp{Mode: SeccompDefault}, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
		},

		// A privileged container has all of the host but its namespaces.
		"privileged": func(in *Input) {
			privileged(in)
			s := &in.Container.Security
			in.AppArmor, s.Seccomp, in.Seccomp = "ignored", &Seccomp{Mode: SeccompDefault}, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
		},
		"privileged-v2":              func(in *Input) { privileged(in); in.CgroupV2 = true },
		"privileged-without-devices": func(in *Input) { privileged(in); in.Handler.NoHostDevices = true },
		"privileged-open-devices":    func(in *Input) { privileged(in); in.Handler.NoHostDevices, in.Handler.OpenDevices = true, true },

		// Devices. GHSA-g54h-m393-cpwq: all are denied, then some allowed.
		"devices": func(in *Input) {
			in.Container.Devices = []Device{{HostPath: "/dev/dri", ContainerPath: "/dev/dri", Permissions: "rw"}, {HostPath: "/dev/fuse", ContainerPath: "/dev/f", Permissions: "r"}}
			in.Devices = []HostDevice{{LinuxDevice: specs.LinuxDevice{Path: "/dev/dri/card0", Type: "c", Major: 226}, HostPath: "/dev/dri/card0"}, {LinuxDevice: specs.LinuxDevice{Path: "/dev/f", Type: "c", Major: 10, Minor: 229}, HostPath: "/dev/f"}}
		},
		"device-ownership": func(in *Input) {
			in.Handler.DeviceOwnership = true
			in.Container.Security.RunAsUser, in.Container.Security.RunAsGroup = &uid, &gid
			in.Container.Devices = []Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rw"}}
			in.Devices = []HostDevice{{LinuxDevice: specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}, HostPath: "/dev/fuse"}}
		},

		// Namespaces. CVE-2023-25809: without a cgroup namespace cgroups are not
		// writable, whatever the handler says. CVE-2025-47291: the cgroup is the
		// pod's also in a user namespace.
		"host": func(in *Input) {
			in.Container.Security.Namespaces = Namespaces{Network: ModeNode, PID: ModeNode, IPC: ModeNode}
			in.NamespacePaths = nil
		},
		"pid-shared": func(in *Input) {
			in.Container.Security.Namespaces.PID = ModePod
			in.NamespacePaths[specs.PIDNamespace] = "/proc/7/ns/pid"
		},
		"v2":                 func(in *Input) { in.CgroupV2 = true },
		"cgroup-writable":    func(in *Input) { in.Handler.CgroupWritable = true },
		"cgroup-writable-v2": func(in *Input) { in.Handler.CgroupWritable, in.CgroupV2 = true, true },
		"user-namespace": func(in *Input) {
			ids := idmap.Range{Host: 100000, Length: 65536}
			for _, ns := range []*Namespaces{&in.Pod.Namespaces, &in.Container.Security.Namespaces} {
				ns.User, ns.IDs = ModePod, idmap.Map{UID: ids, GID: ids}
			}
			in.NamespacePaths[specs.UserNamespace] = "/run/user"
		},

		"user-namespace-devices": func(in *Input) {
			ids := idmap.Range{Host: 100000, Length: 65536}
			for _, ns := range []*Namespaces{&in.Pod.Namespaces, &in.Container.Security.Namespaces} {
				ns.User, ns.IDs = ModePod, idmap.Map{UID: ids, GID: ids}
			}
			in.NamespacePaths[specs.UserNamespace] = "/run/user"
			in.Container.Devices = []Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/kvm", Permissions: "rw"}}
			in.Devices = []HostDevice{{LinuxDevice: specs.LinuxDevice{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 229}, HostPath: "/dev/fuse"}}
		},

		// What a client says of the process, and what only a handler may let
		// pass. CVE-2024-3154, CVE-2023-6476: annotations have no effect.
		"process": func(in *Input) {
			in.Container.TTY, in.Container.Command, in.Container.WorkingDir = true, []string{"sh"}, "/tmp"
			in.Handler.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096}}
		},
		"annotations": func(in *Input) {
			all := map[string]string{"example.org/a": "1", "example.com/b": "2", "org.systemd.property.ExecStop": "'/evil'",
				"org.criu.config": "/evil", "io.kubernetes.cri.sandbox-id": "evil", "io.kubernetes.cri.anything": "evil", "cdi.k8s.io/x": "v/c=d"}
			in.Pod.Annotations, in.Container.Annotations = all, all
			in.Handler.PodAnnotations, in.Handler.ContainerAnnotations = []string{"example.org/*", "*.*.*", "io.kubernetes.cri.*"}, []string{"org.*"}
		},
		"annotations-unlisted": func(in *Input) {
			in.Pod.Annotations = map[string]string{"example.org/a": "1", "io.kubernetes.cri-o.UnifiedCgroup.nginx": "memory.max=max"}
			in.Container.Annotations = in.Pod.Annotations
		},
	}
}

// TestGolden compares with testdata: plain.txt has the whole specification of
// the ordinary container, the file of any other case what differs from it.
func TestGolden(t *testing.T) {
	t.Parallel()
	cases := goldens()
	plain := specLines(t, mustBuild(t, input()))
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := input()
			change(&in)
			lines := specLines(t, mustBuild(t, in))
			if name != "plain" {
				lines = difference(plain, lines)
			}
			got := strings.Join(append(lines, ""), "\n")
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s; run the test with -update and look at the difference\n%s", file, got)
			}
		})
	}
	files, err := filepath.Glob("testdata/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, ok := cases[strings.TrimSuffix(filepath.Base(f), ".txt")]; !ok {
			t.Errorf("%s is of no case", f)
		}
	}
}

// specLines writes a specification as one line for each value, with its path;
// the elements of a list have a line each.
func specLines(t *testing.T, s *specs.Spec) []string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(b, &tree); err != nil {
		t.Fatal(err)
	}
	var out []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				walk(strings.TrimPrefix(path+"."+key, "."), v[key])
			}
		case []any:
			for _, e := range v {
				b, _ := json.Marshal(e) // it was JSON a moment ago
				out = append(out, path+" + "+string(b))
			}
		default:
			b, _ := json.Marshal(v)
			out = append(out, path+" = "+string(b))
		}
	}
	walk("", tree)
	return out
}

// difference lists the lines that a has and b lacks (-) and those that b has
// and a lacks (+), in their order.
func difference(a, b []string) []string {
	common := make([][]int, len(a)+1) // length of the longest common part of what follows
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return out
}
