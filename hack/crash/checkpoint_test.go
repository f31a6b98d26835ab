//go:build crash

package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// ofCheckpoints tells the failpoints of checkpoints, which TestEveryCheckpointStep
// crashes at.
func ofCheckpoints(name string) bool { return strings.Contains(name, ".checkpoint/") }

// criu stands in for CRIU, which does not run on every kernel: it saves nothing
// and says that all went well.
const criu = `#!/bin/sh
while [ $# -gt 0 ]; do
	[ "$1" != --images-dir ] || echo image >"$2/pstree.img"
	[ "$1" != --work-dir ] || echo log >"$2/dump.log"
	shift
done
`

// TestEveryCheckpointStep kills the daemon once during a checkpoint of a
// container or a pod: the container goes on, and what there is of the
// checkpoint is whole or nothing.
func TestEveryCheckpointStep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	program := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(program, []byte(criu), 0o755); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, lab.Options{Config: fmt.Sprintf("checkpoint.enabled = true\ncheckpoint.criu = %q", program)})
	image := setUp(t, l)
	names := slices.DeleteFunc(failpoints(t, l.Daemon), func(name string) bool { return !ofCheckpoints(name) })
	if len(names) == 0 {
		t.Fatal("checkpoints have no failpoints")
	}
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			c := &client{Lab: l, t: t, image: image, pod: fmt.Sprintf("saved%d", i), failpoint: name}
			c.checkpoint(t.TempDir(), strings.HasPrefix(name, "pod."))
			if c.kills != 1 {
				t.Errorf("the daemon was killed %d times at %s, want once", c.kills, name)
			}
		})
	}
}

// checkpoint makes a checkpoint in dir, of the pod or of its container.
func (c *client) checkpoint(dir string, ofPod bool) {
	t := c.t
	c.restart(c.failpoint)
	rt := criv1.NewRuntimeServiceClient(c.Conn())
	podID, id, err := c.RunPod(t.Context(), c.PodConfig(c.pod), lab.ContainerConfig("c", c.image, "sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	c.running = id
	whole := []string{"c.tar"}
	if ofPod {
		whole = []string{id + ".tar", "pod.json"}
	}
	c.do("Checkpoint", func(ctx context.Context) error {
		found := entries(t, dir)
		if c.kills > 0 && len(found) > 0 && !slices.Equal(found, whole) {
			t.Errorf("the crash left %q", found)
		}
		if !ofPod {
			_, err := rt.CheckpointContainer(ctx, &criv1.CheckpointContainerRequest{ContainerId: id, Location: filepath.Join(dir, "c.tar")})
			return err
		}
		if len(found) > 0 {
			return nil // it was whole before the daemon died
		}
		_, err := rt.CheckpointPod(ctx, &criv1.CheckpointPodRequest{PodSandboxId: podID, OutputPath: dir, ContainerIds: []string{id}})
		return err
	})
	if found := entries(t, dir); !slices.Equal(found, whole) {
		t.Errorf("the checkpoint is %q, want %q", found, whole)
	}
	if left := entries(t, filepath.Join(c.Root, "checkpoints")); len(left) > 0 {
		t.Errorf("checkpoints left %q", left)
	}
	r, err := rt.ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"echo", "here"}, Timeout: 30})
	if err != nil || string(r.Stdout) != "here\n" {
		t.Errorf("after the checkpoint: %v, %v", r, err)
	}
	if err := c.RemovePod(t.Context(), podID); err != nil {
		t.Error(err)
	}
	c.check("after the life")
}

// entries are the names in a directory, which may be absent.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range found {
		names = append(names, e.Name())
	}
	return names
}
