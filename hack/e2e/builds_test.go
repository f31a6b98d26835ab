//go:build e2e

package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/lab"
)

// ship is a Dockerfile of hack/builds: what is given to the image's program, and
// what that says.
type ship struct {
	dir  string
	run  []string
	want string
}

// TestDockerfiles builds those of the kinds found in projects that need no
// network: they run, they are the same without the cache, and a second time
// nothing is done for them. Those that take longer are in make example.
func TestDockerfiles(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	for _, s := range []ship{
		{"static-site", []string{"cat", "/www/index.html"}, "<h1>hello</h1>"},
		{"scratch-binary", nil, "from scratch"},
		{"worker", nil, "worker 0.0.0 --once\n1.job"},
		{"heredocs", nil, "listen = 8080\nmade by awk"},
		{"targets", nil, "hello plain"},
		{"archive", nil, "1.2\n"},
		{"caches", nil, "package alpha\npackage beta"},
		{"onbuild", nil, "one\ntwo"},
		{"side-by-side", nil, "pages\nscripts\nstyles"},
		{"escape", nil, `a "quoted" title`},
	} {
		t.Run(s.dir, func(t *testing.T) {
			m := *n
			m.t = t
			args := []string{"--build-arg", "BASE=" + n.shell, "--secret", "id=token,src=" + m.file("token", "secret")}
			m.ships(s, filepath.Join(n.Clone, "hack/builds/light", s.dir), args, true)
		})
	}
}

// ships builds a Dockerfile twice and runs what it made. If it is told that its
// commands always do the same, it builds it once more without the cache.
func (n *node) ships(s ship, dir string, args []string, always bool) {
	n.t.Helper()
	tag := "local/" + filepath.Base(dir) + ":1"
	begin := time.Now()
	first := n.builds(append(args, "-t", tag, dir)...)
	took := time.Since(begin)
	want(n.t, n.berth(append([]string{"run", "--rm", tag}, s.run...)...), s.want)
	begin = time.Now()
	second := n.builds(append(args, "-t", tag, dir)...)
	n.t.Logf("%s: %.1fs for %d commands and %d layers, then %.2fs", s.dir, took.Seconds(), first.commands, first.layers, time.Since(begin).Seconds())
	if second.id != first.id || second.commands != 0 || second.layers != 0 {
		n.t.Errorf("the second time: %+v, want id %s and nothing done", second, first.id)
	}
	if !always {
		return
	}
	if again := n.builds(append(args, "--no-cache", dir)...); again.id != first.id || again.commands != first.commands {
		n.t.Errorf("without the cache: %+v, want id %s and %d commands", again, first.id, first.commands)
	}
}
