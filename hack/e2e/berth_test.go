//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// TestBerth is the command line for people, and that crictl sees the same.
func TestBerth(t *testing.T) {
	n := newNode(t, lab.Options{})
	port, err := lab.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(n.Dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}

	// run pulls what is not here.
	n.berth("run", "-d", "--name", "web", "-p", fmt.Sprintf("%d:80", port), "-v", volume+":/data", "-e", "GREETING=hello", n.web)
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	n.eventually(func() error { return get(url, page) })
	want(t, n.berth("ps"), "web")
	want(t, n.crictl("ps"), "web")
	want(t, n.berth("images"), n.Registry+"/web")
	want(t, n.berth("inspect", "web"), `"web"`)

	want(t, n.berth("exec", "web", "sh", "-c", "echo $GREETING > /data/file; echo done"), "done")
	if data, err := os.ReadFile(filepath.Join(volume, "file")); err != nil || string(data) != "hello\n" {
		t.Errorf("the volume has %q, %v", data, err)
	}
	n.eventually(func() error {
		if out := n.berth("logs", "web"); !strings.Contains(out, "serving") {
			return fmt.Errorf("logs: %q", out)
		}
		return nil
	})
	if code := exitCode(n, "exec", "web", "sh", "-c", "exit 5"); code != 5 {
		t.Errorf("exec ended with %d, want 5", code)
	}

	// In the foreground it follows the log and ends with the container's code.
	n.berth("pull", n.shell)
	out, err := n.Berth(t.Context(), "run", "--name", "front", n.shell, "sh", "-c", "echo from the foreground; exit 7")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("run ended with %v, want 7", err)
	}
	want(t, out, "from the foreground")
	n.berth("rm", "front")

	// What crictl made, berth sees.
	podFile := n.file("pod.json", n.podConfig("theirs"))
	pod := n.crictl("runp", podFile)
	container := n.crictl("create", pod, n.file("c.json", lab.ContainerConfig("crictl-made", n.shell, "sleep", "1000")), podFile)
	n.crictl("start", container)
	want(t, n.berth("ps"), "crictl-made")
	want(t, n.berth("ps", "--no-trunc"), container)

	n.berth("stop", "-t", "1", "web")
	want(t, n.berth("ps", "-a"), "web")
	n.berth("rm", "web")
	if out := n.crictl("pods"); strings.Contains(out, "web") {
		t.Errorf("the pod of web is left:\n%s", out)
	}
	n.berth("rmi", n.web)
}

// TestLoad takes an image from a docker archive and runs it.
func TestLoad(t *testing.T) {
	n := newNode(t, lab.Options{})
	img, err := testimage.Shell()
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(n.Dir, "shell.tar")
	if err := testimage.Save(archive, "example.org/loaded:1", img); err != nil {
		t.Fatal(err)
	}
	n.berth("load", "-i", archive)
	want(t, n.berth("images"), "example.org/loaded")
	want(t, n.berth("run", "--name", "loaded", "example.org/loaded:1", "echo", "it runs"), "it runs")
	want(t, n.crictl("images"), "example.org/loaded")
}

// exitCode runs berth and returns the code it ends with.
func exitCode(n *node, args ...string) int {
	n.t.Helper()
	_, err := n.Berth(n.t.Context(), args...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	n.t.Fatal(err)
	return -1
}
