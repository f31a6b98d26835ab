//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// engine runs a program of another engine.
func engine(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s, which hack/engines.sh unpacks", p)
		}
	}
}

// saved is an archive of the test image under two names.
func (n *node) saved() string {
	n.t.Helper()
	img, err := testimage.Shell()
	if err != nil {
		n.t.Fatal(err)
	}
	file := filepath.Join(n.Dir, "image.tar")
	if err := testimage.Save(file, "shell.example/team/shell:1", img); err != nil {
		n.t.Fatal(err)
	}
	return file
}

// imported holds what came over to what was there, and runs it.
func (n *node) imported(from, id string) {
	n.t.Helper()
	out, errs := n.both("import", "--from", from)
	if !strings.Contains(out, "shell.example/team/shell:1: "+id[:12]) || !strings.Contains(errs, "importing") {
		n.t.Errorf("import says %q, %q; the image is %s", out, errs, id)
	}
	if got := n.berth("images", "-q", "--no-trunc"); got != "sha256:"+id {
		n.t.Errorf("images %q, want %s", got, id)
	}
	if got := n.berth("run", "--rm", "--pull", "never", "shell.example/team/shell:1", "echo", "hello"); got != "hello" {
		n.t.Errorf("it says %q", got)
	}
	// Again by name; what is not there is told in the engine's words.
	n.berth("import", "--from", from, "shell.example/team/shell:1")
	if code, _, errs := n.outcome("import", "--from", from, "shell.example/none:1"); code == 0 || !strings.Contains(errs, "shell.example/none:1") || strings.Contains(errs, "rpc error") {
		n.t.Errorf("of what is not there: %d %s", code, errs)
	}
	n.berth("rmi", "shell.example/team/shell:1")
}

func TestImportFromPodman(t *testing.T) {
	needs(t, "podman")
	n := newNode(t, lab.Options{})
	store := filepath.Join(n.Dir, "podman")
	t.Setenv("CONTAINERS_STORAGE_CONF", n.write("storage.conf", fmt.Sprintf("[storage]\ndriver = \"vfs\"\nrunroot = %q\ngraphroot = %q\n", store+"/run", store+"/root")))
	t.Setenv("TMPDIR", n.Dir)
	engine(t, "podman", "load", "-q", "-i", n.saved())
	id := strings.TrimPrefix(engine(t, "podman", "images", "--no-trunc", "-q"), "sha256:")
	n.imported("podman", id)
	// One in OCI's form keeps its id too.
	engine(t, "podman", "save", "-q", "--format", "oci-archive", "-o", filepath.Join(n.Dir, "oci.tar"), "shell.example/team/shell:1")
	engine(t, "podman", "rmi", "-f", "shell.example/team/shell:1")
	engine(t, "podman", "load", "-q", "-i", filepath.Join(n.Dir, "oci.tar"))
	n.imported("podman", strings.TrimPrefix(engine(t, "podman", "images", "--no-trunc", "-q"), "sha256:"))
	engine(t, "podman", "rmi", "-f", "shell.example/team/shell:1")
}

func TestImportFromContainerd(t *testing.T) {
	needs(t, "containerd", "ctr")
	n := newNode(t, lab.Options{})
	dir, err := os.MkdirTemp("", "ctd") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := n.write("containerd.toml", fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(n.Dir, "containerd"), dir+"/state", dir+"/s"))
	cmd := exec.Command("containerd", "--config", config)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	}()
	t.Setenv("CONTAINERD_ADDRESS", dir+"/s")
	if err := lab.Eventually(t.Context(), 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return exec.CommandContext(ctx, "ctr", "version").Run()
	}); err != nil {
		t.Fatal(err)
	}
	// What the kubelet's containerd has.
	engine(t, "ctr", "--namespace", "k8s.io", "images", "import", n.saved())
	img, err := testimage.Shell()
	if err != nil {
		t.Fatal(err)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	n.imported("containerd", id.Hex)
	if out, _ := n.both("import", "--from", "containerd", "--namespace", "default"); out != "" {
		t.Errorf("the default namespace has %q", out)
	}
}
