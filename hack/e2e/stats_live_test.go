//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/hack/lab"
)

// tmux is a terminal that can be looked at, with a shell in it.
type tmux struct {
	n      *node
	server string
}

func (n *node) tmux(columns, rows int) *tmux {
	n.t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		n.t.Skip("needs tmux, which hack/engines.sh unpacks")
	}
	x := &tmux{n, n.Name}
	x.do("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows), "env", "PS1=$ ", "sh")
	n.t.Cleanup(func() { _ = exec.Command("tmux", "-L", x.server, "kill-server").Run() })
	return x
}

func (x *tmux) do(args ...string) string {
	x.n.t.Helper()
	out, err := exec.CommandContext(x.n.t.Context(), "tmux", append([]string{"-L", x.server}, args...)...).CombinedOutput()
	if err != nil {
		x.n.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// shows waits until the screen's lines, without the empty ones at its end, fit.
func (x *tmux) shows(what string, fit func(lines []string) bool) {
	x.n.t.Helper()
	x.n.eventually(func() error {
		screen := strings.TrimRight(x.do("capture-pane", "-p"), "\n")
		if !fit(strings.Split(screen, "\n")) {
			return fmt.Errorf("the screen does not show %s:\n%s", what, screen)
		}
		return nil
	})
}

// TestLiveStats looks at berth stats in a terminal while containers come and go
// and the terminal becomes smaller.
func TestLiveStats(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	n.berth("run", "-d", "--name", "busy", "-m", "64m", n.shell, "sh", "-c", "sleep 1000 & while :; do :; done")
	x := n.tmux(120, 12)
	x.do("send-keys", filepath.Join(n.Clone, "bin/berth")+" --socket "+n.Socket+" stats", "Enter")
	header := regexp.MustCompile(`^CONTAINER ID +NAME +CPU % +MEM USAGE / LIMIT +MEM % +NET I/O +BLOCK I/O +PIDS$`)
	row := func(name string) *regexp.Regexp {
		return regexp.MustCompile(`^[0-9a-f]{12} +` + name + ` +\d+\.\d\d% +\S+ / \S+ +\d+\.\d\d% +\S+ / \S+ +\S+ / \S+ +\d+ *$`)
	}
	table := func(names ...string) func([]string) bool {
		return func(lines []string) bool {
			if len(lines) != len(names)+1 || !header.MatchString(lines[0]) {
				return false
			}
			all := strings.Join(lines[1:], "\n")
			for _, name := range names {
				if !regexp.MustCompile("(?m)" + row(name).String()).MatchString(all) {
					return false
				}
			}
			return true
		}
	}
	x.shows("one container in place of all else", table("busy"))
	n.berth("run", "-d", "--name", "quiet", n.shell, "sleep", "1000")
	n.berth("run", "-d", "--name", "third", n.shell, "sleep", "1000")
	x.shows("those that came", table("busy", "quiet", "third"))
	x.do("resize-window", "-x", "40", "-y", "4")
	x.shows("what fits", func(lines []string) bool {
		return len(lines) == 3 && strings.HasPrefix(lines[0], "CONTAINER ID") && len(lines[1]) <= 40 && lines[2] == "(2 more)"
	})
	x.do("resize-window", "-x", "120", "-y", "12")
	n.berth("rm", "-f", "third")
	x.shows("nothing of the one that went", table("busy", "quiet"))
	x.do("send-keys", "C-c", "")
	x.do("send-keys", "echo be''low", "Enter")
	x.shows("the shell below the table", func(lines []string) bool {
		return len(lines) > 3 && header.MatchString(lines[0]) && strings.Contains(strings.Join(lines[3:], "\n"), "below")
	})

	var rows []struct {
		Name        string
		CPU         *float64
		Memory      uint64
		MemoryLimit uint64  `json:"memory_limit"`
		NetReceived *uint64 `json:"net_received"`
		Pids        uint64
	}
	decode(t, n.berth("stats", "--no-stream", "--output", "json", "busy"), &rows)
	if r := rows; len(r) != 1 || r[0].Name != "busy" || r[0].CPU == nil || *r[0].CPU < 0.01 || r[0].MemoryLimit != 64<<20 ||
		r[0].Memory == 0 || r[0].NetReceived == nil || r[0].Pids != 2 {
		t.Errorf("as JSON: %+v", rows)
	}
	// Elsewhere than at a terminal: lines, without anything that steers one.
	cmd := exec.CommandContext(t.Context(), "timeout", "2.5", filepath.Join(n.Clone, "bin/berth"), "--socket", n.Socket, "stats", "quiet")
	out, _ := cmd.CombinedOutput() // ended by timeout
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if !header.MatchString(strings.TrimSpace(lines[0])) || strings.Contains(string(out), "\x1b") || strings.Count(string(out), "NAME") != 1 {
		t.Errorf("in a pipe:\n%q", out)
	}
	cmd = exec.CommandContext(t.Context(), "timeout", "2.5", filepath.Join(n.Clone, "bin/berth"), "--socket", n.Socket, "stats", "--format", "json")
	out, _ = cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not an object a line: %q", line)
		}
	}
}
