package pod_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/mount"
	"github.com/berth-runtime/berth/runtime/sys/systest"
)

func (s *images) MountReadOnly(_ context.Context, id, target string, in *idmap.Pinned, _ string) error {
	if mounted, err := systest.Mounted(target); mounted || err != nil {
		return err
	}
	return s.bind(id, target, unix.MS_RDONLY, in)
}

func imageMount(at, image, sub string) spec.Mount {
	return spec.Mount{ContainerPath: at, Image: image, ImageSubPath: sub, ReadOnly: true, Propagation: spec.PropagationPrivate}
}

func TestImageVolumeLivesAsLongAsItsContainer(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	ctx := t.Context()
	podID, err := n.Run(ctx, pod.ViewAll, podConfig("volumes"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := containerConfig("main", "/bin/sleep", "1000")
	cfg.Mounts = []spec.Mount{imageMount("/data", "busybox", ""), imageMount("/data2", "busybox", "../bin")}
	id, err := n.Create(ctx, pod.ViewAll, podID, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(ctx, pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	for command, code := range map[string]int32{
		"/data/bin/echo ok && /data2/echo ok":        0, // both are there and may be run
		"echo x > /data/new || echo x > /data2/echo": 1, // and neither is written
	} {
		if res, err := n.ExecSync(ctx, pod.ViewAll, id, []string{"/bin/sh", "-c", command}, 10*time.Second); err != nil || res.Code != code {
			t.Errorf("%s: %d %s%s %v", command, res.Code, res.Stdout, res.Stderr, err)
		}
	}
	st, err := n.Container(pod.ViewAll, id)
	if err != nil || len(st.VolumeImages) != 2 || !strings.HasPrefix(st.VolumeImages[0], "sha256:") || st.Config.Mounts[1].Image != "busybox" {
		t.Errorf("status has the images %v, %v", st.VolumeImages, err)
	}

	n.Close()
	n.boot(t)
	n.wantVolumes(t, id, 2, 3)
	if err := n.StopContainer(ctx, pod.ViewAll, id, 0); err != nil {
		t.Fatal(err)
	}
	n.ended(t, id)
	for end := time.Now().Add(10 * time.Second); n.volumeMounts(t, id) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // the exit is published before its traces go
	}
	n.wantVolumes(t, id, 0, 3)
	if err := n.RemoveContainer(ctx, pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	n.wantVolumes(t, id, 0, 0)
}

func TestImageVolumeThatCannotBeLeavesNothing(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	ctx := t.Context()
	podID, err := n.Run(ctx, pod.ViewAll, podConfig("volumes"))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]spec.Mount{
		"no image":         imageMount("/b", "nobody", ""),
		"no sub path":      imageMount("/b", "busybox", "nobody"),
		"below a file":     imageMount("/b", "busybox", "bin/sh/nobody"),
		"outside of image": imageMount("/b", "busybox", "../../root"),
	} {
		cfg := containerConfig("main", "/bin/sleep", "1000")
		cfg.Mounts = []spec.Mount{imageMount("/a", "busybox", ""), bad}
		_, err := n.Create(ctx, pod.ViewAll, podID, cfg)
		if !errkind.Is(err, errkind.NotFound) || !strings.HasPrefix(err.Error(), "ImageVolumeMountFailed: ") {
			t.Errorf("%s: got %v", name, err)
		}
		if problems, err := n.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("%s: left behind %v, %v", name, problems, err)
		}
		if left, err := n.images.Snapshots(ctx); err != nil || len(left) > 0 {
			t.Errorf("%s: left the snapshots %v, %v", name, left, err)
		}
	}
}

// An artifact can be mounted, but it has nothing to run.
func TestArtifactIsAVolumeAndNoContainer(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	ctx := t.Context()
	podID, err := n.Run(ctx, pod.ViewAll, podConfig("artifact"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := containerConfig("main", "/bin/sleep", "1000")
	cfg.Image = "model"
	_, err = n.Create(ctx, pod.ViewAll, podID, cfg)
	if !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), "artifact (application/x-model)") {
		t.Errorf("a container of an artifact: %v", err)
	}
	n.wantVolumes(t, "", 0, 0)
	cfg.Image, cfg.Mounts = "busybox", []spec.Mount{imageMount("/model", "model", "")}
	id, err := n.Create(ctx, pod.ViewAll, podID, cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.wantVolumes(t, id, 1, 2)
}

// A crash may leave a snapshot whose container has gone.
func TestSnapshotOfALostImageVolumeIsSwept(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "kept", "/bin/sleep", "1000")
	if err := n.images.Prepare(t.Context(), id+"-v0", ""); err != nil { // the container has no such volume
		t.Fatal(err)
	}
	if problems, err := n.Check(t.Context()); err != nil || len(problems) != 1 || problems[0].Kind != "snapshot" {
		t.Errorf("check says %v, %v", problems, err)
	}
	n.Close()
	n.boot(t)
	n.wantVolumes(t, id, 0, 1)
}

func (n *node) volumeMounts(t *testing.T, id string) (count int) {
	t.Helper()
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range table {
		if strings.HasPrefix(m.Target, filepath.Join(n.cfg.State, "containers", id, "images")+"/") {
			count++
		}
	}
	return count
}

func (n *node) wantVolumes(t *testing.T, id string, mounts, snapshots int) {
	t.Helper()
	if got := n.volumeMounts(t, id); got != mounts {
		t.Errorf("%d image volumes are mounted, want %d", got, mounts)
	}
	if got, err := n.images.Snapshots(t.Context()); err != nil || len(got) != snapshots {
		t.Errorf("snapshots are %v, %v, want %d", got, err, snapshots)
	}
	if problems, err := n.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("check says %v, %v", problems, err)
	}
}
