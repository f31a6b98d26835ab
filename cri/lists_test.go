package cri

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/imageservice"
)

// drain reads a stream to its end and counts its items, each of which may come
// once and none in an empty message.
func drain[M any](t *testing.T, stream grpc.ServerStreamingClient[M], err error, ids func(*M) []string) int {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return len(seen)
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(ids(m)) == 0 {
			t.Error("a message carries nothing")
		}
		for _, id := range ids(m) {
			if seen[id] {
				t.Errorf("%s came twice", id)
			}
			seen[id] = true
		}
	}
}

// each gives the ids of items.
func each[I any](items []I, id func(I) string) []string {
	var out []string
	for _, i := range items {
		out = append(out, id(i))
	}
	return out
}

// All six streaming lists give what the lists do, in as many messages as it
// takes, and nothing at all when there is nothing.
func TestEveryListStreams(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx, c := t.Context(), n.local
	const many = batchSize + 1
	streams := map[string]func() int{
		"pods": func() int {
			s, err := c.StreamPodSandboxes(ctx, &criv1.StreamPodSandboxesRequest{})
			return drain(t, s, err, func(m *criv1.StreamPodSandboxesResponse) []string {
				return each(m.PodSandboxes, (*criv1.PodSandbox).GetId)
			})
		},
		"containers": func() int {
			s, err := c.StreamContainers(ctx, &criv1.StreamContainersRequest{})
			return drain(t, s, err, func(m *criv1.StreamContainersResponse) []string { return each(m.Containers, (*criv1.Container).GetId) })
		},
		"container stats": func() int {
			s, err := c.StreamContainerStats(ctx, &criv1.StreamContainerStatsRequest{})
			return drain(t, s, err, func(m *criv1.StreamContainerStatsResponse) []string {
				return each(m.ContainerStats, func(s *criv1.ContainerStats) string { return s.Attributes.Id })
			})
		},
		"pod stats": func() int {
			s, err := c.StreamPodSandboxStats(ctx, &criv1.StreamPodSandboxStatsRequest{})
			return drain(t, s, err, func(m *criv1.StreamPodSandboxStatsResponse) []string {
				return each(m.PodSandboxStats, func(s *criv1.PodSandboxStats) string { return s.Attributes.Id })
			})
		},
		"metrics": func() int {
			s, err := c.StreamPodSandboxMetrics(ctx, &criv1.StreamPodSandboxMetricsRequest{})
			return drain(t, s, err, func(m *criv1.StreamPodSandboxMetricsResponse) []string {
				return each(m.PodSandboxMetrics, (*criv1.PodSandboxMetrics).GetPodSandboxId)
			})
		},
		"images": func() int {
			s, err := c.StreamImages(ctx, &criv1.StreamImagesRequest{})
			return drain(t, s, err, func(m *criv1.StreamImagesResponse) []string { return each(m.Images, (*criv1.Image).GetId) })
		},
	}
	for what, count := range streams {
		if got := count(); got != 0 {
			t.Errorf("of no %s came %d", what, got)
		}
	}
	for i := range many {
		create(t, c, runPod(t, c, fmt.Sprint(i)), "img")
		ref := fmt.Sprintf("registry.example/img:%d", i)
		n.images.byRef[ref] = imageservice.Image{ID: fmt.Sprintf("sha256:%064x", i), Tags: []string{ref}}
	}
	for what, count := range streams {
		if got := count(); got != many {
			t.Errorf("of %d %s came %d", many, what, got)
		}
	}
}
