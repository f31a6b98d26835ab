package cri

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
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
	if _, err := n.local.RestorePod(ctx, &criv1.RestorePodRequest{}); err == nil || !strings.Contains(err.Error(), "does not restore") {
		t.Errorf("a restore: %v", err)
	}
}
