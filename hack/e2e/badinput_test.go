//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// TestBadImages pulls what cannot or must not be pulled. Each is refused with
// the code that the client can act on, and leaves no image behind.
func TestBadImages(t *testing.T) {
	n := newNode(t, lab.Options{})
	port, err := lab.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	evil := newEvilRegistry(t)
	zeros := strings.Repeat("0", 64)
	for _, c := range []struct {
		name, ref string
		codes     []codes.Code
	}{
		{"unknown image", n.Registry + "/nobody:1", []codes.Code{codes.NotFound}},
		{"unknown tag", n.Registry + "/shell:2", []codes.Code{codes.NotFound}},
		{"wrong digest", n.Registry + "/shell@sha256:" + zeros, []codes.Code{codes.NotFound}},
		{"no reference", "UPPER/case:x:y", []codes.Code{codes.InvalidArgument}},
		// The kubelet knows it by the text alone, see the next check.
		{"registry down", fmt.Sprintf("127.0.0.1:%d/shell:1", port), []codes.Code{codes.Unknown}},
		{"manifest too large", evil + "/large:1", []codes.Code{codes.InvalidArgument, codes.ResourceExhausted}},
		{"manifest is no JSON", evil + "/garbage:1", []codes.Code{codes.InvalidArgument, codes.DataLoss}},
		{"layer is not its digest", evil + "/swapped:1", []codes.Code{codes.DataLoss}},
	} {
		_, err := n.Pull(t.Context(), c.ref)
		refused(t, c.name, err, c.codes...)
		if down := c.name == "registry down"; err != nil && down != strings.HasPrefix(status.Convert(unwrap(err)).Message(), "RegistryUnavailable") {
			t.Errorf("%s: %v", c.name, err)
		}
		if out := n.crictl("images", "-q"); out != "" {
			t.Errorf("%s: left the images %s", c.name, out)
		}
	}
}

// TestClimbingTar pulls a layer whose entries want out of it. Refused or
// confined, nothing outside the store changes.
func TestClimbingTar(t *testing.T) {
	n := newNode(t, lab.Options{})
	evil := newEvilRegistry(t)
	_, err := n.Pull(t.Context(), evil+"/climbing:1")
	for _, outside := range []string{"/berth-escaped", filepath.Join(n.Dir, "berth-escaped"), filepath.Join(n.Root, "berth-escaped"), "/tmp/berth-escaped"} {
		if _, err := os.Lstat(outside); err == nil {
			t.Errorf("%s was written", outside)
			os.Remove(outside)
		}
	}
	if err != nil {
		refused(t, "climbing tar", err, codes.InvalidArgument, codes.DataLoss)
	}
}

// TestBadContainers asks for what a node cannot give.
func TestBadContainers(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	rt := n.runtime()

	config := n.podConfig("bad")
	pod, err := rt.RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	create := func(c *criv1.ContainerConfig) error {
		_, err := rt.CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: c, SandboxConfig: config})
		return err
	}
	refused(t, "image not here", create(lab.ContainerConfig("noimage", n.Registry+"/nobody:1", "true")), codes.NotFound)
	mounts := lab.ContainerConfig("mounts", n.shell, "true")
	mounts.Mounts = []*criv1.Mount{{HostPath: "/proc/1/cannot/be/made", ContainerPath: "/x"}}
	refused(t, "host path that cannot be made", create(mounts), codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound)
	relative := lab.ContainerConfig("relative", n.shell, "true")
	relative.Mounts = []*criv1.Mount{{HostPath: "relative", ContainerPath: "/x"}}
	refused(t, "relative host path", create(relative), codes.InvalidArgument)
	nobody := lab.ContainerConfig("nobody", n.shell, "true")
	nobody.Linux.SecurityContext.RunAsUsername = "not-in-passwd"
	refused(t, "unknown user", create(nobody), codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition)
	if out := n.crictl("ps", "-a", "-q"); out != "" {
		t.Errorf("left the containers %s", out)
	}

	_, err = rt.ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: strings.Repeat("f", 64)})
	refused(t, "unknown container", err, codes.NotFound)
	_, err = rt.CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: strings.Repeat("f", 64), Config: lab.ContainerConfig("c", n.shell), SandboxConfig: config})
	refused(t, "unknown pod", err, codes.NotFound)
	if _, err := rt.StopPodSandbox(t.Context(), &criv1.StopPodSandboxRequest{PodSandboxId: strings.Repeat("f", 64)}); err != nil {
		t.Errorf("stop of an unknown pod: %v", err)
	}

	// Seventeen ids: two of them begin with the same digit.
	first := map[byte]bool{}
	for i := 0; i < 17; i++ {
		r, err := rt.CreateContainer(t.Context(), &criv1.CreateContainerRequest{
			PodSandboxId: pod.PodSandboxId, SandboxConfig: config, Config: lab.ContainerConfig(fmt.Sprintf("c%d", i), n.shell, "true")})
		if err != nil {
			t.Fatal(err)
		}
		digit := r.ContainerId[0]
		if first[digit] {
			_, err := rt.ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: string(digit)})
			refused(t, "ambiguous id", err, codes.InvalidArgument)
			return
		}
		first[digit] = true
	}
}

