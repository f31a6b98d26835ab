//go:build crash

package crash

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// ofImages tells the failpoints of the image store, which TestEveryImageStep
// crashes at.
func ofImages(name string) bool {
	return strings.HasPrefix(name, "image-") || strings.HasPrefix(name, "snapshot-")
}

// TestEveryImageStep kills the daemon once in the life of an image: pulled,
// used by a container, removed under it, pulled again and removed. Another
// image is there all the time and loses nothing.
func TestEveryImageStep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, keepBlobs := range []bool{false, true} {
		t.Run(fmt.Sprintf("keep_blobs=%t", keepBlobs), func(t *testing.T) { everyImageStep(t, keepBlobs) })
	}
}

func everyImageStep(t *testing.T, keepBlobs bool) {
	l := newLab(t, lab.Options{ShimGroup: "pod", Config: fmt.Sprintf("image.keep_blobs = %t\n", keepBlobs)})
	kept := setUp(t, l)
	image, want := pushStacked(t, l)
	names := slices.DeleteFunc(failpoints(t, l.Daemon), func(name string) bool {
		return !ofImages(name) || !keepBlobs && strings.HasPrefix(name, "image-pull/keep/")
	})
	atEachOf(t, l, names, kept, image, want, lab.ContainerConfig("c", image, "cat", "/twin"))
}

// TestEveryArtifactStep does the same with an artifact, which the container
// mounts.
func TestEveryArtifactStep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l := newLab(t, lab.Options{ShimGroup: "pod"})
	kept := setUp(t, l)
	packed, err := testimage.Layer{Files: []testimage.File{{Path: "/tree/leaf", Data: "green"}}}.Tar()
	if err != nil {
		t.Fatal(err)
	}
	ref := l.Registry + "/model:1"
	sum, err := testimage.PushArtifact(t.Context(), ref, "application/x-model",
		testimage.Blob{MediaType: "application/octet-stream", Title: "weights/model.bin", Data: "weights"},
		testimage.Blob{MediaType: "application/x.tar", Data: string(packed)})
	if err != nil {
		t.Fatal(err)
	}
	container := lab.ContainerConfig("c", kept, "cat", "/model/weights/model.bin", "/model/tree/leaf")
	container.Mounts = []*criv1.Mount{{ContainerPath: "/model", Readonly: true, Image: &criv1.ImageSpec{Image: ref}}}
	names := slices.DeleteFunc(failpoints(t, l.Daemon), func(name string) bool { return !ofImages(name) })
	atEachOf(t, l, names, kept, ref, sum.String(), container)
}

// atEachOf lets image, whose id is to be want, live once for each failpoint of
// names, on a node that has the image kept beside it.
func atEachOf(t *testing.T, l *lab.Lab, names []string, kept, image, want string, container *criv1.ContainerConfig) {
	before := stored(t, l)
	for n, name := range names {
		t.Run(name, func(t *testing.T) {
			c := &client{Lab: l, t: t, image: image, pod: fmt.Sprintf("image%d", n), failpoint: name}
			c.imageLife(want, container)
			if c.kills != 1 {
				t.Errorf("the daemon was killed %d times at %s, want once", c.kills, name)
			}
			if after := stored(t, l); !slices.Equal(before, after) {
				t.Errorf("the store has\n%s\nand had\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
			}
			if list := c.images(); len(list) != 1 || !slices.Contains(list[0].RepoTags, kept) {
				t.Errorf("the images are %v, want only %s", list, kept)
			}
		})
	}
	t.Logf("killed the daemon at %d points of images", len(names))
}

// pushStacked pushes an image of which one layer can be unpacked by itself
// and one only on the other, in several compressions.
func pushStacked(t *testing.T, l *lab.Lab) (ref, id string) {
	t.Helper()
	base, err := testimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	base.Files = append(base.Files,
		testimage.File{Path: "/etc", Dir: true, Mode: 0o750},
		testimage.File{Path: "/etc/motd", Data: "stacked"})
	img, err := testimage.Image{Layers: []testimage.Layer{base, {
		Zstd: true, Files: []testimage.File{{Path: "/twin", Link: "/etc/motd"}},
	}}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	ref = l.Registry + "/stacked:1"
	if _, err := testimage.Push(t.Context(), ref, img); err != nil {
		t.Fatal(err)
	}
	sum, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return ref, sum.String()
}

// stored lists all that the image store has on disk, without what is inside
// of layers.
func stored(t *testing.T, l *lab.Lab) []string {
	t.Helper()
	var paths []string
	root := filepath.Join(l.Root, "images")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		paths = append(paths, name)
		if d.IsDir() && d.Name() == "fs" {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func (c *client) imageLife(want string, container *criv1.ContainerConfig) {
	if strings.HasPrefix(c.failpoint, "image-open/") {
		c.crashedStart()
	} else {
		c.restart(c.failpoint)
	}
	rt, im := criv1.NewRuntimeServiceClient(c.Conn()), criv1.NewImageServiceClient(c.Conn())
	spec := &criv1.ImageSpec{Image: c.image}
	pull := func() {
		c.do("PullImage", func(ctx context.Context) error {
			r, err := im.PullImage(ctx, &criv1.PullImageRequest{Image: spec})
			if err == nil && r.ImageRef != want {
				c.t.Errorf("the image has id %s, want %s", r.ImageRef, want)
			}
			return err
		})
	}
	remove := func() {
		c.do("RemoveImage", func(ctx context.Context) error {
			_, err := im.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: spec})
			return err
		})
	}
	pull()
	if list := c.images(); len(list) != 2 {
		c.t.Errorf("after the pull there are %d images, want 2", len(list))
	}
	c.containerOn(rt, container, remove)
	pull()
	remove()
	c.check("after the life")
}

// containerOn creates a container, calls under, and removes it when it has
// ended well.
func (c *client) containerOn(rt criv1.RuntimeServiceClient, container *criv1.ContainerConfig, under func()) {
	config := c.PodConfig(c.pod)
	config.Linux.SecurityContext.NamespaceOptions.Network = criv1.NamespaceMode_NODE
	container.Linux.SecurityContext.NamespaceOptions.Network = criv1.NamespaceMode_NODE
	var podID, id string
	c.do("RunPodSandbox", func(ctx context.Context) error {
		r, err := rt.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config})
		podID = r.GetPodSandboxId()
		return err
	})
	c.do("CreateContainer", func(ctx context.Context) error {
		r, err := rt.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: podID, Config: container, SandboxConfig: config})
		id = r.GetContainerId()
		return err
	})
	under()
	c.do("StartContainer", func(ctx context.Context) error {
		_, err := rt.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id})
		return err
	})
	err := lab.Eventually(c.t.Context(), 20*time.Second, func() error {
		r, err := rt.ContainerStatus(c.t.Context(), &criv1.ContainerStatusRequest{ContainerId: id})
		if s := r.GetStatus(); err == nil && (s.State != criv1.ContainerState_CONTAINER_EXITED || s.ExitCode != 0) {
			err = fmt.Errorf("the container is %s with code %d", s.State, s.ExitCode)
		}
		return err
	})
	if err != nil {
		c.t.Error(err)
	}
	c.do("RemoveContainer", func(ctx context.Context) error {
		_, err := rt.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: id})
		return err
	})
	c.do("RemovePodSandbox", func(ctx context.Context) error { return c.RemovePod(ctx, podID) })
}

