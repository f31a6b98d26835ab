package translate

import (
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func podConfig(change func(*criv1.PodSandboxConfig)) *criv1.PodSandboxConfig {
	c := &criv1.PodSandboxConfig{
		Metadata: &criv1.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u-1", Attempt: 2},
		Linux:    &criv1.LinuxPodSandboxConfig{SecurityContext: &criv1.LinuxSandboxSecurityContext{}},
	}
	change(c)
	return c
}

func userns(c *criv1.PodSandboxConfig, u *criv1.UserNamespace) {
	c.Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{UsernsOptions: u}
}

func mapping(container, length uint32) []*criv1.IDMapping {
	return []*criv1.IDMapping{{HostId: 100000, ContainerId: container, Length: length}}
}

func TestPodRefusesWhatIsWrongWhateverTheState(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*criv1.PodSandboxConfig)
		kind   errkind.Kind
		says   string
	}{
		"no metadata":    {func(c *criv1.PodSandboxConfig) { c.Metadata = nil }, errkind.InvalidArgument, "metadata"},
		"no uid":         {func(c *criv1.PodSandboxConfig) { c.Metadata.Uid = "" }, errkind.InvalidArgument, "uid"},
		"relative logs":  {func(c *criv1.PodSandboxConfig) { c.LogDirectory = "logs" }, errkind.InvalidArgument, "log_directory"},
		"cgroup escapes": {func(c *criv1.PodSandboxConfig) { c.Linux.CgroupParent = "/a/../../b" }, errkind.InvalidArgument, "cgroup_parent"},
		"group without user": {func(c *criv1.PodSandboxConfig) {
			c.Linux.SecurityContext.RunAsGroup = &criv1.Int64Value{Value: 1}
		}, errkind.InvalidArgument, "run_as_user"},
		"network of a container": {func(c *criv1.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{Network: criv1.NamespaceMode_CONTAINER}
		}, errkind.InvalidArgument, "network"},
		"target": {func(c *criv1.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{Pid: criv1.NamespaceMode_TARGET, TargetId: "x"}
		}, errkind.InvalidArgument, "target"},
		"localhost_ref without Localhost": {func(c *criv1.PodSandboxConfig) {
			c.Linux.SecurityContext.Seccomp = &criv1.SecurityProfile{LocalhostRef: "/x"}
		}, errkind.InvalidArgument, "localhost_ref"},
		"port 65536": {func(c *criv1.PodSandboxConfig) {
			c.PortMappings = []*criv1.PortMapping{{ContainerPort: 80, HostPort: 65536}}
		}, errkind.InvalidArgument, "host_port"},
		"host ip": {func(c *criv1.PodSandboxConfig) {
			c.PortMappings = []*criv1.PortMapping{{ContainerPort: 80, HostPort: 80, HostIp: "localhost"}}
		}, errkind.InvalidArgument, "host_ip"},
		"userns NODE with mappings": {func(c *criv1.PodSandboxConfig) {
			userns(c, &criv1.UserNamespace{Mode: criv1.NamespaceMode_NODE, Uids: mapping(0, 1)})
		}, errkind.InvalidArgument, "mappings"},
		"userns of a container": {func(c *criv1.PodSandboxConfig) {
			userns(c, &criv1.UserNamespace{Mode: criv1.NamespaceMode_CONTAINER})
		}, errkind.InvalidArgument, "user namespace"},
		"userns without gids": {func(c *criv1.PodSandboxConfig) {
			userns(c, &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: mapping(0, 65536)})
		}, errkind.InvalidArgument, "gid"},
		"userns from 1": {func(c *criv1.PodSandboxConfig) {
			userns(c, &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: mapping(1, 65536), Gids: mapping(0, 65536)})
		}, errkind.InvalidArgument, "uid"},
		"userns of a target": {func(c *criv1.PodSandboxConfig) {
			userns(c, &criv1.UserNamespace{Mode: criv1.NamespaceMode_TARGET})
		}, errkind.InvalidArgument, "user namespace"},
		"userns with two mappings": {func(c *criv1.PodSandboxConfig) {
			userns(c, &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: mapping(0, 65536), Gids: append(mapping(0, 65536), mapping(65536, 1)...)})
		}, errkind.InvalidArgument, "exactly one gid mapping"},
		"userns without ids": {func(c *criv1.PodSandboxConfig) {
			userns(c, &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: mapping(0, 65536), Gids: mapping(0, 0)})
		}, errkind.InvalidArgument, "length"},
		"userns beyond the last id": {func(c *criv1.PodSandboxConfig) {
			userns(c, &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: mapping(0, math.MaxUint32-100000+1), Gids: mapping(0, 1)})
		}, errkind.InvalidArgument, "last id"},
	} {
		_, err := Pod(podConfig(tc.change), "")
		if !errkind.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v (kind %d), want kind %d and a text with %q", name, err, errkind.Of(err), tc.kind, tc.says)
		}
	}
}

