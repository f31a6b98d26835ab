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

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/fakecriu"
	"github.com/berth-runtime/berth/hack/lab"
)

// ofCheckpoints tells the failpoints of checkpoints, which TestEveryCheckpointStep
// crashes at.
func ofCheckpoints(name string) bool {
	return strings.Contains(name, ".checkpoint/") || strings.Contains(name, ".restore/")
}

func TestMain(m *testing.M) {
	if notes, args, ok := fakecriu.Called(); ok {
		os.Exit(fakecriu.Restore(notes, args))
	}
	os.Exit(m.Run())
}

// criu stands in for CRIU, which does not run on every kernel: it saves nothing
// and says that all went well. What it restores is a shell: see fakecriu.
const criu = `
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
	l := newLab(t, lab.Options{Config: withCRIU(t)})
	image := setUp(t, l)
	names := slices.DeleteFunc(failpoints(t, l.Daemon), func(name string) bool { return !strings.Contains(name, ".checkpoint/") })
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

// withCRIU is the configuration of a node with the stand-in.
func withCRIU(t *testing.T) string {
	t.Helper()
	begin, err := fakecriu.Script()
	program := filepath.Join(t.TempDir(), "criu")
	if err == nil {
		err = os.WriteFile(program, []byte(begin+criu), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("checkpoint.enabled = true\ncheckpoint.criu = %q", program)
}

// TestEveryRestoreStep kills the daemon once during a restore of a pod, or during
// the start of what was restored: the pod is there as a whole or not at all, and
// a start goes on.
func TestEveryRestoreStep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l := newLab(t, lab.Options{Config: withCRIU(t)})
	image := setUp(t, l)
	names := slices.DeleteFunc(failpoints(t, l.Daemon), func(name string) bool {
		return !strings.Contains(name, ".restore/") && !strings.HasPrefix(name, "container.start/")
	})
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			c := &client{Lab: l, t: t, image: image, pod: fmt.Sprintf("restored%d", i), failpoint: name}
			c.restore(t.TempDir())
			if c.kills != 1 {
				t.Errorf("the daemon was killed %d times at %s, want once", c.kills, name)
			}
		})
	}
}

// restore saves a pod in dir, and restores it where the daemon is killed.
func (c *client) restore(dir string) {
	t := c.t
	rt := criv1.NewRuntimeServiceClient(c.Conn())
	config, container := c.PodConfig(c.pod), lab.ContainerConfig("c", c.image, "sleep", "600")
	podID, id, err := c.RunPod(t.Context(), config, container)
	if err == nil {
		_, err = rt.CheckpointPod(t.Context(), &criv1.CheckpointPodRequest{PodSandboxId: podID, OutputPath: dir, ContainerIds: []string{id}})
	}
	if err == nil {
		err = c.RemovePod(t.Context(), podID)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.restart(c.failpoint)
	rt = criv1.NewRuntimeServiceClient(c.Conn())
	c.do("RestorePod", func(ctx context.Context) error {
		pods, err := rt.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		containers, err := rt.ListContainers(ctx, &criv1.ListContainersRequest{})
		if err != nil {
			return err
		}
		if len(pods.Items) != len(containers.Containers) || len(pods.Items) > 1 {
			t.Errorf("there are %d pods and %d containers", len(pods.Items), len(containers.Containers))
		}
		if len(pods.Items) == 1 { // it was whole before the daemon died
			podID, id = pods.Items[0].Id, containers.Containers[0].Id
			return nil
		}
		r, err := rt.RestorePod(ctx, &criv1.RestorePodRequest{CheckpointPath: dir, Config: config, ContainerConfigs: []*criv1.ContainerConfig{container}})
		if err != nil {
			return err
		}
		podID, id = r.PodSandboxId, r.RestoredContainers[0].ContainerId
		return nil
	})
	c.do("StartContainer", func(ctx context.Context) error {
		_, err := rt.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id})
		if status.Code(err) == codes.FailedPrecondition && c.state(id) == criv1.ContainerState_CONTAINER_RUNNING {
			return nil // it was started before the daemon died
		}
		return err
	})
	r, err := rt.ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"cat", "/proc/1/cmdline"}, Timeout: 30})
	if err != nil || !strings.Contains(string(r.Stdout), "revived") {
		t.Errorf("after the restore: %v, %v", r, err)
	}
	if left := entries(t, filepath.Join(c.Root, "checkpoints")); len(left) > 0 {
		t.Errorf("checkpoints left %q", left)
	}
	if err := c.RemovePod(t.Context(), podID); err != nil {
		t.Error(err)
	}
	c.check("after the life")
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
		whole = []string{id + ".tar", "pod.json", "pod.mac"}
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
