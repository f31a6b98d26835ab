//go:build crash

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/hack/cnitest"
	"github.com/berth-runtime/berth/hack/lab"
)

// insideNetwork are the points within the steps of a network of CNI: a plugin has
// answered, and nobody has written down what.
func insideNetwork() []string { return []string{"cni.attach.added", "cni.detach.deleted"} }

// TestEveryStepOfCNI kills the daemon at each step of the verbs of pods whose
// network plugins of CNI make, with a plugin for host ports and without: every
// address is given back, and DEL is run for all that ADD was run for.
func TestEveryStepOfCNI(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for name, more := range map[string][]lab.Plugin{"with portmap": {lab.Portmap()}, "without portmap": nil} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, lab.Options{Network: "cni", OwnNet: true})
			dir := cnitest.Dir(filepath.Join(l.Dir, "fault"))
			fault := lab.Plugin{"type": cnitest.Type, "dir": string(dir)}
			if err := l.SetNetwork("10.conflist", l.BridgeList("1.1.0", append([]lab.Plugin{fault}, more...)...)); err != nil {
				t.Fatal(err)
			}
			image := setUp(t, l)
			names := slices.DeleteFunc(failpoints(t, l.Daemon), func(name string) bool { return !strings.HasPrefix(name, "pod.") || ofCheckpoints(name) })
			for n, name := range append(names, insideNetwork()...) {
				t.Run(name, func(t *testing.T) {
					c := &client{Lab: l, t: t, image: image, pod: fmt.Sprintf("cni%d", n), failpoint: name}
					c.life()
					if c.kills != 1 {
						t.Errorf("the daemon was killed %d times at %s, want once", c.kills, name)
					}
					for _, left := range l.OfNetwork() {
						t.Errorf("left: %s", left)
					}
				})
			}
			added, deleted := map[string]bool{}, map[string]bool{}
			calls, err := dir.Calls("ADD", "DEL")
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range calls {
				(map[string]map[string]bool{"ADD": added, "DEL": deleted})[c.Verb][c.ContainerID] = true
			}
			for id := range added {
				if !deleted[id] {
					t.Errorf("pod %s was added and never deleted", id)
				}
			}
			t.Logf("%d pods were added", len(added))
		})
	}
}
