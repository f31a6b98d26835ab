package pod_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
)

// parent is the parent of a process: of a container's first one, its shim.
func parent(t *testing.T, pid int) (ppid int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "PPid:")
	if _, err := fmt.Sscan(rest, &ppid); err != nil {
		t.Fatal(err)
	}
	return ppid
}

// Whoever changes shim.group while pods run changes it for later pods: those
// that run stay with the shim that is their parent, which alone can tell their
// exit codes.
func TestPodsStayWithTheirShim(t *testing.T) {
	for _, way := range [][2]pod.ShimGroup{{pod.GroupNode, pod.GroupPod}, {pod.GroupPod, pod.GroupNode}} {
		t.Run(fmt.Sprintf("from %s to %s", way[0], way[1]), func(t *testing.T) {
			n := newNode(t, way[0])
			const command = "trap 'exit 7' TERM; echo up >/up; while :; do sleep 0.05; done"
			_, old := n.up(t, "old", "/bin/sh", "-c", command)
			n.file(t, old, "up")
			before, err := n.Container(pod.ViewAll, old)
			if err != nil {
				t.Fatal(err)
			}
			shim := parent(t, before.Pid)
			n.with(t, func(c *pod.Config) { c.Shim.Group = way[1] })
			n.wantSh(t, old, "echo alive", "alive")
			_, young := n.up(t, "young", "/bin/sleep", "600")
			st, err := n.Container(pod.ViewAll, young)
			if err != nil {
				t.Fatal(err)
			}
			if got := parent(t, before.Pid); got != shim {
				t.Errorf("the old pod's shim became %d, it was %d", got, shim)
			}
			if parent(t, st.Pid) == shim {
				t.Error("the new pod went to the old pod's shim")
			}
			if err := n.StopContainer(t.Context(), pod.ViewAll, old, time.Minute); err != nil {
				t.Fatal(err)
			}
			if st := n.ended(t, old); st.ExitCode != 7 {
				t.Errorf("exit %d, %s: %s", st.ExitCode, st.Reason, st.Message)
			}
			for _, p := range n.Pods(pod.ViewAll, pod.PodFilter{}) {
				if err := n.Remove(t.Context(), pod.ViewAll, p.ID); err != nil {
					t.Error(err)
				}
			}
			n.Close() // ends what shims hold nothing
			if left, _ := filepath.Glob(filepath.Join(n.cfg.State, "shims", "*.sock")); len(left) > 0 {
				t.Errorf("shims are left: %v", left)
			}
			n.boot(t)
		})
	}
}