func TestPodKeepsTheDifferenceBetweenNoDNSAndEmptyDNS(t *testing.T) {
	t.Parallel()
	p, err := Pod(podConfig(func(*criv1.PodSandboxConfig) {}), "runc")
	if err != nil || p.DNS != nil {
		t.Errorf("nil dns_config became %v, %v", p.DNS, err)
	}
	p, err = Pod(podConfig(func(c *criv1.PodSandboxConfig) { c.DnsConfig = &criv1.DNSConfig{} }), "runc")
	if err != nil || p.DNS == nil {
		t.Errorf("empty dns_config became nil, %v", err)
	}
}

func TestPodStatusEchoesWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	asked := podConfig(func(c *criv1.PodSandboxConfig) {
		c.Labels = map[string]string{"a": "b"}
		c.Annotations = map[string]string{"c": "d"}
		c.Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{
			Network: criv1.NamespaceMode_NODE, Pid: criv1.NamespaceMode_CONTAINER, Ipc: criv1.NamespaceMode_NODE,
		}
	})
	cfg, err := Pod(asked, "runc")
	if err != nil {
		t.Fatal(err)
	}
	made := time.Unix(5, 6)
	got := PodStatus(&pod.PodStatus{
		ID: "id", Config: &cfg, Ready: true, CreatedAt: made,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")},
	})
	want := &criv1.PodSandboxStatus{
		Id: "id", Metadata: asked.Metadata, State: criv1.PodSandboxState_SANDBOX_READY, CreatedAt: made.UnixNano(),
		Network: &criv1.PodSandboxNetworkStatus{Ip: "10.0.0.2", AdditionalIps: []*criv1.PodIP{{Ip: "fd00::2"}}},
		Linux: &criv1.LinuxPodSandboxStatus{Namespaces: &criv1.Namespace{
			Options: asked.Linux.SecurityContext.NamespaceOptions,
		}},
		Labels: asked.Labels, Annotations: asked.Annotations, RuntimeHandler: "runc",
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func containerConfig(change func(*criv1.ContainerConfig)) *criv1.ContainerConfig {
	c := &criv1.ContainerConfig{
		Metadata: &criv1.ContainerMetadata{Name: "app", Attempt: 1},
		Image:    &criv1.ImageSpec{Image: "sha256:abc", UserSpecifiedImage: "nginx"},
		Linux:    &criv1.LinuxContainerConfig{SecurityContext: &criv1.LinuxContainerSecurityContext{}},
	}
	change(c)
	return c
}

func withMount(m *criv1.Mount) func(*criv1.ContainerConfig) {
	return func(c *criv1.ContainerConfig) { c.Mounts = []*criv1.Mount{m} }
}

func withSecurity(change func(*criv1.LinuxContainerSecurityContext)) func(*criv1.ContainerConfig) {
	return func(c *criv1.ContainerConfig) { change(c.Linux.SecurityContext) }
}

func TestContainerRefusesWhatIsWrongWhateverTheState(t *testing.T) {
	t.Parallel()
	private, slave := criv1.MountPropagation_PROPAGATION_PRIVATE, criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	for name, tc := range map[string]struct {
		change func(*criv1.ContainerConfig)
		kind   errkind.Kind
		says   string
	}{
		"no name":      {func(c *criv1.ContainerConfig) { c.Metadata = nil }, errkind.InvalidArgument, "name"},
		"no image":     {func(c *criv1.ContainerConfig) { c.Image = nil }, errkind.InvalidArgument, "image"},
		"log escapes":  {func(c *criv1.ContainerConfig) { c.LogPath = "../../etc/passwd" }, errkind.InvalidArgument, "log_path"},
		"env with =":   {func(c *criv1.ContainerConfig) { c.Envs = []*criv1.KeyValue{{Key: "A=B"}} }, errkind.InvalidArgument, "environment"},
		"env with NUL": {func(c *criv1.ContainerConfig) { c.Envs = []*criv1.KeyValue{{Key: "A", Value: []byte{0}}} }, errkind.InvalidArgument, "NUL"},
		"env as bytes": {func(c *criv1.ContainerConfig) { c.Envs = []*criv1.KeyValue{{Key: "A", Value: []byte{0xff}}} }, errkind.InvalidArgument, "UTF-8"},
		"device rights": {func(c *criv1.ContainerConfig) {
			c.Devices = []*criv1.Device{{ContainerPath: "/d", HostPath: "/d", Permissions: "rx"}}
		}, errkind.InvalidArgument, "permissions"},
		"signal 1000": {func(c *criv1.ContainerConfig) { c.StopSignal = 1000 }, errkind.InvalidArgument, "stop_signal"},

		"mount without source":     {withMount(&criv1.Mount{ContainerPath: "/a"}), errkind.InvalidArgument, "host_path"},
		"mount at a relative path": {withMount(&criv1.Mount{ContainerPath: "a", HostPath: "/b"}), errkind.InvalidArgument, "container_path"},
		"rro without ro":           {withMount(&criv1.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true, Propagation: private}), errkind.InvalidArgument, "readonly"},
		"rro and slave":            {withMount(&criv1.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true, Readonly: true, Propagation: slave}), errkind.InvalidArgument, "PRIVATE"},
		"half a mapping":           {withMount(&criv1.Mount{ContainerPath: "/a", HostPath: "/b", UidMappings: mapping(0, 1)}), errkind.InvalidArgument, "gid"},
		"mapping from 1":           {withMount(&criv1.Mount{ContainerPath: "/a", HostPath: "/b", UidMappings: mapping(1, 1), GidMappings: mapping(0, 1)}), errkind.InvalidArgument, "container_id 0"},
		"mount option rw":          {withMount(&criv1.Mount{ContainerPath: "/a", HostPath: "/b", Readonly: true, MountOptions: []string{"noexec", "rw"}}), errkind.InvalidArgument, `"rw"`},
		"propagation 9":            {withMount(&criv1.Mount{ContainerPath: "/a", HostPath: "/b", Propagation: 9}), errkind.InvalidArgument, "propagation"},
		"writable image":           {withMount(&criv1.Mount{ContainerPath: "/a", Image: &criv1.ImageSpec{Image: "x"}}), errkind.InvalidArgument, "needs readonly"},
		"image and host path":      {withMount(&criv1.Mount{ContainerPath: "/a", HostPath: "/b", Readonly: true, Image: &criv1.ImageSpec{Image: "x"}}), errkind.InvalidArgument, "host_path"},
		"sub path without image":   {withMount(&criv1.Mount{ContainerPath: "/a", HostPath: "/b", Readonly: true, ImageSubPath: "c"}), errkind.InvalidArgument, "image_sub_path"},

		"group without user": {withSecurity(func(s *criv1.LinuxContainerSecurityContext) { s.RunAsGroup = &criv1.Int64Value{} }), errkind.InvalidArgument, "run_as_user"},
		"user -1":            {withSecurity(func(s *criv1.LinuxContainerSecurityContext) { s.RunAsUser = &criv1.Int64Value{Value: -1} }), errkind.InvalidArgument, "-1"},
		"policy 7":           {withSecurity(func(s *criv1.LinuxContainerSecurityContext) { s.SupplementalGroupsPolicy = 7 }), errkind.InvalidArgument, "policy"},
		"target without id": {withSecurity(func(s *criv1.LinuxContainerSecurityContext) {
			s.NamespaceOptions = &criv1.NamespaceOption{Pid: criv1.NamespaceMode_TARGET}
		}), errkind.InvalidArgument, "target_id"},
		"unknown capability": {withSecurity(func(s *criv1.LinuxContainerSecurityContext) {
			s.Capabilities = &criv1.Capability{AddCapabilities: []string{"FLY"}}
		}), errkind.InvalidArgument, "FLY"},
		"relative seccomp profile": {withSecurity(func(s *criv1.LinuxContainerSecurityContext) {
			s.Seccomp = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: "p.json"}
		}), errkind.InvalidArgument, "p.json"},
	} {
		_, err := Container(containerConfig(tc.change))
		if !errkind.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v (kind %d), want kind %d and a text with %q", name, err, errkind.Of(err), tc.kind, tc.says)
		}
	}
}

