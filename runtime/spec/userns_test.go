package spec

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
)

// mapped is input in a user namespace.
func mapped() Input {
	in := input()
	ids := idmap.Range{Host: 300000, Length: 65536}
	in.Pod.Namespaces = in.Container.Security.Namespaces
	in.Pod.Namespaces.User, in.Pod.Namespaces.IDs = ModePod, idmap.Map{UID: ids, GID: ids}
	in.Container.Security.Namespaces = in.Pod.Namespaces
	in.NamespacePaths[specs.UserNamespace] = "/run/user"
	return in
}

func TestUserNamespaceIsJoined(t *testing.T) {
	t.Parallel()
	s := mustBuild(t, mapped())
	if want := (specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/run/user"}); !slices.Contains(s.Linux.Namespaces, want) {
		t.Errorf("%v lacks %v", s.Linux.Namespaces, want)
	}
	if s := mustBuild(t, input()); slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }) {
		t.Error("a container without a user namespace has one")
	}
}

func mountAt(s *specs.Spec, dst string) specs.Mount {
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == dst })
	if i < 0 {
		return specs.Mount{}
	}
	return s.Mounts[i]
}

func TestMountsThatAUserNamespaceMayNotMake(t *testing.T) {
	t.Parallel()
	in := mapped()
	if m := mountAt(mustBuild(t, in), "/sys"); m.Type != "sysfs" {
		t.Errorf("/sys is %v, though the network namespace is the pod's own", m)
	}
	in.Pod.Namespaces.Network, in.Container.Security.Namespaces.Network = ModeNode, ModeNode
	m := mountAt(mustBuild(t, in), "/sys")
	if m.Type != "bind" || m.Source != "/sys" || !slices.Equal(m.Options, []string{"rbind", "rprivate", "rro", "nosuid", "nodev", "noexec"}) {
		t.Errorf("/sys is %v on the host's network", m)
	}
	for length, want := range map[uint32]bool{5: false, 6: true} {
		in := mapped()
		in.User = User{}
		in.Pod.Namespaces.IDs.GID.Length = length
		in.Container.Security.Namespaces = in.Pod.Namespaces
		if got := slices.Contains(mountAt(mustBuild(t, in), "/dev/pts").Options, "gid=5"); got != want {
			t.Errorf("%d groups: terminals belong to group 5: %v", length, got)
		}
	}
}

func TestUserNamespaceRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Input)
		says   string
	}{
		"only the pod's":         {func(in *Input) { in.Container.Security.Namespaces.User = "" }, "not those of its pod"},
		"only the container's":   {func(in *Input) { in.Pod.Namespaces.User = ModeNode }, "not those of its pod"},
		"another mapping":        {func(in *Input) { in.Container.Security.Namespaces.IDs.GID.Host++ }, "not those of its pod"},
		"another length":         {func(in *Input) { in.Container.Security.Namespaces.IDs.UID.Length-- }, "not those of its pod"},
		"host's processes":       {func(in *Input) { in.Container.Security.Namespaces.PID = ModeNode }, "hostPID"},
		"user it has not":        {func(in *Input) { in.User.UID = 65536 }, "no user 65536"},
		"group it has not":       {func(in *Input) { in.User.GID = 65536 }, "no group 65536"},
		"other group it has not": {func(in *Input) { in.User.Groups = []uint32{1, 70000} }, "no group 70000"},
	} {
		in := mapped()
		c.change(&in)
		if _, err := Build(in); !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want InvalidArgument with %q", name, err, c.says)
		}
	}
	in := mapped()
	delete(in.NamespacePaths, specs.UserNamespace)
	if _, err := Build(in); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("without a namespace to join: %v", err)
	}
}
