//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// node is a lab whose every command fails the test when it fails.
type node struct {
	*lab.Lab
	t     *testing.T
	shell string // reference of an image with a shell
	web   string // reference of an image that serves page
}

const page = "hello from the image\n"

func newNode(t *testing.T, o lab.Options) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l, err := lab.New(o)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Lab: l, t: t}
	l.EndWith(t)
	if err := l.StartRegistry(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.shell, n.web = l.Registry+"/shell:1", l.Registry+"/web:1"
	shell, err := testimage.Shell()
	if err != nil {
		t.Fatal(err)
	}
	web, err := testimage.Web(page)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testimage.Push(t.Context(), n.shell, shell); err != nil {
		t.Fatal(err)
	}
	if _, err := testimage.Push(t.Context(), n.web, web); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// crictl runs a command that must succeed and returns what it printed.
func (n *node) crictl(args ...string) string {
	n.t.Helper()
	out, err := n.Crictl(n.t.Context(), args...)
	if err != nil {
		n.t.Fatalf("crictl %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out)
}

// berth does the same with our own command line.
func (n *node) berth(args ...string) string {
	n.t.Helper()
	out, err := n.Berth(n.t.Context(), args...)
	if err != nil {
		n.t.Fatalf("berth %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out)
}

// file writes v as JSON for crictl and returns the path.
func (n *node) file(name string, v any) string {
	n.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		n.t.Fatal(err)
	}
	path := filepath.Join(n.Dir, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		n.t.Fatal(err)
	}
	return path
}

func (n *node) runtime() criv1.RuntimeServiceClient { return criv1.NewRuntimeServiceClient(n.Conn()) }

func (n *node) images() criv1.ImageServiceClient { return criv1.NewImageServiceClient(n.Conn()) }

// podConfig is a pod with a log directory of its own.
func (n *node) podConfig(name string) *criv1.PodSandboxConfig { return n.PodConfig(name) }

// run makes a running container of a pod of its own and returns both ids.
func (n *node) run(name string, config *criv1.ContainerConfig, ports ...*criv1.PortMapping) (pod, container string) {
	n.t.Helper()
	sandbox := n.podConfig(name)
	sandbox.PortMappings = ports
	pod, container, err := n.RunPod(n.t.Context(), sandbox, config)
	if err != nil {
		n.t.Fatal(err)
	}
	return pod, container
}

// eventually fails the test when f is not nil within a generous time.
func (n *node) eventually(f func() error) {
	n.t.Helper()
	if err := lab.Eventually(n.t.Context(), 2*time.Minute, f); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) status(container string) *criv1.ContainerStatus {
	n.t.Helper()
	r, err := n.runtime().ContainerStatus(n.t.Context(), &criv1.ContainerStatusRequest{ContainerId: container})
	if err != nil {
		n.t.Fatal(err)
	}
	return r.Status
}
