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

// TestManyImageVolumes mounts two images over and over into one container:
// each mount stands for itself, and brings neither privileges nor devices.
func TestManyImageVolumes(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	ref, data := dataImage(t, n)
	const many = 60
	config := lab.ContainerConfig("c", n.shell, "sleep", "1000")
	for i := range many {
		name := fmt.Sprintf("/v/%02d", i)
		config.Mounts = append(config.Mounts, imageMount(name, []string{ref, data, n.shell}[i%3], []string{"model", "/latest", "bin"}[i%3]))
	}
	// One within another: the order of the list is not that of the paths.
	config.Mounts = append([]*criv1.Mount{imageMount("/nest/model", n.shell, "bin")}, append(config.Mounts, imageMount("/nest", ref, ""))...)
	_, id := n.run("many", config)
	if out := n.crictl("exec", "-s", id, "sh", "-c", "cat /v/*/weights | wc -l; ls -d /v/*/sh | wc -l; ls /nest/model/sh; readlink /nest/latest"); strings.Join(strings.Fields(out), " ") != "40 20 /nest/model/sh /model" {
		t.Errorf("the container sees %q", out)
	}
	mounts := n.crictl("exec", "-s", id, "grep", " /v/", "/proc/mounts")
	for line := range strings.Lines(mounts) {
		options := strings.Split(strings.Fields(line)[3], ",")
		if !slices.Contains(options, "ro") || !slices.Contains(options, "nosuid") || !slices.Contains(options, "nodev") {
			t.Errorf("an image is mounted as %s", line)
		}
	}
	if got := strings.Count(mounts, " /v/"); got != many {
		t.Errorf("%d images are mounted, want %d", got, many)
	}
	_, err := n.Crictl(t.Context(), "exec", "-s", id, "sh", "-c", "echo x > /v/00/weights")
	if err == nil || !strings.Contains(err.Error(), "Read-only file system") {
		t.Errorf("writing to an image gives %v", err)
	}
}

// TestArtifacts pulls an artifact, as the kubelet would, and mounts it.
func TestArtifacts(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	ref := n.Registry + "/model:1"
	sum, err := testimage.PushArtifact(t.Context(), ref, "application/x-model",
		testimage.Blob{MediaType: "application/octet-stream", Title: "weights/model.bin", Data: "weights\n"},
		testimage.Blob{MediaType: "text/markdown", Title: "README.md", Data: "# model\n"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := n.Pull(t.Context(), ref)
	if err != nil || id != sum.String() {
		t.Fatalf("pulling it gives %s, %v, want %s", id, err, sum)
	}
	if out := n.crictl("images", "--no-trunc"); !strings.Contains(out, sum.Hex) {
		t.Errorf("it is not listed: %s", out)
	}
	st, err := n.images().ImageStatus(t.Context(), &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: ref}})
	if err != nil || st.Image.GetId() != id || st.Image.GetSize() == 0 || len(st.Image.GetRepoTags()) != 1 {
		t.Errorf("its status is %v, %v", st, err)
	}
	if out := n.berth("history", ref); !strings.Contains(out, "weights/model.bin") || !strings.Contains(out, "README.md") {
		t.Errorf("its history is %s", out)
	}
	if out := n.berth("inspect", ref); !strings.Contains(out, `"type": "application/x-model"`) || !strings.Contains(out, `"path": "README.md"`) {
		t.Errorf("berth inspect has %s", out)
	}
	n.flipArtifact(ref, id)
	if out, err := n.Berth(t.Context(), "run", "--pull=never", ref, "true"); err == nil || !strings.Contains(err.Error()+out, "artifact") {
		t.Errorf("running it: %s, %v", out, err)
	}
	config := lab.ContainerConfig("c", n.shell, "sleep", "1000")
	config.Mounts = []*criv1.Mount{imageMount("/model", ref, ""), imageMount("/weights", id, "weights"), imageMount("/readme", id, "README.md")}
	_, container := n.run("reads", config)
	if m := n.status(container).Mounts; m[0].Image.GetImageRef() != id || m[0].Image.GetImage() != ref || m[2].ImageSubPath != "README.md" {
		t.Errorf("the status has the mounts %v", m)
	}
	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.crictl("rmi", ref)
	if out := n.crictl("exec", "-s", container, "sh", "-c", "cat /model/weights/model.bin /weights/model.bin /readme; ls /model"); out != "weights\nweights\n# model\nREADME.md\nweights" {
		t.Errorf("the container reads %q", out)
	}
	_, err = n.Crictl(t.Context(), "exec", "-s", container, "touch", "/model/new")
	if err == nil || !strings.Contains(err.Error(), "Read-only file system") {
		t.Errorf("writing to it gives %v", err)
	}
}

// flipArtifact breaks a file of the artifact TestArtifacts has, which check
// finds and repairs, and saves the artifact and loads it again.
func (n *node) flipArtifact(ref, id string) {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.Root, "images", "l", "*", "fs", "README.md"))
	if err != nil || len(files) != 1 {
		n.t.Fatalf("its file is at %q, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("# Model\n"), 0o644); err != nil {
		n.t.Fatal(err)
	}
	if out, err := n.Berth(n.t.Context(), "check"); err == nil || !strings.Contains(out, `file "README.md": its content differs`) || !strings.Contains(out, id[:len("sha256:")+12]) {
		n.t.Errorf("berth check finds %s, %v", out, err)
	}
	n.berth("check", "--repair")
	archive := filepath.Join(n.Dir, "model.tar")
	n.berth("save", "--format", "oci", "-o", archive, ref)
	n.berth("rmi", ref)
	if out := n.berth("load", "-i", archive); !strings.Contains(out, ref) || !strings.Contains(out, strings.TrimPrefix(id, "sha256:")[:12]) {
		n.t.Errorf("loaded it is %s", out)
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
