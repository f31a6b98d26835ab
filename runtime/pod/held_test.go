package pod_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// heldOf counts the descriptors that this process has open in cgroups of that
// name and below.
func heldOf(t *testing.T, group string) int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "/sys/fs/cgroup/") && strings.Contains(to, group) {
			n++
		}
	}
	return n
}

// Descriptors are held for the next sample of what lives, and of nothing else.
func TestSamplesHoldNothingOfWhatHasEnded(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	parent := n.parentBelow("heldpod")
	podID, id := n.start(t, "held", func(p *spec.Pod, _ *spec.Container) { p.CgroupParent = parent })
	if _, err := n.PodStats(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	own, all := heldOf(t, id), heldOf(t, "heldpod")
	if own == 0 || all <= own {
		t.Errorf("%d descriptors are held of the container and %d of its pod", own, all)
	}
	if err := n.StopContainer(t.Context(), pod.ViewAll, id, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the container's descriptors are closed", func() bool { return heldOf(t, id) == 0 })
	if err := n.Stop(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod's descriptors are closed", func() bool { return heldOf(t, "heldpod") == 0 })
}
