//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// TestViews makes pods through both sockets: the kubelet's shows only its own,
// and reports images that other pods use as pinned, since its housekeeping
// kills what it does not know and removes what it sees unused.
func TestViews(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	localPod, local := n.run("local", lab.ContainerConfig("c", n.shell, "sleep", "1000"))

	conn, err := n.Dial(n.Kubelet)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	kubelet := criv1.NewRuntimeServiceClient(conn)
	made, err := kubelet.RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: n.podConfig("kubelets")})
	if err != nil {
		t.Fatal(err)
	}
	seen, err := kubelet.ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen.Items) != 1 || seen.Items[0].Id != made.PodSandboxId {
		t.Errorf("kubelet.sock shows %v, want only %s", seen.Items, made.PodSandboxId)
	}
	containers, err := kubelet.ListContainers(t.Context(), &criv1.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(containers.Containers) != 0 {
		t.Errorf("kubelet.sock shows the containers %v", containers.Containers)
	}
	if _, err := kubelet.PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: localPod}); status.Code(err) != codes.NotFound {
		t.Errorf("kubelet.sock says of a local pod: %v, want NotFound", err)
	}
	if _, err := kubelet.ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: local}); status.Code(err) != codes.NotFound {
		t.Errorf("kubelet.sock says of a local container: %v, want NotFound", err)
	}
	// Stopping what is not there succeeds in CRI, and must not reach the local pod.
	_, _ = kubelet.StopPodSandbox(t.Context(), &criv1.StopPodSandboxRequest{PodSandboxId: localPod})
	_, _ = kubelet.RemovePodSandbox(t.Context(), &criv1.RemovePodSandboxRequest{PodSandboxId: localPod})
	all := strings.Fields(n.crictl("pods", "-q", "--no-trunc", "--state", "ready"))
	if len(all) != 2 || !slices.Contains(all, localPod) || !slices.Contains(all, made.PodSandboxId) {
		t.Errorf("berth.sock shows the pods %q, want %s and %s", all, localPod, made.PodSandboxId)
	}

	images, err := criv1.NewImageServiceClient(conn).ListImages(t.Context(), &criv1.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(images.Images) != 1 || !images.Images[0].Pinned {
		t.Errorf("kubelet.sock shows the images %v, want one that is pinned", images.Images)
	}
	if err := n.RemovePod(t.Context(), localPod); err != nil {
		t.Fatal(err)
	}
	images, err = criv1.NewImageServiceClient(conn).ListImages(t.Context(), &criv1.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(images.Images) != 1 || images.Images[0].Pinned {
		t.Errorf("kubelet.sock shows the images %v, want one that is free to go", images.Images)
	}
}
