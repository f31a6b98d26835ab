//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// TestCheck leaves things in a node: what each test here ends with finds them,
// and so does the verb for people.
func TestCheck(t *testing.T) {
	n := newNode(t, lab.Options{})
	if out := n.berth("check"); !strings.Contains(out, "everything is as recorded") {
		t.Errorf("berth check of a new node: %q", out)
	}
	gone := strings.Repeat("ab", 32)
	group, dir := n.Group(gone), filepath.Join(n.State, "containers", gone)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	if err := cgroup.Make(group); err != nil {
		t.Fatal(err)
	}
	problems, err := n.Admin().Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range problems {
		found = append(found, p.Kind+" "+p.Object)
	}
	slices.Sort(found)
	if want := []string{"cgroup " + group, "file " + dir, "mount " + dir}; !slices.Equal(found, want) {
		t.Errorf("Check finds %q, want %q", found, want)
	}
	if left := strings.Join(n.OfPods(), "\n"); !strings.Contains(left, "mount "+dir) || !strings.Contains(left, gone) {
		t.Errorf("what is left of pods is said to be %q", left)
	}
	if code := exitCode(n, "check"); code != 1 {
		t.Errorf("berth check ends with %d", code)
	}
	// The next daemon removes what no record explains.
	n.Stop()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := n.berth("check"); !strings.Contains(out, "everything is as recorded") {
		t.Errorf("berth check after a restart: %q", out)
	}
}
