package pod_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// TestCheckFindsWhatIsLeft leaves one thing of each kind, as a pod and a
// container that were removed in part would: Check, by which each of these
// tests ends, names them all, and nothing of a pod that lives; the next daemon
// removes them.
func TestCheckFindsWhatIsLeft(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "lives", "/bin/sleep", "600")
	gone := strings.Repeat("ab", 32)
	group := n.group(gone)
	pinned := filepath.Join(n.cfg.NetnsDir, "berth-"+gone)
	want := map[string]string{
		filepath.Join(n.cfg.State, "pods", gone):               "file",
		filepath.Join(n.cfg.State, "containers", gone):         "file",
		filepath.Join(n.cfg.Root, "volumes", gone):             "file",
		filepath.Join(n.cfg.State, "containers", gone, "root"): "mount",
		gone:   "snapshot",
		group:  "cgroup",
		pinned: "namespace",
	}
	for _, dir := range []string{filepath.Join(n.cfg.State, "pods", gone), filepath.Join(n.cfg.State, "containers", gone, "root"), filepath.Join(n.cfg.Root, "volumes", gone), filepath.Join(n.images.root, gone)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", filepath.Join(n.cfg.State, "containers", gone, "root"), "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, pinned, "")
	if err := unix.Mount("/proc/self/ns/net", pinned, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := cgroup.Make(group); err != nil {
		t.Fatal(err)
	}

	problems, err := n.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for object, kind := range want {
		if !slices.ContainsFunc(problems, func(p pod.Problem) bool { return p.Kind == kind && p.Object == object }) {
			t.Errorf("it finds no %s %s", kind, object)
		}
	}
	for _, p := range problems {
		if !strings.Contains(p.Object, gone) {
			t.Errorf("it complains of %v", p)
		}
	}

	n.Close()
	n.boot(t)
	if problems, err := n.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("left after a restart: %v, %v", problems, err)
	}
	n.wantSh(t, id, "echo alive", "alive")
}
