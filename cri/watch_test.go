package cri

import (
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The header of the answer is the promise that nothing is missed from then on;
// a client that was cut off is told so, and what to do.
func TestEventsBeginWithTheHeaderAndEndWithAReason(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	stream, err := n.local.GetContainerEvents(t.Context(), &criv1.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	id := runPod(t, n.local, "web")
	if e, err := stream.Recv(); err != nil || e.ContainerId != id || e.PodSandboxStatus.GetId() != id {
		t.Fatalf("got %v, %v", e, err)
	}
	n.pods.cutOff()
	_, err = stream.Recv()
	wantCode(t, "events of a client that is cut off", err, codes.ResourceExhausted)
	if err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "anew") {
		t.Errorf("%v does not say what to do", err)
	}
}

func TestResourcesOfAPodAreNoted(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	update := func(id string) error {
		_, err := n.remote.UpdatePodSandboxResources(t.Context(), &criv1.UpdatePodSandboxResourcesRequest{PodSandboxId: id,
			Overhead:  &criv1.LinuxContainerResources{CpuShares: 2},
			Resources: &criv1.LinuxContainerResources{MemoryLimitInBytes: 12345678}})
		return err
	}
	id := runPod(t, n.remote, "web")
	if err := update(id); err != nil {
		t.Fatal(err)
	}
	st, err := n.remote.PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil || !strings.Contains(st.Info["info"], "12345678") || !strings.Contains(st.Info["info"], `"cpu_shares":2`) {
		t.Errorf("told %v, %v", st, err)
	}
	wantCode(t, "resources of no pod", update(strings.Repeat("0", 64)), codes.NotFound)
	wantCode(t, "resources of a pod of berth.sock", update(runPod(t, n.local, "local")), codes.NotFound)
}
