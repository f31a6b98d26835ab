//go:build e2e

package example

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// image is what the node builds from a static busybox.
const image = "example.org/busybox:1"

func buildImage(t *testing.T, n *lab.Lab) {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"busybox":    string(program),
		"Dockerfile": "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nENV PATH=/bin\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Berth(t.Context(), "build", "-t", image, dir); err != nil {
		t.Fatal(err)
	}
}

// TestTwoNodes runs a pod of the same name on each of two nodes.
func TestTwoNodes(t *testing.T) {
	nodes := []*lab.Lab{lab.ForTest(t, lab.Options{}), lab.ForTest(t, lab.Options{})}
	addresses := map[string]bool{}
	for _, n := range nodes {
		buildImage(t, n)
		rt := criv1.NewRuntimeServiceClient(n.Conn())
		pod, container, err := n.RunPod(t.Context(), n.PodConfig("mine"), lab.ContainerConfig("main", image, "busybox", "sleep", "1000"))
		if err != nil {
			t.Fatal(err)
		}
		said, err := rt.ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: container, Cmd: []string{"busybox", "hostname"}, Timeout: 60})
		if err != nil || string(said.Stdout) != "mine\n" {
			t.Errorf("exec: %v, %v", said, err)
		}
		status, err := rt.PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil {
			t.Fatal(err)
		}
		addresses[status.Status.Network.Ip] = true
	}
	for _, n := range nodes {
		pods, err := criv1.NewRuntimeServiceClient(n.Conn()).ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{})
		if err != nil || len(pods.Items) != 1 {
			t.Errorf("a node lists %v, %v", pods, err)
		}
	}
	if len(addresses) != 2 {
		t.Errorf("the two pods have the addresses %v", addresses)
	}
	if nodes[0].Socket == nodes[1].Socket || nodes[0].Dir == nodes[1].Dir {
		t.Errorf("the two nodes share %s or %s", nodes[0].Socket, nodes[0].Dir)
	}
}

// TestNodeIsGone has a test of its own whose node ends before it does.
func TestNodeIsGone(t *testing.T) {
	var n *lab.Lab
	if !t.Run("node", func(t *testing.T) {
		n = lab.ForTest(t, lab.Options{Parent: t.TempDir()})
		buildImage(t, n)
		if _, _, err := n.RunPod(t.Context(), n.PodConfig("left"), lab.ContainerConfig("main", image, "busybox", "sleep", "1000")); err != nil {
			t.Error(err)
		}
		if len(n.OfPods()) == 0 {
			t.Error("of a running pod there is nothing in the kernel")
		}
	}) {
		return
	}
	if left := n.Residue(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if _, err := os.Stat(n.Dir); !os.IsNotExist(err) {
		t.Errorf("of its directory: %v", err)
	}
}

// TestScript runs example.sh, which says what it has seen.
func TestScript(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	out, err := exec.CommandContext(t.Context(), "./example.sh").CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "example: two nodes ran, and nothing of them is left\n") {
		t.Errorf("%v\n%s", err, out)
	}
}