// The kubelet finds the failure by how the text begins.
func TestImageVolumeErrorBeginsWithItsName(t *testing.T) {
	t.Parallel()
	_, err := Container(containerConfig(withMount(&criv1.Mount{ContainerPath: "/a", Image: &criv1.ImageSpec{Image: "x"}})))
	if err == nil || !strings.HasPrefix(err.Error(), "ImageVolumeMountFailed: ") {
		t.Errorf("got %v", err)
	}
}

func TestCapabilitiesAreNormalised(t *testing.T) {
	t.Parallel()
	c, err := Container(containerConfig(withSecurity(func(s *criv1.LinuxContainerSecurityContext) {
		s.Capabilities = &criv1.Capability{
			AddCapabilities:  []string{"cap_net_admin", "SYS_TIME", "all"},
			DropCapabilities: []string{"CAP_CHOWN"},
		}
	})))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"NET_ADMIN", "SYS_TIME", "ALL"}; !reflect.DeepEqual(c.Security.CapAdd, want) {
		t.Errorf("added %q, want %q", c.Security.CapAdd, want)
	}
	if want := []string{"CHOWN"}; !reflect.DeepEqual(c.Security.CapDrop, want) {
		t.Errorf("dropped %q, want %q", c.Security.CapDrop, want)
	}
}

