//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// dataImage pushes and pulls an image of one layer without any program, whose
// links want out of it, and returns its reference and its id.
func dataImage(t *testing.T, n *node) (ref, id string) {
	t.Helper()
	img, err := testimage.Image{Layers: []testimage.Layer{{Files: []testimage.File{
		{Path: "/model/weights", Data: "weights\n"},
		{Path: "/model/run", Mode: 0o755, Data: "#!/bin/sh\necho ran\n"},
		{Path: "/latest", Sym: "/model"},
		{Path: "/out", Sym: "../../../../etc"},
	}}}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	ref = n.Registry + "/data:1"
	if _, err := testimage.Push(t.Context(), ref, img); err != nil {
		t.Fatal(err)
	}
	if id, err = n.Pull(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	return ref, id
}

func imageMount(at, ref, sub string) *criv1.Mount {
	return &criv1.Mount{ContainerPath: at, Readonly: true, ImageSubPath: sub, Image: &criv1.ImageSpec{Image: ref, UserSpecifiedImage: "data"}}
}

// TestImageVolumes mounts an image into containers, removes it under them and
// kills the daemon. That nothing is left, and berth check is content, the
// node's end tests.
func TestImageVolumes(t *testing.T) {
	matrix(t, func(t *testing.T, n *node) {
		n.crictl("pull", n.shell)
		ref, data := dataImage(t, n)
		config := lab.ContainerConfig("c", n.shell, "sleep", "1000")
		config.Mounts = []*criv1.Mount{
			imageMount("/whole", ref, ""), imageMount("/sub", data, "model"), imageMount("/link", data, "/latest"), imageMount("/file", data, "model/weights")}
		pod, id := n.run("reads", config)

		reads := func(when string) {
			t.Helper()
			for _, file := range []string{"/whole/model/weights", "/sub/weights", "/link/weights", "/file"} {
				if out := n.crictl("exec", "-s", id, "cat", file); out != "weights" {
					t.Errorf("%s: %s has %q", when, file, out)
				}
				if out, err := n.Crictl(t.Context(), "exec", "-s", id, "sh", "-c", "echo x > "+file); err == nil {
					t.Errorf("%s: %s could be written: %s", when, file, out)
				}
			}
		}
		reads("at first")
		if out := n.crictl("exec", "-s", id, "/sub/run"); out != "ran" {
			t.Errorf("a program of the image printed %q", out)
		}
		if m := n.status(id).Mounts[0]; m.Image.GetImage() != ref || m.Image.GetImageRef() != data || m.Image.GetUserSpecifiedImage() != "data" || !m.Readonly {
			t.Errorf("the status has the mount %v", m)
		}

		n.Kill()
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		reads("after a crash of the daemon")
		n.crictl("rmi", data)
		reads("after the image's removal")
		if problems, err := n.Admin().Check(t.Context()); err != nil || len(problems) > 0 {
			t.Errorf("berth check: %+v, %v", problems, err)
		}
		if err := n.RemovePod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(filepath.Join(n.Root, "images", "s", "*")); len(left) > 0 {
			t.Errorf("left the snapshots %q", left)
		}
		if left, _ := filepath.Glob(filepath.Join(n.Root, "images", "l", "*")); len(left) != 1 {
			t.Errorf("left the layers %q, want the shell's", left)
		}
	})
}

// TestImageVolumesPrivileged has a privileged container try to make its image
// volume writable: the layer is everybody's.
func TestImageVolumesPrivileged(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	ref, _ := dataImage(t, n)
	sandbox := n.podConfig("evil")
	sandbox.Linux.SecurityContext.Privileged = true
	config := lab.ContainerConfig("c", n.shell, "sleep", "1000")
	config.Linux.SecurityContext.Privileged = true
	config.Mounts = []*criv1.Mount{imageMount("/data", ref, "")}
	_, id, err := n.RunPod(t.Context(), sandbox, config)
	if err != nil {
		t.Fatal(err)
	}
	out, err := n.Crictl(t.Context(), "exec", "-s", id, "sh", "-c", "mount -o remount,bind,rw /data; echo evil > /data/model/weights")
	if err == nil {
		t.Errorf("the image could be written: %s", out)
	}
	if out := n.crictl("exec", "-s", id, "cat", "/data/model/weights"); out != "weights" {
		t.Errorf("the image has %q", out)
	}
}

// TestBadImageVolumes asks for what cannot be mounted. The kubelet knows each
// refusal by its first word.
func TestBadImageVolumes(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	ref, _ := dataImage(t, n)
	sandbox := n.podConfig("bad")
	pod, err := n.runtime().RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	writable := imageMount("/a", ref, "")
	writable.Readonly = false
	both := imageMount("/a", ref, "")
	both.HostPath = "/etc"
	for what, c := range map[string]struct {
		mount *criv1.Mount
		code  codes.Code
	}{
		"writable":           {writable, codes.InvalidArgument},
		"with a host path":   {both, codes.InvalidArgument},
		"image not here":     {imageMount("/a", n.Registry+"/nobody:1", ""), codes.NotFound},
		"missing sub path":   {imageMount("/a", ref, "model/nothing"), codes.NotFound},
		"link out of it":     {imageMount("/a", ref, "out"), codes.NotFound},
		"climbing sub path":  {imageMount("/a", ref, "../../../../etc/passwd"), codes.NotFound},
		"sub path of a file": {imageMount("/a", ref, "model/weights/x"), codes.NotFound},
	} {
		config := lab.ContainerConfig("c", n.shell, "true")
		config.Mounts = []*criv1.Mount{imageMount("/good", ref, ""), c.mount}
		_, err := n.runtime().CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: config, SandboxConfig: sandbox})
		refused(t, what, err, c.code)
		if text := status.Convert(err).Message(); !strings.HasPrefix(text, "ImageVolumeMountFailed: ") {
			t.Errorf("%s: the text is %q", what, text)
		}
	}
	if out := n.crictl("ps", "-a", "-q"); out != "" {
		t.Errorf("left the containers %s", out)
	}
	if problems, err := n.Admin().Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("berth check: %+v, %v", problems, err)
	}
}

// TestImageVolumesArePinnedForTheKubelet: its garbage collector would remove
// an image that only a local container mounts.
func TestImageVolumesArePinnedForTheKubelet(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	ref, data := dataImage(t, n)
	config := lab.ContainerConfig("c", n.shell, "sleep", "1000")
	config.Mounts = []*criv1.Mount{imageMount("/data", ref, "")}
	n.run("local", config)
	conn, err := n.Dial(n.Kubelet)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	st, err := criv1.NewImageServiceClient(conn).ImageStatus(t.Context(), &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: data}})
	if err != nil || !st.Image.GetPinned() {
		t.Errorf("kubelet.sock shows %v, %v, want it pinned", st.GetImage(), err)
	}
}
