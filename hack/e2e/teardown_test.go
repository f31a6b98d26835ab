//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/hack/lab"
)

// berthd runs one of the daemon's own commands with the flags of the lab's.
func (n *node) berthd(command string) (string, error) {
	cmd := exec.CommandContext(n.t.Context(), n.Daemon, command, "--config", filepath.Join(n.Dir, "config.toml"),
		"--root", n.Root, "--state", n.State, "--cgroup-parent", n.CgroupParent)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A node that berth is taken off has nothing of it in the kernel, whatever ran;
// images stay.
func TestTeardownLeavesNothingInTheKernel(t *testing.T) {
	for _, group := range []string{"node", "pod"} {
		t.Run(group, func(t *testing.T) {
			n := newNode(t, lab.Options{ShimGroup: group})
			free, err := lab.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			port := strconv.Itoa(free)
			for _, args := range [][]string{
				{"run", "-d", "--name", "web", "-p", port + ":80", n.shell, "sleep", "1000"},
				{"run", "-d", "--name", "sleeper", n.shell, "sleep", "1000"},
				{"run", "--name", "ended", n.shell, "true"},
			} {
				if _, err := n.Berth(t.Context(), args...); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := n.berthd("teardown"); err == nil || !strings.Contains(out, "systemctl stop berthd") {
				t.Fatalf("beside a daemon: %v\n%s", err, out)
			}
			if _, err := n.Berth(t.Context(), "network", "create", "apart"); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Berth(t.Context(), "run", "-d", "--name", "other", "--network", "apart", n.shell, "sleep", "1000"); err != nil {
				t.Fatal(err)
			}
			n.Stop()
			if out, err := n.berthd("teardown"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, left := range n.Residue() {
				if !strings.Contains(left, "docker-registry") {
					t.Errorf("left: %s", left)
				}
			}
			// It has nothing to do a second time, and the images are there.
			if out, err := n.berthd("teardown"); err != nil {
				t.Fatalf("again: %v\n%s", err, out)
			}
			if err := n.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if out, err := n.Berth(t.Context(), "images", "-q"); err != nil || strings.TrimSpace(out) == "" {
				t.Errorf("images: %v %q", err, out)
			}
			if out, err := n.Berth(t.Context(), "ps", "-aq"); err != nil || strings.TrimSpace(out) != "" {
				t.Errorf("containers: %v %q", err, out)
			}
		})
	}
}
