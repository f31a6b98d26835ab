//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// TestNewAttempts starts containers again: what was in the writable layer is
// gone and what was in volumes is there; with --keep both are.
func TestNewAttempts(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	shared := filepath.Join(n.Dir, "shared")
	script := "touch /layer /host/file /fresh/file /vol/file; exec sleep 1000"
	first := n.berth("run", "-d", "--name", "web", "-v", shared+":/host", "-v", "/fresh", "-v", "kept:/vol", n.shell, "sh", "-c", script)
	look := func() string {
		return n.berth("exec", "web", "sh", "-c", "for f in /layer /host/file /fresh/file /vol/file; do [ -e $f ] && echo -n $f,; done; true")
	}
	const volumes = "/host/file,/fresh/file,/vol/file,"
	n.eventually(func() error { return wantText(look(), "/layer,"+volumes) })

	// The next ones touch nothing by themselves.
	n.berth("stop", "-t", "0", "web")
	n.berth("rm", "web")
	n.berth("run", "-d", "--name", "web", "-v", shared+":/host", "-v", "/fresh", "-v", "kept:/vol", n.shell, "sleep", "1000")
	n.berth("exec", "web", "sh", "-c", "touch /layer /fresh/file")
	second := n.berth("ps", "-q", "--no-trunc")
	out, errs := n.both("restart", "-t", "0", "web")
	third := n.berth("ps", "-q", "--no-trunc")
	if second == first || third == second || out != "web\n" || !strings.Contains(errs, "web is a new attempt, "+third[:12]) || !strings.Contains(errs, "a fresh writable layer") {
		t.Errorf("restart of %s to %s: %q, %q", second, third, out, errs)
	}
	if got := look(); got != volumes {
		t.Errorf("a new attempt has %q, want %q", got, volumes)
	}
	n.berth("exec", "web", "touch", "/layer")
	n.berth("stop", "-t", "0", "web")
	if _, errs = n.both("start", "--keep", "web"); !strings.Contains(errs, "the old writable layer") {
		t.Errorf("start --keep says %q", errs)
	}
	if got := look(); got != "/layer,"+volumes {
		t.Errorf("with --keep it has %q", got)
	}
	// The image may go meanwhile: its layers stay.
	n.berth("stop", "-t", "0", "web")
	n.berth("rmi", "-f", n.shell)
	n.berth("start", "web")
	if got := look(); got != volumes {
		t.Errorf("without its image it has %q", got)
	}
	if lines := strings.Split(n.berth("ps", "-a"), "\n"); len(lines) != 2 {
		t.Errorf("earlier attempts are left: %q", lines)
	}
	n.berth("rm", "-f", "web")
	n.berth("volume", "rm", "kept")
}

// both runs berth and returns what it printed to stdout and stderr.
func (n *node) both(args ...string) (out, errs string) {
	n.t.Helper()
	code, out, errs := n.outcome(args...)
	if code != 0 {
		n.t.Fatalf("berth %s: %d: %s", strings.Join(args, " "), code, errs)
	}
	return out, errs
}

// outcome runs berth and returns how it ended and what it printed.
func (n *node) outcome(args ...string) (code int, out, errs string) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), filepath.Join(n.Clone, "bin/berth"), append([]string{"--socket", n.Socket}, args...)...)
	cmd.Dir = n.Dir
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// pidOf is the first process of a container, on the host.
func (n *node) pidOf(name string) int {
	n.t.Helper()
	id := n.berth("ps", "-q", "--no-trunc", "--filter", "name="+name)
	r, err := n.runtime().ContainerStatus(n.t.Context(), &criv1.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		n.t.Fatal(err)
	}
	var info struct {
		Pid int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.Pid == 0 {
		n.t.Fatalf("no process of %s in %v: %v", name, r.Info, err)
	}
	return info.Pid
}

func wantText(got, want string) error {
	if got != want {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}

// TestRestartPolicies holds containers to what --restart says, over restarts of
// the daemon and, with the state directory emptied and another boot's id in
// the records, over a reboot.
func TestRestartPolicies(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	counts := filepath.Join(n.Dir, "counts")
	if err := os.Mkdir(counts, 0o755); err != nil {
		t.Fatal(err)
	}
	start := func(name, policy, script string) {
		n.berth("run", "-d", "--name", name, "--restart", policy, "-v", counts+":/c", n.shell, "sh", "-c", "echo >>/c/"+name+"; "+script)
	}
	starts := func(name string) int {
		b, err := os.ReadFile(filepath.Join(counts, name))
		if err != nil {
			return 0
		}
		return len(b)
	}
	become := func(name string, count int) {
		t.Helper()
		n.eventually(func() error {
			if got := starts(name); got != count {
				return fmt.Errorf("%s was started %d times, want %d", name, got, count)
			}
			return nil
		})
	}
	ends := "[ $(wc -l </c/%s) -ge 3 ] && exec sleep 1000; exit 3"
	start("always", "always", fmt.Sprintf(ends, "always"))
	start("twice", "on-failure:2", "exit 4")
	start("well", "on-failure", "exit 0")
	start("stopped", "unless-stopped", "exec sleep 1000")
	start("once", "no", "exit 5")
	become("always", 3)
	become("twice", 3)
	n.eventually(func() error {
		out := n.berth("ps", "-a")
		for _, want := range []string{"Exited (4)", "Exited (0)", "Exited (5)"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("ps -a: want %q in\n%s", want, out)
			}
		}
		return nil
	})
	want(t, n.berth("ps"), "always")
	if got := []int{starts("well"), starts("once"), starts("stopped")}; !slices.Equal(got, []int{1, 1, 1}) {
		t.Errorf("started so often: %v", got)
	}

	// A stop holds, also while one waits for its restart, and over the daemon's.
	start("waits", "always", "exit 6")
	n.eventually(func() error {
		if out := n.berth("ps", "-a"); starts("waits") < 3 || !strings.Contains(out, "Restarting (6)") {
			return fmt.Errorf("%d starts, ps -a:\n%s", starts("waits"), out)
		}
		return nil
	})
	n.berth("stop", "-t", "0", "waits", "stopped")
	// What ends while no daemon runs is restarted by the next.
	pid := n.pidOf("always")
	n.Kill()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	become("always", 4)
	waits := starts("waits")

	// A reboot: processes, mounts and the state directory are gone.
	if err := n.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	become("always", 5)
	become("waits", waits+1) // always means that a boot starts it
	if got := []int{starts("stopped"), starts("well"), starts("once"), starts("twice")}; !slices.Equal(got, []int{1, 1, 1, 3}) {
		t.Errorf("after a reboot started so often: %v", got)
	}
	n.eventually(func() error {
		if out := n.berth("ps"); !strings.Contains(out, "always") {
			return fmt.Errorf("ps:\n%s", out)
		}
		return nil
	})
	want(t, n.berth("events"), "restarting")
}