func TestSeccompProfiles(t *testing.T) {
	t.Parallel()
	type profile = criv1.SecurityProfile
	for name, tc := range map[string]struct {
		profile    *profile
		deprecated string
		want       *spec.Seccomp
	}{
		"neither":        {nil, "", nil},
		"empty message":  {&profile{}, "", &spec.Seccomp{Mode: spec.SeccompDefault}},
		"unconfined":     {&profile{ProfileType: criv1.SecurityProfile_Unconfined}, "", &spec.Seccomp{Mode: spec.SeccompUnconfined}},
		"localhost":      {&profile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: "/p"}, "", &spec.Seccomp{Mode: spec.SeccompLocalhost, Path: "/p"}},
		"old":            {nil, "localhost//p", &spec.Seccomp{Mode: spec.SeccompLocalhost, Path: "/p"}},
		"old default":    {nil, "runtime/default", &spec.Seccomp{Mode: spec.SeccompDefault}},
		"old unconfined": {nil, "unconfined", &spec.Seccomp{Mode: spec.SeccompUnconfined}},
		"new wins":       {&profile{}, "unconfined", &spec.Seccomp{Mode: spec.SeccompDefault}},
	} {
		got, err := seccompProfile(tc.profile, tc.deprecated)
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, tc.want)
		}
	}
}

