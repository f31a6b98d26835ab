//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// TestHandlers takes runtime handlers and CDI from the file of the daemon's
// configuration to the processes of a container.
func TestHandlers(t *testing.T) {
	dir := t.TempDir()
	n := newNode(t, lab.Options{Config: fmt.Sprintf(`
[handlers.limited]
default_ulimits = ["nofile=200:300"]
[handlers.bare]
privileged_without_host_devices = true
[cdi]
dirs = [%q]
`, dir)})
	n.crictl("pull", n.shell)

	st, err := n.runtime().Status(t.Context(), &criv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range st.RuntimeHandlers {
		names = append(names, h.Name)
		if !h.Features.GetRecursiveReadOnlyMounts() {
			t.Errorf("handler %q cannot make mounts read-only with all below them, and this kernel can", h.Name)
		}
	}
	if want := []string{"", "bare", "limited", "runc"}; !slices.Equal(names, want) {
		t.Errorf("handlers %q, want %q", names, want)
	}

	// A new specification counts without a restart.
	spec := `{"cdiVersion": "0.7.0", "kind": "vendor.example/note", "devices": [{"name": "a", "containerEdits": {"env": ["NOTE=by CDI"]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "note.json"), []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	c := lab.ContainerConfig("c", n.shell, "sleep", "1000")
	c.CDIDevices = []*criv1.CDIDevice{{Name: "vendor.example/note=a"}}
	c.Annotations = map[string]string{"cdi.k8s.io/x": "vendor.example/none=b"}
	pod, id := n.runWith("limited", "limited", c, nil)
	if got := n.crictl("exec", id, "sh", "-c", "ulimit -Sn; ulimit -Hn; echo $NOTE"); got != "200\n300\nby CDI" {
		t.Errorf("the container has the limits and the note %q", got)
	}
	if s, err := n.runtime().PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: pod}); err != nil || s.Status.RuntimeHandler != "limited" {
		t.Errorf("the pod's handler is %q, %v", s.GetStatus().GetRuntimeHandler(), err)
	}

	c = lab.ContainerConfig("c", n.shell, "sleep", "1000")
	c.Linux.SecurityContext.Privileged = true
	_, id = n.runWith("bare", "bare", c, func(p *criv1.PodSandboxConfig) { p.Linux.SecurityContext.Privileged = true })
	if got := n.crictl("exec", id, "sh", "-c", "find /dev -type b | wc -l; test -c /dev/kmsg || echo none"); got != "0\nnone" {
		t.Errorf("a privileged container without the host's devices has block devices and kmsg: %q", got)
	}

	_, err = n.runtime().RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: n.podConfig("unknown"), RuntimeHandler: "kata"})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), "kata") {
		t.Errorf("an unknown handler: %v, want InvalidArgument that names it", err)
	}
}

// runWith is run with a runtime handler and a change of the pod.
func (n *node) runWith(name, handler string, config *criv1.ContainerConfig, change func(*criv1.PodSandboxConfig)) (pod, container string) {
	n.t.Helper()
	sandbox := n.podConfig(name)
	if change != nil {
		change(sandbox)
	}
	ctx := n.t.Context()
	p, err := n.runtime().RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: sandbox, RuntimeHandler: handler})
	if err != nil {
		n.t.Fatal(err)
	}
	c, err := n.runtime().CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: p.PodSandboxId, Config: config, SandboxConfig: sandbox})
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := n.runtime().StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		n.t.Fatal(err)
	}
	return p.PodSandboxId, c.ContainerId
}
