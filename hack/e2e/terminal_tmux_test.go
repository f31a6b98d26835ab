//go:build e2e

package e2e

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/hack/lab"
)

// types types a line of the shell of x.
func (x *tmux) types(line string) {
	x.n.t.Helper()
	x.do("send-keys", "-l", line)
	x.do("send-keys", "Enter")
}

// has tells whether one of the lines is, or matches, want.
func has(want string) func([]string) bool {
	re := regexp.MustCompile("^" + want + "$")
	return func(lines []string) bool {
		return slices.ContainsFunc(lines, func(l string) bool { return re.MatchString(strings.TrimRight(l, " ")) })
	}
}

// TestProgressBars watches a pull in a terminal that becomes smaller meanwhile:
// a bar a layer, drawn in its place, and the shell below them at the end.
func TestProgressBars(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, digest, _, _, words, open := n.slowImage()
	x := n.tmux(100, 20)
	x.types(filepath.Join(n.Clone, "bin/berth") + " --socket " + n.Socket + " pull " + ref)
	bar := regexp.QuoteMeta(digest.Hex[:12])
	some := regexp.MustCompile(`(?m)^` + bar + ` \[=+>-+\] +\d+(\.\d+)? .?B / 8\.\d .B *$`)
	words <- struct{}{}
	words <- struct{}{}
	x.shows("a bar that has begun", func(lines []string) bool { return some.MatchString(strings.Join(lines, "\n")) })
	x.shows("one bar a layer", func(lines []string) bool {
		bars := 0
		for _, l := range lines {
			if strings.Contains(l, " / ") {
				bars++
			}
		}
		return bars == 2
	})
	x.do("resize-window", "-x", "60", "-y", "20")
	words <- struct{}{}
	x.shows("the bar in what is left of the width", func(lines []string) bool {
		return slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, digest.Hex[:12]) && len(l) <= 60 })
	})
	x.do("resize-window", "-x", "100", "-y", "20")
	open()
	x.shows("the end of the layer", has(bar+` \[=+\] .* done`))
	x.shows("the image and the shell below it", func(lines []string) bool {
		return strings.HasPrefix(lines[len(lines)-1], "$") && has(regexp.QuoteMeta(ref)+`: [0-9a-f]{12}`)(lines)
	})
}

// TestRunInTmux is run -it as a person sees it: a program that fills the screen
// and follows its size, keys that end things and that detach, and a shell whose
// terminal is as it was.
func TestRunInTmux(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	x := n.tmux(90, 20)
	berth := filepath.Join(n.Clone, "bin/berth") + " --socket " + n.Socket
	x.types("stty -a >" + n.Dir + "/before")
	x.types(berth + " run -it --name person -e PS1='in: ' " + n.shell + " sh")
	x.shows("the container's prompt", has("in:"))
	x.types("stty size; echo a''live")
	x.shows("the terminal's size", has("20 90"))
	x.shows("output", has("alive"))
	x.do("resize-window", "-x", "70", "-y", "15")
	x.types("while [ \"$(stty size)\" != '15 70' ]; do sleep 0.1; done; echo fol''lowed")
	x.shows("the new size inside", has("followed"))
	x.types("sh -c 'echo sl\"\"eeps; exec sleep 1000'")
	x.shows("that another has the terminal", has("sleeps"))
	x.do("send-keys", "C-c", "")
	x.types("echo code $?")
	x.shows("that ctrl-c was the container's", has("code 130"))
	x.types("seq 1 40 | more")
	x.shows("a pager that fills the screen", func(lines []string) bool { return strings.Contains(lines[len(lines)-1], "More") })
	x.do("send-keys", "-l", "q")
	// busybox asks where the cursor is, and the terminal's answer is typed too.
	x.shows("the prompt", func(lines []string) bool { return strings.TrimSpace(lines[len(lines)-1]) == "in:" })
	x.do("send-keys", "C-p", "")
	x.do("send-keys", "C-q", "")
	x.shows("how to come back", has("berth: detached; container person goes on.*"))
	x.types("stty -a >" + n.Dir + "/after; cmp " + n.Dir + "/before " + n.Dir + "/after || diff " + n.Dir + "/before " + n.Dir + "/after; echo sa''me")
	x.shows("the shell with its own terminal", has("same"))
	x.types("clear; " + berth + " attach person")
	x.types("echo ba''ck; exit 7")
	x.shows("the container again, and its end", func(lines []string) bool { return has("back")(lines) && strings.TrimSpace(lines[len(lines)-1]) == "$" })
	x.types("echo en''ded $?")
	x.shows("the container's code", has("ended 7"))
	n.berth("rm", "person")
}