func TestApparmorProfiles(t *testing.T) {
	t.Parallel()
	type profile = criv1.SecurityProfile
	for name, tc := range map[string]struct {
		profile          *profile
		deprecated, want string
	}{
		"neither":     {nil, "", ""},
		"default":     {&profile{}, "", ""},
		"localhost":   {&profile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: "p"}, "", "p"},
		"old":         {nil, "localhost/p", "p"},
		"old default": {nil, "runtime/default", ""},
		"old off":     {nil, "unconfined", "unconfined"},
		"new wins":    {&profile{ProfileType: criv1.SecurityProfile_Unconfined}, "localhost/p", "unconfined"},
	} {
		got, err := apparmorProfile(tc.profile, tc.deprecated)
		if err != nil || got != tc.want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tc.want)
		}
	}
}

func TestSELinuxOptions(t *testing.T) {
	t.Parallel()
	for _, none := range []*criv1.SELinuxOption{nil, {}} {
		if got := selinux(none); got != nil {
			t.Errorf("%v: got %v, want nothing asked for", none, got)
		}
	}
	want := spec.SELinux{User: "u", Role: "r", Type: "t", Level: "s0"}
	if got := selinux(&criv1.SELinuxOption{User: "u", Role: "r", Type: "t", Level: "s0"}); got == nil || *got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Every signal that CRI can name has a name here, and the way back leads to
// the same signal, if not to its alias.
func TestSignalsBothWays(t *testing.T) {
	t.Parallel()
	for n, criName := range criv1.Signal_name {
		s := criv1.Signal(n)
		name, err := signalName(s)
		if err != nil {
			t.Errorf("%s: %v", criName, err)
			continue
		}
		_, alias := aliases[strings.TrimPrefix(criName, "SIGNAL_")]
		if back := criSignal(name); back != s && !alias {
			t.Errorf("%s became %q, which became %s", criName, name, back)
		}
	}
	if name, _ := signalName(criv1.Signal_SIGNAL_SIGRTMAXMINUS3); name != "SIGRTMAX-3" {
		t.Errorf("real-time signal is called %q", name)
	}
}

func TestResourcesBothWays(t *testing.T) {
	t.Parallel()
	want := &criv1.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: -1, CpuShares: 512, MemoryLimitInBytes: 1 << 30, OomScoreAdj: -998,
		CpusetCpus: "0-1", CpusetMems: "0", MemorySwapLimitInBytes: 2 << 30, Unified: map[string]string{"memory.high": "max"},
		HugepageLimits: []*criv1.HugepageLimit{{PageSize: "1GB", Limit: 0}, {PageSize: "2MB", Limit: 4 << 20}},
	}
	if got := criResources(Resources(want)); !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := Resources(nil); !reflect.DeepEqual(got, spec.Resources{}) {
		t.Errorf("nil became %+v", got)
	}
}

func TestContainerStatusEchoesWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	asked := containerConfig(func(c *criv1.ContainerConfig) {
		c.Mounts = []*criv1.Mount{
			{ContainerPath: "/a", HostPath: "/b/", Readonly: true, RecursiveReadOnly: true},
			{ContainerPath: "/c", HostPath: "/d", SelinuxRelabel: true, Propagation: criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL},
			{ContainerPath: "/e", Readonly: true, ImageSubPath: "f",
				Image: &criv1.ImageSpec{Image: "data:1", UserSpecifiedImage: "data", RuntimeHandler: "h", Annotations: map[string]string{"a": "b"}}},
		}
		c.StopSignal = criv1.Signal_SIGNAL_SIGUSR1
		c.Labels = map[string]string{"a": "b"}
	})
	cfg, err := Container(asked)
	if err != nil {
		t.Fatal(err)
	}
	c := &pod.ContainerStatus{
		ID: "c", PodID: "p", Config: &cfg, State: pod.StateExited,
		VolumeImages: []string{"", "", "sha256:def"},
		Image:        &spec.ImageConfig{ID: "sha256:abc", Ref: "docker.io/library/nginx@sha256:def", Name: "docker.io/library/nginx:latest"},
		CreatedAt:    time.Unix(1, 0), StartedAt: time.Unix(2, 0), FinishedAt: time.Unix(3, 0), ExitCode: 137, Reason: "OOMKilled",
		StopSignal: cfg.StopSignal, User: spec.User{UID: 1, GID: 2, Groups: []uint32{2, 3}},
	}
	got := ContainerStatus(c)
	asked.Mounts[2].Image.ImageRef = "sha256:def" // the one thing that is added
	want := &criv1.ContainerStatus{
		Id: "c", Metadata: asked.Metadata, State: criv1.ContainerState_CONTAINER_EXITED,
		CreatedAt: 1e9, StartedAt: 2e9, FinishedAt: 3e9, ExitCode: 137, Reason: "OOMKilled",
		Image:    &criv1.ImageSpec{Image: "docker.io/library/nginx:latest", UserSpecifiedImage: "nginx"},
		ImageRef: "docker.io/library/nginx@sha256:def", ImageId: "sha256:abc",
		Labels: asked.Labels, Mounts: asked.Mounts, StopSignal: asked.StopSignal,
		Resources: &criv1.ContainerResources{Linux: &criv1.LinuxContainerResources{}},
		User:      &criv1.ContainerUser{Linux: &criv1.LinuxContainerUser{Uid: 1, Gid: 2, SupplementalGroups: []int64{2, 3}}},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}

	// A container without a readable record still has what the kubelet's
	// client demands, and zero where nothing has happened.
	bare := ContainerStatus(&pod.ContainerStatus{ID: "c", Config: &cfg, State: "strange", CreatedAt: time.Unix(1, 0)})
	if bare.State != criv1.ContainerState_CONTAINER_UNKNOWN || bare.Image.Image == "" || bare.ImageRef == "" || bare.StartedAt != 0 {
		t.Errorf("got %v", bare)
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	f, err := PodFilter(&criv1.PodSandboxFilter{State: &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_NOTREADY}})
	if err != nil || f.Ready == nil || *f.Ready {
		t.Errorf("NOTREADY became %+v, %v", f, err)
	}
	if f, err := PodFilter(nil); err != nil || f.Ready != nil || f.ID != "" {
		t.Errorf("nil became %+v, %v", f, err)
	}
	c, err := ContainerFilter(&criv1.ContainerFilter{State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_EXITED}})
	if err != nil || c.State != pod.StateExited {
		t.Errorf("EXITED became %+v, %v", c, err)
	}
	if _, err := ContainerFilter(&criv1.ContainerFilter{State: &criv1.ContainerStateValue{State: 9}}); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("state 9 gave %v", err)
	}
}

func TestStatsLeaveUnknownFiguresOut(t *testing.T) {
	t.Parallel()
	cfg := spec.Container{Metadata: spec.ContainerMetadata{Name: "app"}}
	got := ContainerStats(&pod.Stats{
		Container: &pod.ContainerStatus{ID: "c", Config: &cfg}, At: time.Unix(1, 0),
		Memory: pod.MemoryStats{WorkingSet: 7}, Layer: pod.LayerStats{Mountpoint: "/m", Bytes: 8, Inodes: 9},
	})
	if got.Cpu.UsageNanoCores != nil || got.Memory.AvailableBytes != nil || got.Swap != nil {
		t.Errorf("unknown figures are set: %v", got)
	}
	if got.Cpu.Timestamp != 1e9 || got.Memory.WorkingSetBytes.Value != 7 || got.WritableLayer.UsedBytes.Value != 8 {
		t.Errorf("known figures are wrong: %v", got)
	}
}
