package translate

import (
	"testing"

	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// What is asked of a user namespace comes back as it was asked, its absence
// included.
func TestUserNamespaceIsEchoed(t *testing.T) {
	t.Parallel()
	for name, asked := range map[string]*criv1.UserNamespace{
		"none": nil,
		"node": {Mode: criv1.NamespaceMode_NODE},
		"pod":  {Mode: criv1.NamespaceMode_POD, Uids: mapping(0, 65536), Gids: mapping(0, 4096)},
	} {
		p, err := Pod(podConfig(func(c *criv1.PodSandboxConfig) { userns(c, asked) }), "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := PodStatus(&pod.PodStatus{Config: &p}).Linux.Namespaces.Options.UsernsOptions
		if !proto.Equal(got, asked) {
			t.Errorf("%s: asked for %v, got %v", name, asked, got)
		}
	}
}

// A status shows each mount as it was asked for, every field of it.
func TestMountsAreEchoed(t *testing.T) {
	t.Parallel()
	asked := []*criv1.Mount{
		{ContainerPath: "/a/../b/", HostPath: "/link", Propagation: criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL, SelinuxRelabel: true},
		{ContainerPath: "/c", HostPath: "/d", Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/e", HostPath: "/f", MountOptions: []string{"nosuid", "noexec", "nodev"}, UidMappings: mapping(0, 65536), GidMappings: mapping(0, 1)},
		{ContainerPath: "/g", Image: &criv1.ImageSpec{Image: "x", UserSpecifiedImage: "y"}, ImageSubPath: "z", Readonly: true, UidMappings: mapping(0, 65536), GidMappings: mapping(0, 65536)},
	}
	cfg, err := Container(containerConfig(func(c *criv1.ContainerConfig) { c.Mounts = asked }))
	if err != nil {
		t.Fatal(err)
	}
	got := ContainerStatus(&pod.ContainerStatus{Config: &cfg, Image: &spec.ImageConfig{}}).Mounts
	if len(got) != len(asked) {
		t.Fatalf("asked for %d mounts, got %d", len(asked), len(got))
	}
	for i := range asked {
		if !proto.Equal(got[i], asked[i]) {
			t.Errorf("asked for %v, got %v", asked[i], got[i])
		}
	}
}
