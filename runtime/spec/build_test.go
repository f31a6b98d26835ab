package spec

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// input is an ordinary container, as a kubelet asks for it.
func input() Input {
	return Input{
		ID:    "c1",
		PodID: "p1",
		Pod:   &Pod{Metadata: PodMetadata{Name: "web", UID: "u", Namespace: "default"}},
		Container: &Container{
			Metadata:  ContainerMetadata{Name: "nginx"},
			Image:     "sha256:aa",
			UserImage: "docker.io/library/nginx:1",
			Env:       []Env{{Key: "MODE", Value: "asked"}},
			Resources: Resources{CPUShares: 512, CPUPeriod: 100000, CPUQuota: 50000, Memory: 64 << 20, OOMScoreAdj: 999,
				Hugepages: map[string]uint64{"2MB": 0, "1GB": 1 << 30}, Unified: map[string]string{"memory.oom.group": "1"}},
			Security: Security{
				GroupsPolicy:  GroupsMerge,
				MaskedPaths:   []string{"/proc/kcore"},
				ReadonlyPaths: []string{"/proc/sys"},
				Namespaces:    Namespaces{Network: ModePod, PID: ModeContainer, IPC: ModePod},
			},
		},
		Image: &ImageConfig{ID: "sha256:aa", Name: "nginx:1", Entrypoint: []string{"/entry"}, Cmd: []string{"nginx"},
			Env: []string{"PATH=/opt", "MODE=image", "=rubbish", "rubbish"}, WorkingDir: "/srv"},
		User:     User{UID: 101, GID: 101, Groups: []uint32{101, 2000}, Home: "/home/nginx"},
		Hostname: "web",
		Rootfs:   "/run/berth/rootfs",
		Mounts: []specs.Mount{
			{Destination: "/etc/hosts", Type: "bind", Source: "/run/berth/hosts", Options: []string{"rbind", "rprivate", "rw"}},
			{Destination: "/dev/shm", Type: "bind", Source: "/run/berth/shm", Options: []string{"rbind", "rprivate", "rw"}},
			{Destination: "/data", Type: "bind", Source: "/srv/data", Options: []string{"rbind", "ro", "rprivate"}},
		},
		NamespacePaths: map[specs.LinuxNamespaceType]string{
			specs.NetworkNamespace: "/run/netns/p1", specs.IPCNamespace: "/run/ipc", specs.UTSNamespace: "/run/uts",
		},
		CgroupPath: "/kubepods/p1/c1",
		HostCaps:   AllCaps(),
	}
}

