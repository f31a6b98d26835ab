package pod_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// A container's processes are those of its cgroup, whatever they call
// themselves, with bounded command lines.
func TestProcesses(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	long := strings.Repeat("x", 1<<16)
	_, id := n.up(t, "procs", "/bin/sh", "-c", "sleep 1001 & sleep 1002", long)
	s, err := n.ExecCommand(t.Context(), pod.ViewAll, id, pod.Command{Args: []string{"/bin/sleep", "1003"}, User: "7:8"}, pod.Stdio{Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		list, err := n.Processes(pod.ViewAll, id)
		if err != nil {
			t.Fatal(err)
		}
		owner := map[string]uint32{}
		for _, p := range list {
			if len(p.Command) > 4<<10 || p.Pid <= 1 || p.Parent <= 0 {
				t.Fatalf("%+v", p)
			}
			owner[p.Command] = p.UID
		}
		_, child := owner["sleep 1001"]
		if uid, ok := owner["/bin/sleep 1003"]; ok && uid == 7 && child && len(list) >= 3 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", list)
		}
	}
	for _, p := range processesOf(t, n, id) {
		if p.Pid == os.Getpid() {
			t.Error("we are among them")
		}
	}
	if err := n.StopContainer(t.Context(), pod.ViewAll, id, 0); err != nil {
		t.Fatal(err)
	}
	n.ended(t, id)
	if _, err := n.Processes(pod.ViewAll, id); errkind.Of(err) != errkind.FailedPrecondition {
		t.Errorf("of a container that has ended: %v", err)
	}
}

func processesOf(t *testing.T, n *node, id string) []pod.Process {
	t.Helper()
	list, err := n.Processes(pod.ViewAll, id)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