// crashedStart leaves half a pull behind and then crashes in the start that
// clears it away.
func (c *client) crashedStart() {
	c.t.Helper()
	c.restart("image-pull/commit/before")
	if _, err := c.Pull(c.t.Context(), c.image); err == nil {
		c.t.Fatal("the pull outlived its crash")
	}
	c.Env["BERTH_FAILPOINT"] = c.failpoint
	if err := c.Start(c.t.Context()); err == nil || c.Running() {
		c.t.Fatalf("the daemon started past its failpoint: %v", err)
	}
	c.kills++
	c.restart("")
	c.check("after the crash in the start")
}

func (c *client) images() []*criv1.Image {
	c.t.Helper()
	r, err := criv1.NewImageServiceClient(c.Conn()).ListImages(c.t.Context(), &criv1.ListImagesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Images
}

// TestPullsGoOnAfterAKill counts at the registry what a pull fetches again after
// the daemon was killed in the one before: nothing of what was received, but for
// the moment in which a part is dropped that is not on the disk yet (a layer
// that came within half a minute) and the image is not committed.
func TestPullsGoOnAfterAKill(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l := newLab(t, lab.Options{})
	setUp(t, l)
	behind, err := url.Parse("http://" + l.Registry)
	if err != nil {
		t.Fatal(err)
	}
	var sent atomic.Int64
	var blob string
	proxy := httputil.NewSingleHostReverseProxy(behind)
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodGet && strings.HasSuffix(r.Request.URL.Path, blob) {
			sent.Add(r.ContentLength)
		}
		return nil
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	base, err := testimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	base.Files = append(base.Files, testimage.File{Path: "/etc/motd", Data: "resumed"}) // no other image's layer
	img, err := testimage.Image{Layers: []testimage.Layer{base}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testimage.Push(t.Context(), l.Registry+"/resumed:1", img); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := layers[0].Size()
	if err != nil {
		t.Fatal(err)
	}
	blob = sum.String()
	ref := strings.TrimPrefix(front.URL, "http://") + "/resumed:1"
	c := &client{Lab: l, t: t, image: ref}
	for _, p := range []struct {
		at    string
		again int64
	}{
		{"unpack/after", 0}, {"rename/after", 0}, {"drop-parts/before", 0}, {"drop-parts/after", size}, {"settle/before", size},
		{"sync/after", size}, {"commit/before", size}, {"commit/after", 0}, {"drop-old-parts/before", 0},
	} {
		c.restart("image-pull/" + p.at)
		if _, err := c.Pull(t.Context(), ref); err == nil || c.alive() {
			t.Fatalf("the pull outlived its kill at %s (%v)", p.at, err)
		}
		sent.Store(0)
		c.restart("")
		if _, err := c.Pull(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if got := sent.Load(); got != p.again {
			t.Errorf("after a kill at %s %d bytes were fetched again, want %d", p.at, got, p.again)
		}
		c.check("after the pull that went on from " + p.at)
		if _, err := criv1.NewImageServiceClient(c.Conn()).RemoveImage(t.Context(), &criv1.RemoveImageRequest{Image: &criv1.ImageSpec{Image: ref}}); err != nil {
			t.Fatal(err)
		}
	}
}
