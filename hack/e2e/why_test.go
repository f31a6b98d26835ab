//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/hack/lab"
)

// TestWhy asks about what runs, what ended in each way, and what cannot start.
func TestWhy(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	n.berth("run", "-d", "--name", "up", n.shell, "sleep", "1000")
	want(t, n.berth("why", "up"), ": nothing waits")
	want(t, n.berth("why", "default/up"), "pod up is ready: nothing waits")
	n.eventually(func() error { // it runs before its program is executed
		if out := n.berth("top", "up"); !strings.Contains(out, "sleep 1000") {
			return fmt.Errorf("top: %s", out)
		}
		return nil
	})
	if code := exitCode(n, "run", "--name", "hog", "-m", "16m", n.shell, "tail", "/dev/zero"); code != 137 {
		t.Errorf("the hog ended with %d", code)
	}
	want(t, n.berth("why", "hog"), "the kernel killed it (code 137) because its memory reached the limit")
	exitCode(n, "run", "--name", "three", n.shell, "sh", "-c", "exit 3")
	want(t, n.berth("why", "three"), "its program ended with code 3")
	n.berth("kill", "-s", "TERM", "up") // sleep as process 1 has no use for it
	n.berth("kill", "up")
	n.eventually(func() error { _, err := n.Berth(t.Context(), "wait", "up"); return err })
	want(t, n.berth("why", "up"), "code 137, as of a program that SIGKILL ends")

	podFile := n.file("pod.json", n.podConfig("theirs"))
	pod := n.crictl("runp", podFile)
	container := n.crictl("create", pod, n.file("c.json", lab.ContainerConfig("broken", n.shell, "/no/such/program")), podFile)
	want(t, n.berth("why", "broken"), "waits to be started by whoever made it")
	if _, err := n.Crictl(t.Context(), "start", container); err == nil {
		t.Fatal("it started")
	}
	want(t, n.berth("why", container[:12]), "it could not be started: ")
	want(t, n.berth("why", n.shell), "is on this node: nothing waits")

	happened := n.berth("events")
	for _, text := range []string{"image pulling ", "image pulled ", "container started default/up/up ", "container oom default/hog/hog ", "container stopped default/three/three "} {
		want(t, happened, text)
	}
	want(t, n.berth("events", "--filter", "container=three", "--filter", "event=stopped"), "code=3")
}
