package cri

import (
	"testing"

	"google.golang.org/grpc/codes"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodStatsAreForTheView(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx := t.Context()
	theirs, mine := runPod(t, n.remote, "theirs"), runPod(t, n.local, "mine")
	st, err := n.remote.PodSandboxStats(ctx, &criv1.PodSandboxStatsRequest{PodSandboxId: theirs})
	if err != nil || st.Stats.Attributes.Id != theirs || st.Stats.Attributes.Metadata.Name != "theirs" || st.Stats.Linux.Cpu.Timestamp == 0 {
		t.Errorf("got %v, %v", st, err)
	}
	_, err = n.remote.PodSandboxStats(ctx, &criv1.PodSandboxStatsRequest{PodSandboxId: mine})
	wantCode(t, "stats of a local pod", err, codes.NotFound)
	list, err := n.remote.ListPodSandboxStats(ctx, &criv1.ListPodSandboxStatsRequest{})
	if err != nil || len(list.Stats) != 1 || list.Stats[0].Attributes.Id != theirs {
		t.Errorf("got %v, %v", list, err)
	}
	one, err := n.local.ListPodSandboxStats(ctx, &criv1.ListPodSandboxStatsRequest{Filter: &criv1.PodSandboxStatsFilter{Id: mine}})
	if err != nil || len(one.Stats) != 1 || one.Stats[0].Attributes.Id != mine {
		t.Errorf("got %v, %v", one, err)
	}
}

func TestMetricsAreDeclaredAndForTheView(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ctx := t.Context()
	runPod(t, n.local, "mine")
	theirs := runPod(t, n.remote, "theirs")
	declared, err := n.remote.ListMetricDescriptors(ctx, &criv1.ListMetricDescriptorsRequest{})
	if err != nil || len(declared.Descriptors) == 0 {
		t.Fatalf("got %v, %v", declared, err)
	}
	list, err := n.remote.ListPodSandboxMetrics(ctx, &criv1.ListPodSandboxMetricsRequest{})
	if err != nil || len(list.PodMetrics) != 1 || list.PodMetrics[0].PodSandboxId != theirs || len(list.PodMetrics[0].Metrics) == 0 {
		t.Errorf("got %v, %v", list, err)
	}
}