func mustBuild(t *testing.T, in Input) *specs.Spec {
	t.Helper()
	s, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	both := &ImageConfig{Name: "i", Entrypoint: []string{"E"}, Cmd: []string{"C"}}
	cases := []struct {
		command, args []string
		image         *ImageConfig
		want          string
	}{
		{nil, nil, both, "E C"},
		{nil, []string{"a"}, both, "E a"},
		{[]string{"c"}, nil, both, "c"},
		{[]string{"c"}, []string{"a"}, both, "c a"},
		{nil, nil, &ImageConfig{Cmd: []string{"C"}}, "C"},
		{nil, []string{"a"}, &ImageConfig{}, "a"},
		{nil, nil, &ImageConfig{}, ""},
		{[]string{""}, nil, both, ""},
		{[]string{"a\x00b"}, nil, both, ""},
	}
	for _, c := range cases {
		in := input()
		in.Container.Command, in.Container.Args, in.Image = c.command, c.args, c.image
		s, err := Build(in)
		if c.want == "" {
			if !errkind.Is(err, errkind.InvalidArgument) {
				t.Errorf("%v %v: %v, want InvalidArgument", c.command, c.args, err)
			}
			continue
		}
		if err != nil || strings.Join(s.Process.Args, " ") != c.want {
			t.Errorf("%v %v: %v, want %q", c.command, c.args, err, c.want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	in := input()
	in.Container.TTY = true
	in.Container.Env = []Env{{"MODE", "first"}, {"A", "1=2"}, {"MODE", "last"}, {"TERM", "dumb"}}
	want := []string{"PATH=/opt", "HOSTNAME=web", "HOME=/home/nginx", "TERM=dumb", "MODE=last", "A=1=2"}
	if got := mustBuild(t, in).Process.Env; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, bad := range []Env{{"", "x"}, {"A=B", "x"}, {"A", "x\x00B=y"}} {
		in.Container.Env = []Env{bad}
		if _, err := Build(in); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%q: %v, want InvalidArgument", bad, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	host := slices.DeleteFunc(AllCaps(), func(c string) bool { return c == "CAP_SYS_RESOURCE" })
	without := func(set []string, drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(set), func(c string) bool { return slices.Contains(drop, c) })
	}
	cases := map[string]struct {
		sec  Security
		want []string
	}{
		"default":          {Security{}, DefaultCaps()},
		"add":              {Security{CapAdd: []string{"sys_admin"}}, append(DefaultCaps(), "CAP_SYS_ADMIN")},
		"host lacks it":    {Security{CapAdd: []string{"CAP_SYS_RESOURCE"}}, DefaultCaps()},
		"drop":             {Security{CapDrop: []string{"KILL"}}, without(DefaultCaps(), "CAP_KILL")},
		"drop wins":        {Security{CapAdd: []string{"KILL"}, CapDrop: []string{"KILL"}}, without(DefaultCaps(), "CAP_KILL")},
		"add all":          {Security{CapAdd: []string{"all"}}, host},
		"all but one":      {Security{CapAdd: []string{"ALL"}, CapDrop: []string{"SYS_ADMIN"}}, without(host, "CAP_SYS_ADMIN")},
		"drop all":         {Security{CapDrop: []string{"ALL"}}, nil},
		"only one":         {Security{CapAdd: []string{"CHOWN"}, CapDrop: []string{"ALL"}}, []string{"CAP_CHOWN"}},
		"both all":         {Security{CapAdd: []string{"ALL"}, CapDrop: []string{"ALL"}}, nil},
		"privileged":       {Security{Privileged: true}, host},
		"privileged, drop": {Security{Privileged: true, CapDrop: []string{"ALL"}}, host},
	}
	for name, c := range cases {
		got, err := Capabilities(&c.sec, host)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		sets, err := processCaps(&c.sec, host)
		if err != nil || len(sets.Inheritable)+len(sets.Ambient) != 0 {
			t.Errorf("%s: inheritable %v, ambient %v, %v", name, sets.Inheritable, sets.Ambient, err)
		}
	}
	for _, bad := range []Security{
		{CapAdd: []string{"NO_SUCH"}}, {CapDrop: []string{""}}, {CapAmbient: []string{"SYS_ADMIN"}},
	} {
		if _, err := processCaps(&bad, host); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%+v: %v, want InvalidArgument", bad, err)
		}
	}
}

func TestNamespacesAreNeverSilentlyTheHosts(t *testing.T) {
	t.Parallel()
	for _, ns := range []Namespaces{
		{Network: ModePod, PID: ModeContainer, IPC: ModeNode},
		{Network: ModeNode, PID: ModeContainer, IPC: ModePod},
		{Network: ModeNode, PID: ModePod, IPC: ModeNode},
		{Network: ModeNode, PID: ModeTarget, IPC: ModeNode},
		{Network: ModeContainer, PID: ModeContainer, IPC: ModeNode},
		{Network: ModeNode, PID: ModeContainer},
		{},
	} {
		in := input()
		in.NamespacePaths, in.Container.Security.Namespaces = nil, ns
		if s, err := Build(in); err == nil {
			t.Errorf("%+v gave %+v", ns, s.Linux.Namespaces)
		}
	}
}

func TestUnresolvedSeccompIsNotUnconfined(t *testing.T) {
	t.Parallel()
	in := input()
	in.Container.Security.Seccomp = &Seccomp{Mode: SeccompDefault}
	if _, err := Build(in); err == nil {
		t.Error("a container was to run without the filter that it asked for")
	}
	in.Container.Security.Seccomp.Mode = SeccompUnconfined
	if s := mustBuild(t, in); s.Linux.Seccomp != nil {
		t.Error("unconfined has a filter")
	}
}

func TestPrivilegedNeedsPrivilegedPod(t *testing.T) {
	t.Parallel()
	in := input()
	in.Container.Security.Privileged = true
	if _, err := Build(in); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	targets := func(in Input) (out []string) {
		for _, m := range mustBuild(t, in).Mounts {
			out = append(out, m.Destination)
		}
		return out
	}
	in := input()
	in.Mounts = append(in.Mounts,
		specs.Mount{Destination: "/a/b/", Source: "/deep"}, specs.Mount{Destination: "/a", Source: "/first"},
		specs.Mount{Destination: "/a", Source: "/second"}, specs.Mount{Destination: "/sys", Source: "/sys"})
	want := []string{"/proc", "/dev", "/data", "/a", "/sys", "/dev/pts", "/dev/mqueue", "/etc/hosts", "/dev/shm", "/a/b", "/sys/fs/cgroup"}
	if got := targets(in); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, m := range mustBuild(t, in).Mounts {
		if m.Destination == "/a" && m.Source != "/second" || m.Destination == "/sys" && m.Type == "sysfs" {
			t.Errorf("%s is %s: the later mount did not replace the earlier", m.Destination, m.Source)
		}
	}
	in.Mounts = append(in.Mounts, specs.Mount{Destination: "/dev", Source: "/dev"})
	if got := targets(in); slices.Contains(got, "/dev/pts") || slices.Contains(got, "/dev/mqueue") || !slices.Contains(got, "/dev/shm") {
		t.Errorf("with /dev from the host: %v", got)
	}
	for _, bad := range []string{"", "/", "relative", "/a\x00b", "/.."} {
		in.Mounts = []specs.Mount{{Destination: bad}}
		if _, err := Build(in); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%q: %v, want InvalidArgument", bad, err)
		}
	}
}

func TestRootfsPropagation(t *testing.T) {
	t.Parallel()
	for want, options := range map[string][]string{"": {"rprivate"}, "rslave": {"rprivate", "rslave"}, "rshared": {"rslave", "rshared", "rslave"}} {
		in := input()
		for i, o := range options {
			in.Mounts = append(in.Mounts, specs.Mount{Destination: "/v" + string(rune('0'+i)), Options: []string{"rbind", o}})
		}
		if got := mustBuild(t, in).Linux.RootfsPropagation; got != want {
			t.Errorf("%v: %q, want %q", options, got, want)
		}
	}
}

func TestDeviceAccess(t *testing.T) {
	t.Parallel()
	in := input()
	in.Container.Devices = []Device{
		{HostPath: "/dev/dri", ContainerPath: "/dev/dri", Permissions: "rw"},
		{HostPath: "/dev/dri/card0", ContainerPath: "/dev/dri/card0/", Permissions: "r"},
	}
	in.Devices = []HostDevice{
		{LinuxDevice: specs.LinuxDevice{Path: "/dev/dri/card0", Type: "c", Major: 226}, HostPath: "/dev/dri/card0"}, {LinuxDevice: specs.LinuxDevice{Path: "/dev/dri/card1", Type: "c", Major: 226, Minor: 1}, HostPath: "/dev/dri/card1"},
		{LinuxDevice: specs.LinuxDevice{Path: "/dev/drift", Type: "c", Major: 9}, HostPath: "/dev/drift"},
	}
	rules := mustBuild(t, in).Linux.Resources.Devices
	if rules[0].Allow || rules[0].Access != "rwm" || rules[0].Type != "" {
		t.Errorf("the first rule %+v does not deny everything", rules[0])
	}
	var got []string
	for _, r := range rules[len(rules)-3:] {
		got = append(got, r.Access)
	}
	if want := []string{"r", "rw", "rwm"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSwap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		r    Resources
		no   bool
		want int64 // -9: none
	}{
		{Resources{}, false, -9},
		{Resources{Memory: 100}, false, 100},
		{Resources{Memory: 100, MemorySwap: 150}, false, 150},
		{Resources{Memory: 100, MemorySwap: -1}, false, -1},
		{Resources{Memory: 100}, true, -9},
	} {
		got := int64(-9)
		if m := LinuxResources(c.r, false, c.no).Memory; m != nil && m.Swap != nil {
			got = *m.Swap
		}
		if got != c.want {
			t.Errorf("%+v: %d, want %d", c.r, got, c.want)
		}
	}
}

func TestUpdateKeepsWhatIsNotSet(t *testing.T) {
	t.Parallel()
	got, _ := json.Marshal(LinuxResources(Resources{CPUQuota: -1, Unified: map[string]string{"x": "y"}}, false, false))
	if want := `{"cpu":{"quota":-1}}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestVolumePaths(t *testing.T) {
	t.Parallel()
	got, err := VolumePaths(&ImageConfig{Volumes: []string{
		"/var/lib/db", "data", "/data/", "/", "", "..", "/proc", "/srv/../proc/self", "/sys/kernel", "/dev", "/etc/hosts", "/process",
	}})
	if want := []string{"/data", "/process", "/var/lib/db"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := VolumePaths(&ImageConfig{Volumes: make([]string, 10_000*maxImageVolumes)}); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("a million volumes: %v, want InvalidArgument", err)
	}
}
