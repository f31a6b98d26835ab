package pod

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/selinux"
)

// labelling is a Table on a host whose policy knows every type but nonsense_t.
func labelling() *Table {
	policy := &selinux.Policy{
		Process: selinux.Label{User: "system_u", Role: "system_r", Type: "container_t", Level: "s0"},
		File:    selinux.Label{User: "system_u", Role: "object_r", Type: "container_file_t", Level: "s0"},
	}
	return &Table{pods: map[string]*Pod{}, cfg: Config{Root: "/root-of-berth", Volumes: namedVolumes{}, SELinux: &Labels{policy: policy, known: func(l selinux.Label) error {
		if l.Type == "nonsense_t" {
			return errkind.New(errkind.InvalidArgument, "no label %s", l)
		}
		return nil
	}}}}
}

// namedVolumes are those whose directory is called named.
type namedVolumes struct{ Volumes }

func (namedVolumes) IsNamed(path string) bool { return filepath.Base(path) == "named" }

func (t *Table) labelled(id string, asked *spec.SELinux) (*Pod, error) {
	p := &Pod{id: id, config: &spec.Pod{SELinux: asked}}
	t.pods[id] = p
	return p, t.labelPod(p)
}

func inPod(p *Pod, change func(*spec.Container)) *container {
	c := &container{id: "c", pod: p}
	change(&c.rec.Config)
	return c
}

// critest's specs of SELinux, as far as no kernel is needed for them.
func TestLabelsOfPodsAndContainers(t *testing.T) {
	tb := labelling()
	first, err := tb.labelled("first", nil)
	if err != nil {
		t.Fatal(err)
	}
	level := first.rec.SELinuxLevel
	for name, c := range map[string]struct {
		change        func(*spec.Container)
		process, file string
	}{
		"nothing asked": {func(*spec.Container) {}, "system_u:system_r:container_t:" + level, "system_u:object_r:container_file_t:" + level},
		"just a level":  {func(c *spec.Container) { c.Security.SELinux = &spec.SELinux{Level: "s0:c7,c8"} }, "system_u:system_r:container_t:s0:c7,c8", "system_u:object_r:container_file_t:s0:c7,c8"},
		"just a type":   {func(c *spec.Container) { c.Security.SELinux = &spec.SELinux{Type: "other_t"} }, "system_u:system_r:other_t:" + level, "system_u:object_r:container_file_t:" + level},
		"everything": {func(c *spec.Container) {
			c.Security.SELinux = &spec.SELinux{User: "u", Role: "r", Type: "x_t", Level: "s0"}
		}, "u:r:x_t:s0", "u:object_r:container_file_t:s0"},
		"privileged": {func(c *spec.Container) { c.Security.Privileged = true }, "", "system_u:object_r:container_file_t:" + level},
	} {
		l, err := tb.containerLabels(inPod(first, c.change))
		if err != nil || l.process != c.process || l.file.String() != c.file {
			t.Errorf("%s: %q, %q, %v; want %q, %q", name, l.process, l.file, err, c.process, c.file)
		}
	}

	// Each pod has a level of its own, but one that asks for another's.
	levels := map[string]bool{level: true}
	for _, id := range strings.Fields("a b c d e f g h") {
		p, err := tb.labelled(id, nil)
		if err != nil || levels[p.rec.SELinuxLevel] || p.rec.SELinuxLevel == "" {
			t.Errorf("pod %s has the level %q, %v", id, p.rec.SELinuxLevel, err)
		}
		levels[p.rec.SELinuxLevel] = true
	}
	if taken := tb.takenLevels(); !maps.Equal(taken, levels) {
		t.Errorf("taken are %v, and the pods have %v", taken, levels)
	}
	// The level of a pod that is gone is free again.
	delete(tb.pods, "a")
	if taken := tb.takenLevels(); len(taken) != len(levels)-1 {
		t.Errorf("of %d pods one is gone, and %d levels are taken", len(levels), len(taken))
	}
	same, err := tb.labelled("same", &spec.SELinux{Level: level})
	if err != nil || same.rec.SELinuxLevel != level {
		t.Errorf("a pod that asks for %s has %q, %v", level, same.rec.SELinuxLevel, err)
	}
	typed, err := tb.labelled("typed", &spec.SELinux{Type: "other_t", Level: "s0:c1"})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := tb.containerLabels(inPod(typed, func(*spec.Container) {})); err != nil || l.process != "system_u:system_r:other_t:s0:c1" {
		t.Errorf("a container that asks for nothing in a pod that does has %q, %v", l.process, err)
	}

	for name, asked := range map[string]*spec.SELinux{"type": {Type: "nonsense_t"}, "level": {Level: "nonsense"}} {
		if _, err := tb.labelled("bad", asked); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("a pod with a wrong %s: %v", name, err)
		}
		if _, err := tb.containerLabels(inPod(first, func(c *spec.Container) { c.Security.SELinux = asked })); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("a container with a wrong %s: %v", name, err)
		}
	}
}

