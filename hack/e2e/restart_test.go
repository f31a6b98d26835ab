//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// matrix runs f with one shim for the node and with one per pod.
func matrix(t *testing.T, f func(t *testing.T, n *node)) {
	for _, group := range []string{"node", "pod"} {
		t.Run("shim per "+group, func(t *testing.T) { f(t, newNode(t, lab.Options{ShimGroup: group})) })
	}
}

// ticker prints a number again and again, and ends with 42 on SIGTERM.
const ticker = `trap 'exit 42' TERM; i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.05; done`

// TestDaemonKilled kills the daemon while containers run, and lets one end
// while nobody is there to see it.
func TestDaemonKilled(t *testing.T) {
	matrix(t, func(t *testing.T, n *node) {
		n.crictl("pull", n.shell)
		n.crictl("pull", n.web)
		port, err := lab.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		url := fmt.Sprintf("http://127.0.0.1:%d/", port)
		_, web := n.run("web", lab.ContainerConfig("httpd", n.web), &criv1.PortMapping{ContainerPort: 80, HostPort: int32(port)})
		_, ticking := n.run("ticking", lab.ContainerConfig("c", n.shell, "sh", "-c", ticker))
		gate := filepath.Join(n.Dir, "gate")
		if err := os.Mkdir(gate, 0o755); err != nil {
			t.Fatal(err)
		}
		ends := lab.ContainerConfig("c", n.shell, "sh", "-c", "while ! [ -e /gate/open ]; do sleep 0.05; done; exit 9")
		ends.Mounts = []*criv1.Mount{{HostPath: gate, ContainerPath: "/gate"}}
		_, ending := n.run("ending", ends)
		n.eventually(func() error { return get(url, page) })
		pid := n.status(ending)

		n.Kill()
		if err := get(url, page); err != nil {
			t.Errorf("while the daemon is dead: %v", err)
		}
		if err := os.WriteFile(filepath.Join(gate, "open"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		before := ticks(t, n, "ticking")
		n.eventually(func() error {
			if now := ticks(t, n, "ticking"); now <= before+5 {
				return fmt.Errorf("the log stands at %d lines", now)
			}
			return nil
		})
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}

		n.eventually(func() error { return exited(n, ending, 9) })
		if s := n.status(ending); s.StartedAt != pid.StartedAt {
			t.Errorf("started at %d, before the restart %d", s.StartedAt, pid.StartedAt)
		}
		for _, id := range []string{web, ticking} {
			if s := n.status(id); s.State != criv1.ContainerState_CONTAINER_RUNNING {
				t.Errorf("%s is %s", s.Metadata.Name, s.State)
			}
		}
		if err := get(url, page); err != nil {
			t.Error(err)
		}
		if out := n.crictl("exec", "-s", ticking, "echo", "again"); out != "again" {
			t.Errorf("exec: %q", out)
		}
		n.crictl("stop", "-t", "10", ticking)
		n.eventually(func() error { return exited(n, ticking, 42) })
		unbroken(t, n, "ticking")
	})
}

// TestShimKilled kills every shim: containers live on, their logs go on, and
// their exits are reported.
func TestShimKilled(t *testing.T) {
	matrix(t, func(t *testing.T, n *node) {
		n.crictl("pull", n.shell)
		_, ticking := n.run("ticking", lab.ContainerConfig("c", n.shell, "sh", "-c", ticker))
		n.eventually(func() error {
			if ticks(t, n, "ticking") == 0 {
				return fmt.Errorf("nothing logged")
			}
			return nil
		})
		if killed, err := n.KillShims(t.Context()); err != nil || killed == 0 {
			t.Fatalf("killed %d shims: %v", killed, err)
		}
		before := ticks(t, n, "ticking")
		n.eventually(func() error {
			if now := ticks(t, n, "ticking"); now <= before+5 {
				return fmt.Errorf("the log stands at %d lines", now)
			}
			return nil
		})
		n.eventually(func() error {
			out, err := n.Crictl(t.Context(), "exec", "-s", ticking, "echo", "again")
			if err == nil && strings.TrimSpace(out) != "again" {
				return fmt.Errorf("exec: %q", out)
			}
			return err
		})
		unbroken(t, n, "ticking")
		n.crictl("stop", "-t", "10", ticking)
		n.eventually(func() error {
			s := n.status(ticking)
			if s.State != criv1.ContainerState_CONTAINER_EXITED {
				return fmt.Errorf("still %s", s.State)
			}
			// Linux before 6.15 cannot tell the code of somebody else's child.
			if s.ExitCode != 42 && s.ExitCode != 255 {
				t.Errorf("exit code %d", s.ExitCode)
			}
			return nil
		})
	})
}

// ticks counts the log lines of a pod's container "c".
func ticks(t *testing.T, n *node, pod string) int {
	t.Helper()
	return len(logLines(t, n, pod))
}

func logLines(t *testing.T, n *node, pod string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.Logs, pod, "c.log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// unbroken checks that no line of the ticker was lost or doubled.
func unbroken(t *testing.T, n *node, pod string) {
	t.Helper()
	lines := logLines(t, n, pod)
	for i, line := range lines {
		// The last may be half written at this moment.
		if want := fmt.Sprintf("stdout F tick %d", i); !strings.HasSuffix(line, want) && i < len(lines)-1 {
			t.Errorf("line %d of the log is %q, want ...%q", i, line, want)
			return
		}
	}
}
