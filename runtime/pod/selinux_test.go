package pod_test

import (
	"os"
	"testing"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// A label is accepted where no label is possible, and refused where it would
// be missed.
func TestSELinuxLabels(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	fine := func(err error) bool { return err == nil }
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		fine = func(err error) bool { return errkind.Is(err, errkind.FailedPrecondition) }
	}
	label := &spec.SELinux{Level: "s0:c1,c2"}
	p := podConfig("labelled")
	p.SELinux = label
	if _, err := n.Run(t.Context(), pod.ViewAll, p); !fine(err) {
		t.Errorf("a pod with a label: %v", err)
	}
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("plain"))
	if err != nil {
		t.Fatal(err)
	}
	c := containerConfig("labelled", "/bin/sleep", "1")
	c.Security.SELinux = label
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, c); !fine(err) {
		t.Errorf("a container with a label: %v", err)
	}
	if _, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("plain", "/bin/sleep", "1")); err != nil {
		t.Errorf("a container without one: %v", err)
	}
}
