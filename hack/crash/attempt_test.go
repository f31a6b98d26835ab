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
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/hack/lab"
)

// ofVolumes tells the failpoints of named volumes, which TestEveryVolumeStep
// crashes at.
func ofVolumes(name string) bool { return strings.HasPrefix(name, "volume.") }

// ofAttempts tells the failpoints that a new attempt of a container passes, one
// in a new attempt of its pod too.
func ofAttempts(name string) bool {
	for _, verb := range []string{"container.create/", "container.start/", "container.remove/", "snapshot-make/", "pod.run/", "pod.remove/"} {
		if strings.HasPrefix(name, verb) {
			return true
		}
	}
	return false
}

// TestEveryStepOfAnAttempt kills the daemon once while it makes a new attempt of
// a container, in its pod or in a new attempt of that, with its writable layer
// kept. What the container had in it and in its volume is there at the end,
// and there is one container.
func TestEveryStepOfAnAttempt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l := newLab(t, lab.Options{})
	image := setUp(t, l)
	for n, name := range slices.DeleteFunc(failpoints(t, l.Daemon), func(name string) bool { return !ofAttempts(name) }) {
		t.Run(name, func(t *testing.T) {
			c := &client{Lab: l, t: t, image: image, pod: fmt.Sprintf("again%d", n), failpoint: name}
			c.attempt()
			if c.kills != 1 {
				t.Errorf("the daemon was killed %d times at %s, want once", c.kills, name)
			}
		})
	}
}

// attempt has a container end, and with it its pod of one, and start again.
func (c *client) attempt() {
	t, rt := c.t, criv1.NewRuntimeServiceClient(c.Conn())
	c.restart("")
	pod := c.PodConfig(c.pod)
	pod.Labels = map[string]string{"io.berth.run": "true"}
	config := lab.ContainerConfig("c", c.image, "sh", "-c", "echo >>/layer; echo >>/vol/file; [ $(wc -l </layer) = 2 ] && exec sleep 600")
	config.Annotations = map[string]string{"io.berth.volumes": `["/vol"]`}
	podID, id, err := c.RunPod(t.Context(), pod, config)
	if err != nil {
		t.Fatal(err)
	}
	c.eventually(func() error {
		if s := c.state(id); s != criv1.ContainerState_CONTAINER_EXITED {
			return errors.New("it has not ended")
		}
		r, err := rt.PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: podID})
		if err == nil && r.Status.State == criv1.PodSandboxState_SANDBOX_READY {
			err = errors.New("its pod is not stopped") // as is due at the end of a pod of one
		}
		return err
	})
	c.restart(c.failpoint)

	c.do("Again", func(ctx context.Context) error {
		_, err := c.Admin().Again(ctx, &api.AgainRequest{Container: id, Keep: true})
		if status.Code(err) == codes.NotFound && c.kills > 0 {
			return nil // its successor was there before the daemon died
		}
		return err
	})
	var now string
	c.eventually(func() error {
		r, err := rt.ListContainers(t.Context(), &criv1.ListContainersRequest{})
		switch {
		case err != nil:
			return err
		case len(r.Containers) != 1:
			return fmt.Errorf("there are %d containers", len(r.Containers))
		case r.Containers[0].State != criv1.ContainerState_CONTAINER_RUNNING:
			return fmt.Errorf("the new attempt is %s", r.Containers[0].State)
		}
		now = r.Containers[0].Id
		return nil
	})
	c.eventually(func() error { // it adds its lines first
		r, err := rt.ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: now, Cmd: []string{"sh", "-c", "wc -l </layer; wc -l </vol/file"}, Timeout: 30})
		if err == nil && strings.Join(strings.Fields(string(r.Stdout)), " ") != "2 2" {
			err = fmt.Errorf("the new attempt has %q", r.Stdout)
		}
		return err
	})
	pods, err := rt.ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) != 1 {
		t.Errorf("there are %d pods, %v", len(pods.GetItems()), err)
	}
	for _, p := range pods.GetItems() {
		if err := c.RemovePod(t.Context(), p.Id); err != nil {
			t.Error(err)
		}
	}
	c.check("after the life")
}

func (c *client) eventually(f func() error) {
	c.t.Helper()
	if err := lab.Eventually(c.t.Context(), time.Minute, f); err != nil {
		c.t.Fatal(err)
	}
}

// TestEveryVolumeStep kills the daemon once while it makes or removes a volume:
// it is there or not, and no directory is without a record.
func TestEveryVolumeStep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l := newLab(t, lab.Options{})
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	names := slices.DeleteFunc(failpoints(t, l.Daemon), func(name string) bool { return !ofVolumes(name) })
	if len(names) == 0 {
		t.Fatal("volumes have no failpoints")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			c := &client{Lab: l, t: t, failpoint: name}
			c.restart(name)
			c.do("CreateVolume", func(ctx context.Context) error {
				v, err := c.Admin().CreateVolume(ctx, &api.CreateVolumeRequest{Name: "v"})
				if err == nil {
					err = os.WriteFile(filepath.Join(v.Path, "file"), nil, 0o600)
				}
				return err
			})
			c.do("RemoveVolume", func(ctx context.Context) error {
				err := c.Admin().RemoveVolume(ctx, "v")
				if status.Code(err) == codes.NotFound && c.kills > 0 {
					return nil
				}
				return err
			})
			if c.kills != 1 {
				t.Errorf("the daemon was killed %d times at %s, want once", c.kills, name)
			}
			if list, err := c.Admin().Volumes(t.Context(), false); err != nil || len(list) > 0 {
				t.Errorf("left %v, %v", list, err)
			}
		})
	}
}
