package translate

import (
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestLocalContainer(t *testing.T) {
	t.Parallel()
	c := spec.Container{Annotations: map[string]string{
		ulimitsAnnotation: "nofile=1024:2048,core=0,memlock=-1",
		tmpfsAnnotation:   `[{"path":"/run/","options":["size=64m","mode=755","ro"]},{"path":"/tmp"}]`,
		volumesAnnotation: `["/data","/a/../b"]`,
		noCopyAnnotation:  `["/etc"]`,
	}}
	if err := LocalContainer(&c); err != nil {
		t.Fatal(err)
	}
	want := spec.Extra{
		Ulimits: []spec.Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}, {Name: "core"}, {Name: "memlock", Soft: math.MaxUint64, Hard: math.MaxUint64}},
		Tmpfs:   []spec.Tmpfs{{Path: "/run", Options: []string{"size=64m", "mode=755", "ro"}}, {Path: "/tmp"}},
		Volumes: []string{"/data", "/b"}, NoCopy: []string{"/etc"},
	}
	if !reflect.DeepEqual(c.Extra, want) {
		t.Errorf("got %+v, want %+v", c.Extra, want)
	}
	c = spec.Container{Annotations: map[string]string{"other": "x"}}
	if err := LocalContainer(&c); err != nil || !reflect.DeepEqual(c.Extra, spec.Extra{}) {
		t.Errorf("%+v, %v", c.Extra, err)
	}
}

// T-TAINT. An annotation that asks for what the command line can ask for has
// limits, and no option that leads out of a file system in memory.
func TestLocalContainerRefusals(t *testing.T) {
	t.Parallel()
	for key, texts := range map[string][]string{
		ulimitsAnnotation: {"nofile", "nofile=", "nofile=2:1", "frobs=1", "nofile=x", "nofile=1,", "nofile=1:2:3"},
		tmpfsAnnotation: {"x", `[{"path":"run"}]`, `[{"path":"/"}]`, `[{"path":"/r","options":["bind"]}]`, `[{"path":"/r","options":["size=1,exec"]}]`,
			`[{"path":"/r","options":["upperdir=/etc"]}]`, "[" + strings.Repeat(`{"path":"/r"},`, maxExtras) + `{"path":"/r"}]`},
		volumesAnnotation: {`["data"]`, `["/"]`, `["/a\u0000"]`, `{}`},
		noCopyAnnotation:  {`["../x"]`},
	} {
		for _, text := range texts {
			c := spec.Container{Annotations: map[string]string{key: text}}
			if err := LocalContainer(&c); !errkind.Is(err, errkind.InvalidArgument) {
				t.Errorf("%s %.60q: %v", key, text, err)
			}
		}
	}
	for _, text := range []string{"0", "-1", "64m", "x"} {
		p := spec.Pod{Annotations: map[string]string{shmSizeAnnotation: text}}
		if err := LocalPod(&p); !errkind.Is(err, errkind.InvalidArgument) || p.ShmSize != 0 {
			t.Errorf("%q: %d, %v", text, p.ShmSize, err)
		}
	}
	p := spec.Pod{Annotations: map[string]string{shmSizeAnnotation: "1048576"}}
	if err := LocalPod(&p); err != nil || p.ShmSize != 1<<20 {
		t.Errorf("%d, %v", p.ShmSize, err)
	}
}
