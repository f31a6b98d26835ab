package pod_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// T-LIM. CVE-2022-31030, CVE-2022-1708: of what a command writes only so much
// is kept, of either stream, and it is not held up by the rest.
func TestLIMExecOutput(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "flood", "/bin/sleep", "600")
	const flood = 20 * pod.MaxExecOutput
	script := fmt.Sprintf("yes out | head -c %d & yes err | head -c %d >&2 & wait; exit 7", flood, flood)
	res, err := n.ExecSync(t.Context(), pod.ViewAll, id, []string{"/bin/sh", "-c", script}, 5*time.Minute)
	if err != nil || res.Code != 7 {
		t.Fatalf("exit %d, %v", res.Code, err)
	}
	for want, got := range map[string][]byte{"out\n": res.Stdout, "err\n": res.Stderr} {
		if len(got) != pod.MaxExecOutput || !strings.HasPrefix(string(got), want) {
			t.Errorf("%d bytes were kept, of %d: %.10q", len(got), pod.MaxExecOutput, got)
		}
	}
}

// T-LIM. CVE-2026-53495: a child that a command leaves behind holds up nobody,
// however much it goes on writing, and has no reader any more.
func TestLIMExecLeavesAWriter(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "writer", "/bin/sleep", "600")
	res, err := n.ExecSync(t.Context(), pod.ViewAll, id, []string{"/bin/sh", "-c", "yes & exit 3"}, 5*time.Minute)
	if err != nil || res.Code != 3 || len(res.Stdout) > pod.MaxExecOutput {
		t.Errorf("exit %d with %d bytes, %v", res.Code, len(res.Stdout), err)
	}
	eventually(t, "the writer ends", func() bool {
		pids, err := cgroup.Procs(n.group(id))
		return err == nil && len(pids) == 1
	})
}
