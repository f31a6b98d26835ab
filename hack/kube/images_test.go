//go:build kube

package kube

import (
	"context"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/testimage"
)

// handlersConfig gives the node a second runtime handler, which a RuntimeClass
// names; by its limit of open files one sees that it was used.
const handlersConfig = `
[handlers.tuned]
default_ulimits = ["nofile=1234:2345"]
`

// pushImages puts what the tests run into the registry.
func (n *node) pushImages(ctx context.Context) error {
	base, err := testimage.PlainBusybox(filepath.Join(n.Clone, "hack/.cache/busybox"))
	if err != nil {
		return err
	}
	program, err := os.ReadFile(filepath.Join(n.programs, "agnhost"))
	if err != nil {
		return err
	}
	n.box, n.agnhost = n.Registry+"/box:1", n.Registry+"/agnhost:1"
	path := []string{"PATH=/bin"}
	users := testimage.Layer{Files: []testimage.File{
		{Path: "/etc/passwd", Data: "root:x:0:0:root:/:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n"},
		{Path: "/etc/group", Data: "root:x:0:\nalice:x:1000:\nimages:x:50000:alice\n"},
	}}
	for ref, image := range map[string]testimage.Image{
		n.box:                    {Layers: []testimage.Layer{base}, Config: v1.Config{Cmd: []string{"sh"}, Env: path}},
		n.Registry + "/box:2":    {Layers: []testimage.Layer{base, fileLayer("2")}, Config: v1.Config{Cmd: []string{"sh"}, Env: path}},
		n.Registry + "/users:1":  {Layers: []testimage.Layer{base, users}, Config: v1.Config{Cmd: []string{"sh"}, Env: path}},
		n.Registry + "/secret:1": {Layers: []testimage.Layer{base, fileLayer("secret")}, Config: v1.Config{Cmd: []string{"sh"}, Env: path}},
		n.Registry + "/data:1":   {Layers: []testimage.Layer{{Files: []testimage.File{{Path: "/model/weights", Data: "w8"}, {Path: "/model/sub/more", Data: "m0re"}}}}},
		n.agnhost: {Layers: []testimage.Layer{base, {Files: []testimage.File{{Path: "/agnhost", Mode: 0o755, Data: string(program)}}}},
			Config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: path}},
	} {
		if err := push(ctx, ref, image); err != nil {
			return err
		}
	}
	return nil
}

// fileLayer makes an image one of its own.
func fileLayer(content string) testimage.Layer {
	return testimage.Layer{Files: []testimage.File{{Path: "/etc/image", Data: content + "\n"}}}
}

func push(ctx context.Context, ref string, image testimage.Image) error {
	img, err := image.Build()
	if err != nil {
		return err
	}
	_, err = testimage.Push(ctx, ref, img)
	return err
}

// kubeletsPods are the pods that the kubelet's socket shows.
func (n *node) kubeletsPods(ctx context.Context) ([]*criv1.PodSandbox, error) {
	conn, err := n.Dial(n.Kubelet)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	r, err := criv1.NewRuntimeServiceClient(conn).ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	return r.GetItems(), err
}
