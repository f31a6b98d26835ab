//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/streams"
)

// TestClientsLeaveNothing is the small run of hack/soak's: clients that leave
// at every stage, after which daemon and shim hold no more than before.
func TestClientsLeaveNothing(t *testing.T) {
	n := newNode(t, lab.Options{LogLevel: 2})
	load, err := streams.Prepare(t.Context(), n.Lab)
	if err != nil {
		t.Fatal(err)
	}
	// What is made once and kept is made now.
	if err := load.Run(t.Context(), streams.Counts{Exec: 32, Attach: 16, Forward: 16}); err != nil {
		t.Fatal(err)
	}
	before, err := streams.Rest(t.Context(), n.Lab)
	if err != nil {
		t.Fatal(err)
	}
	if err := load.Run(t.Context(), streams.Counts{Exec: 128, Attach: 32, Forward: 32}); err != nil {
		t.Fatal(err)
	}
	if _, err := streams.Settle(t.Context(), n.Lab, before, time.Minute); err != nil {
		t.Error(err)
	}
}

// TestAttachAfterCrashes speaks to containers with and without a terminal when
// the daemon that made them was killed, and then the shim that did.
func TestAttachAfterCrashes(t *testing.T) {
	matrix(t, func(t *testing.T, n *node) {
		n.crictl("pull", n.shell)
		var ids []string
		for _, tty := range []bool{false, true} {
			config := lab.ContainerConfig("c", n.shell, "sh", "-c", "while read line; do echo got $line; done")
			config.Stdin, config.Tty = true, tty
			_, id := n.run(fmt.Sprintf("tty-%v", tty), config)
			ids = append(ids, id)
			n.echoes(id, "before")
		}
		n.Kill()
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			n.echoes(id, "daemon")
			if got := n.crictl("exec", id, "echo", "executed"); got != "executed" {
				t.Errorf("exec after the daemon was killed: %q", got)
			}
		}
		if killed, err := n.KillShims(t.Context()); err != nil || killed == 0 {
			t.Fatalf("killed %d shims: %v", killed, err)
		}
		for _, id := range ids {
			n.echoes(id, "shim")
		}
	})
}

// echoes attaches to a container that answers "got WORD", and tells it word
// until it does: a shim that was killed may be a moment away.
func (n *node) echoes(id, word string) {
	n.t.Helper()
	n.eventually(func() error {
		out, err := os.Create(filepath.Join(n.Dir, "attached"))
		if err != nil {
			return err
		}
		defer out.Close()
		cmd := exec.CommandContext(n.t.Context(), filepath.Join(n.Clone, "hack/.cache/crictl"),
			"--config", "/dev/null", "-t", "60s", "-r", "unix://"+n.Socket, "attach", "-i", id)
		cmd.Stdout, cmd.Stderr = out, out
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() {
			_ = cmd.Process.Kill()
			n.finish(cmd)
		}()
		if _, err := io.WriteString(in, word+"\n"); err != nil {
			return err
		}
		return lab.Eventually(n.t.Context(), 5*time.Second, func() error {
			b, err := os.ReadFile(out.Name())
			if err == nil && !strings.Contains(string(b), "got "+word) {
				err = fmt.Errorf("attach to %s: %q", id, b)
			}
			return err
		})
	})
}
