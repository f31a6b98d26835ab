package cri

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func (m *memPods) CheckpointContainer(_ context.Context, v pod.View, id, location string, timeout time.Duration) error {
	done, err := m.begin()
	defer done()
	if err != nil {
		return err
	}
	if c := m.containers[id]; c == nil || !visible(v, c.Origin) {
		return absent("container", id)
	}
	m.checkpoints = append(m.checkpoints, fmt.Sprint(id, " ", location, " ", timeout))
	return nil
}

func (m *memPods) CheckpointPod(_ context.Context, v pod.View, id, dir string, ids []string, options map[string]string) error {
	done, err := m.begin()
	defer done()
	if err != nil {
		return err
	}
	if p := m.pods[id]; p == nil || !visible(v, p.Origin) {
		return absent("pod", id)
	}
	m.checkpoints = append(m.checkpoints, fmt.Sprint(id, " ", dir, " ", ids, " ", slices.Sorted(maps.Keys(options))))
	return nil
}

func TestCheckpoint(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	podID := runPod(t, n.local, "p")
	remotePod := runPod(t, n.remote, "q")
	id := create(t, n.local, podID, "c")
	if _, err := n.local.CheckpointContainer(ctx, &criv1.CheckpointContainerRequest{ContainerId: id, Location: "/a.tar", Timeout: 7}); err != nil {
		t.Error(err)
	}
	if _, err := n.remote.CheckpointPod(ctx, &criv1.CheckpointPodRequest{PodSandboxId: remotePod, OutputPath: "/d", ContainerIds: []string{"x", "y"}, Options: map[string]string{"k": "v"}}); err != nil {
		t.Error(err)
	}
	if want := []string{id + " /a.tar 7s", remotePod + " /d [x y] [k]"}; !slices.Equal(n.pods.checkpoints, want) {
		t.Errorf("asked for %q, want %q", n.pods.checkpoints, want)
	}
	for what, timeout := range map[string]int64{"negative": -1, "beyond all time": math.MaxInt64} {
		_, err := n.local.CheckpointContainer(ctx, &criv1.CheckpointContainerRequest{ContainerId: id, Location: "/a.tar", Timeout: timeout})
		wantCode(t, what, err, codes.InvalidArgument)
	}
	_, err := n.remote.CheckpointContainer(ctx, &criv1.CheckpointContainerRequest{ContainerId: id, Location: "/a.tar"})
	wantCode(t, "a local container by the kubelet's socket", err, codes.NotFound)
	_, err = n.remote.CheckpointPod(ctx, &criv1.CheckpointPodRequest{PodSandboxId: podID, OutputPath: "/d"})
	wantCode(t, "a local pod by the kubelet's socket", err, codes.NotFound)
}

func (m *memPods) RestorePod(ctx context.Context, v pod.View, dir string, cfg spec.Pod, configs []spec.Container, options map[string]string) (string, []pod.Restored, error) {
	m.mu.Lock()
	m.checkpoints = append(m.checkpoints, fmt.Sprint(dir, " ", cfg.RuntimeHandler, " ", slices.Sorted(maps.Keys(options))))
	m.mu.Unlock()
	if dir == "/off" {
		return "", nil, errkind.New(errkind.Unimplemented, "checkpoints are off")
	}
	id, err := m.Run(ctx, v, cfg)
	var made []pod.Restored
	for _, c := range configs {
		cid, cerr := m.Create(ctx, v, id, c)
		if err == nil {
			err = cerr
		}
		made = append(made, pod.Restored{Name: c.Metadata.Name, ID: cid})
	}
	return id, made, err
}

func TestRestore(t *testing.T) {
	n := startNode(t)
	ctx := t.Context()
	config := func(name string) *criv1.ContainerConfig {
		return &criv1.ContainerConfig{Metadata: &criv1.ContainerMetadata{Name: name}, Image: &criv1.ImageSpec{Image: "busybox"}}
	}
	request := func() *criv1.RestorePodRequest {
		return &criv1.RestorePodRequest{CheckpointPath: "/d", Options: map[string]string{"k": "v"}, ContainerConfigs: []*criv1.ContainerConfig{config("b"), config("a")},
			Config: &criv1.PodSandboxConfig{Metadata: &criv1.PodSandboxMetadata{Name: "p", Namespace: "default", Uid: "u"}}}
	}
	r, err := n.remote.RestorePod(ctx, request())
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/d  [k]"}; !slices.Equal(n.pods.checkpoints, want) {
		t.Errorf("asked for %q, want %q", n.pods.checkpoints, want)
	}
	if r.PodSandboxId == "" || len(r.RestoredContainers) != 2 || r.RestoredContainers[0].Name != "b" || r.RestoredContainers[1].ContainerId == "" {
		t.Errorf("the answer is %v", r)
	}
	for what, change := range map[string]func(*criv1.RestorePodRequest){
		"no pod":          func(r *criv1.RestorePodRequest) { r.Config = nil },
		"no containers":   func(r *criv1.RestorePodRequest) { r.ContainerConfigs = nil },
		"a nameless one":  func(r *criv1.RestorePodRequest) { r.ContainerConfigs[1].Metadata.Name = "" },
		"unknown handler": func(r *criv1.RestorePodRequest) { r.RuntimeHandler = "none" },
	} {
		bad := request()
		change(bad)
		if _, err := n.local.RestorePod(ctx, bad); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	off := request()
	off.CheckpointPath = "/off"
	_, err = n.local.RestorePod(ctx, off)
	wantCode(t, "where there are no checkpoints", err, codes.Unimplemented)
	if len(n.pods.checkpoints) != 2 {
		t.Errorf("what is refused was asked for: %q", n.pods.checkpoints)
	}
}
