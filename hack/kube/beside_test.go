//go:build kube

package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/testimage"
)

// housekeeping is how often the kubelet kills pods that it does not know.
const housekeeping = 2 * time.Second

// TestBeside runs a container by hand beside the kubelet: its housekeeping and a
// restart of it leave the pod alone, its image garbage collection leaves the
// image and takes those that nobody uses, and its lists never show the pod.
func TestBeside(t *testing.T) {
	s := newSpace(t)
	n := s.node
	ctx := t.Context()
	base, err := testimage.PlainBusybox(n.Clone + "/hack/.cache/busybox")
	if err != nil {
		t.Fatal(err)
	}
	// One for each who may use it, or not: that is the large one.
	for name, size := range map[string]int{"by-hand": 1, "of-a-pod": 1, "unused": 120 << 20} {
		layer := testimage.Layer{Files: []testimage.File{{Path: "/ballast", Data: strings.Repeat("b", size) + name}}}
		if err := push(ctx, n.Registry+"/"+name+":1", testimage.Image{Layers: []testimage.Layer{base, layer}}); err != nil {
			t.Fatal(err)
		}
	}
	berth := func(args ...string) string {
		t.Helper()
		out, err := n.Berth(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	local := berth("run", "-d", "--name", "byhand", n.Registry+"/by-hand:1", "/bin/sleep", "100000")
	started := n.started(t, local)
	img, err := testimage.Image{Layers: []testimage.Layer{base, fileLayer("loaded")}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	if err := testimage.Save(n.dir("loaded.tar"), "example.org/loaded:1", img); err != nil {
		t.Fatal(err)
	}
	berth("load", "-i", n.dir("loaded.tar"))
	t.Cleanup(func() {
		if _, err := n.Berth(s.cleanContext(), "rm", "-f", "byhand"); err != nil {
			t.Error(err)
		}
	})
	s.run("p", `
  containers: [{name: c, image: $REGISTRY/of-a-pod:1, command: [/bin/sleep, "100000"]}]
`)
	s.run("past", `
  restartPolicy: Never
  containers: [{name: c, image: $REGISTRY/unused:1, command: [/bin/true]}]
`)
	before := s.ready("p")
	s.ended("past")
	s.kubectl("delete", "pod", "past")

	unseen := func() {
		t.Helper()
		pods, err := n.kubeletsPods(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods {
			if p.Metadata.Name == "byhand" || p.Metadata.Namespace == "" {
				t.Errorf("the kubelet's socket shows %v", p)
			}
		}
		data, err := n.get(ctx, kubeletURL("/stats/summary"))
		if err != nil {
			t.Error(err)
		}
		if strings.Contains(string(data), "byhand") || strings.Contains(string(data), local) {
			t.Errorf("the kubelet's summary has the local container")
		}
		if now := n.started(t, local); now != started {
			t.Errorf("the local container was started at %d, and now at %d", started, now)
		}
	}
	for range 10 {
		unseen()
		time.Sleep(housekeeping)
	}
	n.kubelet.Stop(unix.SIGTERM)
	if err := n.kubeletAgain(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		time.Sleep(housekeeping)
		unseen()
	}

	// A kubelet that wants more space on the file system of images than there is,
	// by less than the image has that nobody uses. Its pod must be gone.
	s.eventually(func() error {
		pods, err := n.kubeletsPods(ctx)
		for _, p := range pods {
			if p.Metadata.Name == "past" {
				return fmt.Errorf("pod past has not been removed")
			}
		}
		return err
	})
	full, err := s.summary()
	if err != nil {
		t.Fatal(err)
	}
	n.kubelet.Stop(unix.SIGTERM)
	eviction := maps.Clone(n.kubeletConfig(nil)["evictionHard"].(map[string]string))
	eviction["imagefs.available"] = fmt.Sprint(full.Node.Runtime.ImageFs.AvailableBytes + 60<<20)
	changes := map[string]any{"evictionHard": eviction, "imageMinimumGCAge": "1ms", "evictionPressureTransitionPeriod": "1s"}
	if err := n.restartInCluster(ctx, changes); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() error {
		if images := n.images(t); slices.Contains(images, n.Registry+"/unused:1") {
			return fmt.Errorf("the unused image is there: %q", images)
		}
		return nil
	})
	unseen()
	s.eventually(func() error {
		now, err := s.summary()
		if free := now.Node.Runtime.ImageFs.AvailableBytes; err == nil && free < full.Node.Runtime.ImageFs.AvailableBytes+100<<20 {
			err = fmt.Errorf("%d bytes are free after the collection, and were before", free)
		}
		return err
	})
	images := n.images(t)
	for _, name := range []string{n.Registry + "/by-hand:1", n.Registry + "/of-a-pod:1", "example.org/loaded:1"} {
		if !slices.Contains(images, name) {
			t.Errorf("the image %s, which is used or was loaded here, was removed: %q", name, images)
		}
	}
	if after := s.pod("p").Status.ContainerStatuses[0]; after.ContainerID != before.Status.ContainerStatuses[0].ContainerID || after.RestartCount != 0 {
		t.Errorf("the pod was restarted: %v", after)
	}
	n.kubelet.Stop(unix.SIGTERM)
	if err := n.restartInCluster(ctx, nil); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() error { return n.ready(ctx) })
}

// started is when a container that runs was started, in nanoseconds.
func (n *node) started(t *testing.T, id string) int64 {
	t.Helper()
	r, err := criv1.NewRuntimeServiceClient(n.Conn()).ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	if r.Status.State != criv1.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the local container is %v", r.Status)
	}
	return r.Status.StartedAt
}

// images are the tags on berth.sock.
func (n *node) images(t *testing.T) []string {
	t.Helper()
	r, err := criv1.NewImageServiceClient(n.Conn()).ListImages(t.Context(), &criv1.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, i := range r.Images {
		tags = append(tags, i.RepoTags...)
	}
	return tags
}
