//go:build crash

package crash

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/hack/lab"
)

// ofBuilds tells the failpoints of builds, which TestEveryBuildStep crashes at.
func ofBuilds(name string) bool { return strings.HasPrefix(name, "build/") }

// onTheWayOfBuilds tells those of other verbs that a build has on its way: its
// commands run in pods, and its layers are installed as those of a pull.
func onTheWayOfBuilds(name string) bool {
	for _, verb := range []string{"pod.run/", "pod.stop/", "pod.remove/", "container.create/", "container.start/", "snapshot-", "image-pull/"} {
		if strings.HasPrefix(name, verb) {
			return strings.HasSuffix(name, "/after")
		}
	}
	return false
}

// TestEveryBuildStep kills the daemon once in the life of an image that is
// built: new, from the cache, and without it. The next build has the same id,
// and nothing is left of the one that was cut: no pod, mount, snapshot or file.
func TestEveryBuildStep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l := newLab(t, lab.Options{})
	base := setUp(t, l)
	want := ""
	for n, name := range append([]string{""}, slices.DeleteFunc(failpoints(t, l.Daemon), func(name string) bool { return !ofBuilds(name) && !onTheWayOfBuilds(name) })...) {
		t.Run(fmt.Sprint(n, " ", name), func(t *testing.T) {
			c := &client{Lab: l, t: t, image: base, failpoint: name}
			id := c.buildLife()
			if want == "" {
				want = id
			}
			if id != want {
				t.Errorf("the image has id %s, want %s", id, want)
			}
			if c.kills > 1 || c.kills == 0 && ofBuilds(name) {
				t.Errorf("the daemon was killed %d times at %s, want once", c.kills, name)
			}
		})
	}
}

func (c *client) buildLife() (id string) {
	c.restart(c.failpoint)
	build := func(noCache bool) {
		c.do("Build", func(ctx context.Context) error {
			r := &api.BuildRequest{NoCache: noCache, Tags: []string{"built:1"}, Secrets: map[string][]byte{"s": []byte("secret")}, Dockerfile: []byte("FROM " + c.image + `
COPY f /f
RUN --mount=type=secret,id=s --mount=type=tmpfs,target=/t --mount=source=f,target=/m cat /f > /g
WORKDIR /made
`)}
			out, err := c.Admin().Build(ctx, r, api.Builder{Context: contextOfOne, Event: func(api.BuildEvent) {}, Output: func(api.Output) {},
				Login: func(context.Context, string) (api.Credentials, error) { return api.Credentials{}, nil }})
			if err == nil && id != "" && out.ImageID != id {
				c.t.Errorf("the image has id %s, and had %s", out.ImageID, id)
			}
			if err == nil {
				id = out.ImageID
			}
			return err
		})
		c.nothingOfBuilds()
	}
	build(false)
	build(false)
	build(true)
	c.do("Prune", func(ctx context.Context) error {
		_, err := c.Admin().Prune(ctx, &api.PruneRequest{})
		return err
	})
	c.do("RemoveImage", func(ctx context.Context) error {
		_, err := criv1.NewImageServiceClient(c.Conn()).RemoveImage(ctx, &criv1.RemoveImageRequest{Image: &criv1.ImageSpec{Image: "built:1"}})
		return err
	})
	c.do("Prune", func(ctx context.Context) error {
		_, err := c.Admin().Prune(ctx, &api.PruneRequest{})
		return err
	})
	c.check("after the life")
	c.nothingOfBuilds()
	return id
}

func contextOfOne() (io.ReadCloser, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "f", Mode: 0o644, Size: 4, ModTime: time.Now()}); err != nil {
		return nil, err
	}
	if _, err := w.Write([]byte("text")); err != nil {
		return nil, err
	}
	return io.NopCloser(&b), w.Close()
}

// nothingOfBuilds fails the test for what a build has left.
func (c *client) nothingOfBuilds() {
	c.t.Helper()
	if left := c.OfPods(); len(left) > 0 {
		c.t.Errorf("a build left %q", left)
	}
	for _, dir := range []string{"images/b", "images/s", "pods", "containers", "volumes"} {
		if entries, err := os.ReadDir(c.Root + "/" + dir); err == nil && len(entries) > 0 {
			c.t.Errorf("a build left %s in %s", entries, dir)
		}
	}
}