// TestPortInUse asks for a host port twice.
func TestPortInUse(t *testing.T) {
	n := newNode(t, lab.Options{})
	port, err := lab.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	one, two := n.podConfig("one"), n.podConfig("two")
	one.PortMappings = []*criv1.PortMapping{{ContainerPort: 80, HostPort: int32(port)}}
	two.PortMappings = one.PortMappings
	if _, err := n.runtime().RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: one}); err != nil {
		t.Fatal(err)
	}
	_, err = n.runtime().RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: two})
	refused(t, "port in use", err, codes.AlreadyExists)
	if out := n.crictl("pods", "-q"); strings.Count(out, "\n") != 0 {
		t.Errorf("left the pods %s", out)
	}
}

// TestStrictVolumes makes a missing host path an error; without strict it is
// made, as peers do.
func TestStrictVolumes(t *testing.T) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict %t", strict), func(t *testing.T) {
			n := newNode(t, lab.Options{Config: fmt.Sprintf("volumes.strict = %t", strict)})
			n.crictl("pull", n.shell)
			missing := filepath.Join(n.Dir, "made/for/you")
			config := lab.ContainerConfig("c", n.shell, "sh", "-c", "echo data > /x/file")
			config.Mounts = []*criv1.Mount{{HostPath: missing, ContainerPath: "/x"}}
			_, container, err := n.RunPod(t.Context(), n.podConfig("p"), config)
			if strict {
				refused(t, "missing host path", err, codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			n.eventually(func() error { return exited(n, container, 0) })
			info, err := os.Stat(missing)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o755 {
				t.Errorf("made with mode %o", info.Mode().Perm())
			}
			if data, err := os.ReadFile(filepath.Join(missing, "file")); err != nil || string(data) != "data\n" {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
}

// refused wants err to be of one of the codes, in our voice.
func refused(t *testing.T, what string, err error, want ...codes.Code) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	got := status.Code(unwrap(err))
	for _, c := range want {
		if got == c {
			t.Logf("%s: %v", what, err)
			return
		}
	}
	t.Errorf("%s: code %s, want one of %v: %v", what, got, want, err)
}

// unwrap finds the status as the server sent it.
func unwrap(err error) error {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if _, ok := inner.(interface{ GRPCStatus() *status.Status }); ok {
			return inner
		}
	}
	return err
}

// newEvilRegistry serves images that no registry would take.
func newEvilRegistry(t *testing.T) string {
	t.Helper()
	blobs := map[string][]byte{}
	manifests := map[string][]byte{
		"large":   []byte(`{"schemaVersion":2,"x":"` + strings.Repeat("x", 20<<20) + `"}`),
		"garbage": []byte("this is not JSON"),
	}
	add := func(data []byte) (string, int) {
		sum := sha256.Sum256(data)
		digest := "sha256:" + hex.EncodeToString(sum[:])
		blobs[digest] = data
		return digest, len(data)
	}
	image := func(layer []byte) ([]byte, string) {
		diffID, size := add(layer)
		config, configSize := add([]byte(`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["` + diffID + `"]}}`))
		return []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
			`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
			`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, config, configSize, diffID, size)), diffID
	}
	var swapped string
	manifests["swapped"], swapped = image(tarOf(t, "honest"))
	blobs[swapped] = tarOf(t, "swappd")
	manifests["climbing"], _ = image(tarOf(t, "../../../../../../../../berth-escaped", "/berth-escaped", "a/../../../../berth-escaped", "link/berth-escaped"))

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
		switch {
		case len(parts) == 3 && parts[1] == "manifests" && manifests[parts[0]] != nil:
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = w.Write(manifests[parts[0]])
		case len(parts) == 3 && parts[1] == "blobs" && blobs[parts[2]] != nil:
			_, _ = w.Write(blobs[parts[2]])
		case r.URL.Path == "/v2/":
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// tarOf is an archive with a symlink "link" out of it and the named files.
func tarOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	headers := []*tar.Header{{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}}
	for _, name := range names {
		headers = append(headers, &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644})
	}
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
