package pod

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestParseSignal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]unix.Signal{
		"SIGTERM": unix.SIGTERM, "term": unix.SIGTERM, "15": unix.SIGTERM, "SIGRTMIN": 34, "rtmin+3": 37, "SIGRTMAX-1": 63, "SIGRTMAX": 64,
	} {
		if got, err := parseSignal(in); err != nil || got != want {
			t.Errorf("parseSignal(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "65", "-1", "SIGNOPE", "SIGRTMIN+31", "SIGRTMAX+1", "SIGRTMIN+x"} {
		if got, err := parseSignal(in); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("parseSignal(%q) = %d, %v; want InvalidArgument", in, got, err)
		}
	}
}

func TestLogPathStaysInside(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ dir, path, want string }{
		{"/var/log/pods/p", "c/0.log", "/var/log/pods/p/c/0.log"}, {"", "c/0.log", ""}, {"/var/log/pods/p", "", ""},
	} {
		if got, err := logPath(c.dir, c.path); err != nil || got != c.want {
			t.Errorf("logPath(%q, %q) = %q, %v; want %q", c.dir, c.path, got, err, c.want)
		}
	}
	for _, path := range []string{"../x", "a/../../x", "/etc/passwd", ".."} {
		if got, err := logPath("/var/log/pods/p", path); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("logPath of %q = %q, %v; want InvalidArgument", path, got, err)
		}
	}
}

func TestFindByPrefix(t *testing.T) {
	t.Parallel()
	a, b := "aa11"+strings.Repeat("0", 60), "aa22"+strings.Repeat("0", 60)
	all := map[string]string{a: "first", b: "second"}
	any := func(string) bool { return true }
	if got, err := find("pod", "aa1", all, any); err != nil || got != "first" {
		t.Errorf("unique prefix: %q, %v", got, err)
	}
	if _, err := find("pod", "aa", all, any); !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), a[:12]) {
		t.Errorf("ambiguous prefix: %v; want InvalidArgument that names the candidates", err)
	}
	if _, err := find("pod", "ff", all, any); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("no such id: %v", err)
	}
	if _, err := find("pod", "", all, any); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("no id: %v", err)
	}
	// What a view does not see does not make a prefix ambiguous.
	if got, err := find("pod", "aa", all, func(s string) bool { return s == "second" }); err != nil || got != "second" {
		t.Errorf("prefix in a narrow view: %q, %v", got, err)
	}
}

func TestMergeResourcesKeepsWhatIsNotSet(t *testing.T) {
	t.Parallel()
	old := spec.Resources{CPUShares: 512, Memory: 1 << 20, CpusetCPUs: "0", Unified: map[string]string{"a": "1", "b": "2"}, OOMScoreAdj: 7}
	got := mergeResources(old, spec.Resources{CPUQuota: -1, Memory: 2 << 20, Unified: map[string]string{"b": "3"}, OOMScoreAdj: 9})
	if got.CPUShares != 512 || got.CPUQuota != -1 || got.Memory != 2<<20 || got.CpusetCPUs != "0" ||
		got.Unified["a"] != "1" || got.Unified["b"] != "3" || got.OOMScoreAdj != 7 {
		t.Errorf("merged to %+v", got)
	}
	if old.Unified["b"] != "2" {
		t.Error("the old resources were changed")
	}
}

func TestEveryVerbHasFailpointsAndNoNameTwice(t *testing.T) {
	t.Parallel()
	names := StepNames()
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	if len(slices.Compact(sorted)) != len(names) {
		t.Errorf("a failpoint name occurs twice: %v", names)
	}
	for _, verb := range []string{"pod.run", "pod.stop", "pod.remove", "container.create", "container.start", "container.remove"} {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, verb+"/") }) {
			t.Errorf("verb %s has no failpoint", verb)
		}
	}
}

// The kubelet and cAdvisor find a container by its cgroup's name.
func TestCgroupNames(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		systemd           bool
		parent, oci, path string
	}{
		"cgroupfs":         {false, "/kubepods/burstable/poduid", "/kubepods/burstable/poduid/" + id, "/kubepods/burstable/poduid/" + id},
		"cgroupfs default": {false, "", "/berth/" + id, "/berth/" + id},
		"systemd": {true, "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poduid.slice", "kubepods-burstable-poduid.slice:berth:" + id,
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poduid.slice/berth-" + id + ".scope"},
		"systemd, name alone": {true, "kubepods-burstable-poduid.slice", "kubepods-burstable-poduid.slice:berth:" + id,
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poduid.slice/berth-" + id + ".scope"},
		"systemd default": {true, "", "berth.slice:berth:" + id, "/berth.slice/berth-" + id + ".scope"},
		"systemd root":    {true, "-.slice", "-.slice:berth:" + id, "/berth-" + id + ".scope"},
	} {
		tab := &Table{cfg: Config{CgroupParent: "/berth", SystemdCgroup: c.systemd}}
		if oci, path := tab.cgroup(c.parent, id); oci != c.oci || path != c.path {
			t.Errorf("%s: %s at %s, want %s at %s", name, oci, path, c.oci, c.path)
		}
	}
}