// CVE-2021-43816: only what a client asks for is relabelled, and what is ours;
// not a host path that is mounted where the runtime's own files would be.
func TestOnlyWhatIsAskedForIsRelabelled(t *testing.T) {
	tb := labelling()
	p, err := tb.labelled("p", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		mount   spec.Mount
		refused bool // since it would relabel /etc
	}{
		"asked":         {spec.Mount{ContainerPath: "/data/", HostPath: "/etc", SELinuxRelabel: true}, true},
		"not asked":     {spec.Mount{ContainerPath: "/data", HostPath: "/etc"}, false},
		"over our file": {spec.Mount{ContainerPath: "/etc/hosts", HostPath: "/etc"}, false},
	} {
		ctr := inPod(p, func(s *spec.Container) { s.Mounts = []spec.Mount{c.mount} })
		l, err := tb.containerLabels(ctr)
		if err != nil {
			t.Fatal(err)
		}
		mounts := []specs.Mount{{Destination: strings.TrimSuffix(c.mount.ContainerPath, "/"), Source: c.mount.HostPath}}
		if err := tb.relabelMounts(ctr, l, mounts); errkind.Is(err, errkind.InvalidArgument) != c.refused || !c.refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What one pod has for its own has the pod's level; what is for all, and a
// volume by name, which outlives its pods, the policy's.
func TestLabelsOfVolumes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	tb := labelling()
	p, err := tb.labelled("p", &spec.SELinux{Level: "s0:c1,c2"})
	if err != nil {
		t.Fatal(err)
	}
	const file = "system_u:object_r:container_file_t:"
	for name, c := range map[string]struct {
		dir     string
		relabel bool
		shared  []string
		want    string
	}{
		"for the pod":          {"plain", true, nil, file + "s0:c1,c2"},
		"for all":              {"plain", true, []string{"/v"}, file + "s0"},
		"another is for all":   {"plain", true, []string{"/w"}, file + "s0:c1,c2"},
		"not asked":            {"plain", false, []string{"/v"}, ""},
		"by name":              {"named", false, nil, file + "s0"},
		"by name, for the pod": {"named", true, nil, file + "s0:c1,c2"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), c.dir)
			if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			ctr := inPod(p, func(s *spec.Container) {
				s.Mounts = []spec.Mount{{ContainerPath: "/v", HostPath: dir, SELinuxRelabel: c.relabel}}
				s.Extra.SharedLabel = c.shared
			})
			l, err := tb.containerLabels(ctr)
			if err != nil {
				t.Fatal(err)
			}
			before := labelAt(dir)
			if err := tb.relabelMounts(ctr, l, []specs.Mount{{Destination: "/v", Source: dir}}); err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				c.want = before
			}
			for _, path := range []string{dir, filepath.Join(dir, "sub")} {
				if got := labelAt(path); got != c.want {
					t.Errorf("%s has the label %q, want %q", path, got, c.want)
				}
			}
		})
	}
}

func labelAt(path string) string {
	b := make([]byte, 256)
	n, _ := unix.Lgetxattr(path, "security.selinux", b)
	return strings.TrimSuffix(string(b[:max(n, 0)]), "\x00")
}

// What containers execute of the host's must have a label for that.
func TestLabelOfTheInit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	tb := labelling()
	tb.cfg.Root, tb.cfg.InitPath = t.TempDir(), filepath.Join(t.TempDir(), "init")
	tb.cfg.SELinux.policy.ReadOnly = selinux.Label{User: "system_u", Role: "object_r", Type: "container_ro_file_t", Level: "s0"}
	for _, program := range []string{"first", "second"} {
		if err := os.WriteFile(tb.cfg.InitPath, []byte(program), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := tb.cfg.SELinux.copyInit(tb.cfg.InitPath, tb.initPath()); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(tb.initPath()); err != nil || string(b) != program {
			t.Errorf("the copy has %q, %v", b, err)
		}
		if got := labelAt(tb.initPath()); got != "system_u:object_r:container_ro_file_t:s0" {
			t.Errorf("the copy has the label %q", got)
		}
	}
	tb.cfg.SELinux = nil
	if got := tb.initPath(); got != tb.cfg.InitPath {
		t.Errorf("without labels it is %s", got)
	}
}
