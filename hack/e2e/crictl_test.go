//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// TestCrictl is the life of a pod as an administrator sees it.
func TestCrictl(t *testing.T) {
	n := newNode(t, lab.Options{})

	var info struct {
		Status struct {
			Conditions []struct {
				Type   string
				Status bool
			}
		}
	}
	decode(t, n.crictl("info"), &info)
	if len(info.Status.Conditions) < 2 {
		t.Errorf("info: conditions %+v", info.Status.Conditions)
	}
	for _, c := range info.Status.Conditions {
		if !c.Status {
			t.Errorf("info: %s is false", c.Type)
		}
	}
	want(t, n.crictl("version"), "RuntimeName:  berth")

	want(t, n.crictl("pull", n.web), "Image is up to date for sha256:")
	n.crictl("pull", n.shell)
	images := n.crictl("images")
	want(t, images, n.Registry+"/web")
	want(t, images, n.Registry+"/shell")

	port, err := lab.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	config := n.podConfig("web")
	config.PortMappings = []*criv1.PortMapping{{ContainerPort: 80, HostPort: int32(port)}}
	podFile := n.file("pod.json", config)
	pod := n.crictl("runp", podFile)
	want(t, n.crictl("pods"), "Ready")

	containerFile := n.file("container.json", lab.ContainerConfig("httpd", n.web))
	container := n.crictl("create", pod, containerFile, podFile)
	want(t, n.crictl("ps", "-a"), "Created")
	want(t, n.crictl("start", container), container)
	want(t, n.crictl("ps"), "Running")

	n.eventually(func() error { return get(fmt.Sprintf("http://127.0.0.1:%d/", port), page) })
	if got := n.crictl("exec", "-s", container, "hostname"); got != "web" {
		t.Errorf("exec hostname: %q", got)
	}
	n.eventually(func() error {
		out, err := n.Crictl(t.Context(), "logs", container)
		if err != nil || !strings.Contains(out, "serving") {
			return fmt.Errorf("logs: %q, %v", out, err)
		}
		return nil
	})
	want(t, n.crictl("stats", container), container[:12])
	var stats struct {
		Stats []struct {
			Memory struct {
				WorkingSetBytes struct{ Value string }
			}
		}
	}
	decode(t, n.crictl("stats", "-o", "json", container), &stats)
	if len(stats.Stats) != 1 || stats.Stats[0].Memory.WorkingSetBytes.Value == "" {
		t.Errorf("stats: %+v", stats)
	}

	n.crictl("stop", "-t", "1", container)
	want(t, n.crictl("ps", "-a"), "Exited")
	n.crictl("rm", container)
	n.crictl("stopp", pod)
	want(t, n.crictl("pods"), "NotReady")
	n.crictl("rmp", pod)
	if out := n.crictl("pods", "-q"); out != "" {
		t.Errorf("pods after rmp: %q", out)
	}
	want(t, n.crictl("rmi", n.web), "Deleted: ")
	if out := n.crictl("images"); strings.Contains(out, "/web") {
		t.Errorf("images after rmi:\n%s", out)
	}
}

// TestExitCodes reads codes and output of containers that end by themselves.
func TestExitCodes(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	for name, c := range map[string]struct {
		script string
		code   int32
		reason string
	}{
		"zero":  {"echo out; echo err >&2", 0, "Completed"},
		"seven": {"exit 7", 7, "Error"},
	} {
		_, container := n.run(name, lab.ContainerConfig("c", n.shell, "sh", "-c", c.script))
		n.eventually(func() error { return exited(n, container, c.code) })
		if s := n.status(container); s.Reason != c.reason {
			t.Errorf("%s: reason %q, want %q", name, s.Reason, c.reason)
		}
		if name == "zero" {
			if out := n.crictl("logs", container); out != "out" {
				t.Errorf("logs: %q on stdout", out)
			}
			want(t, strings.Join(logLines(t, n, name), "\n"), "stderr F err")
		}
	}
	_, sleeper := n.run("killed", lab.ContainerConfig("c", n.shell, "sleep", "1000"))
	n.crictl("stop", "-t", "0", sleeper)
	if err := exited(n, sleeper, 137); err != nil {
		t.Error(err)
	}
	config := lab.ContainerConfig("oom", n.shell, "sh", "-c", "tail /dev/zero")
	config.Linux.Resources = &criv1.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
	_, container := n.run("oom", config)
	n.eventually(func() error { return exited(n, container, 137) })
	if s := n.status(container); s.Reason != "OOMKilled" {
		t.Errorf("oom: reason %q", s.Reason)
	}
}

func exited(n *node, container string, code int32) error {
	s := n.status(container)
	if s.State != criv1.ContainerState_CONTAINER_EXITED {
		return fmt.Errorf("%s is %s", s.Metadata.Name, s.State)
	}
	if s.ExitCode != code {
		n.t.Errorf("%s: exit code %d, want %d", s.Metadata.Name, s.ExitCode, code)
	}
	if s.FinishedAt < s.StartedAt || s.StartedAt < s.CreatedAt {
		n.t.Errorf("%s: times %d, %d, %d are not in order", s.Metadata.Name, s.CreatedAt, s.StartedAt, s.FinishedAt)
	}
	return nil
}

func want(t *testing.T, out, part string) {
	t.Helper()
	if !strings.Contains(out, part) {
		t.Errorf("no %q in:\n%s", part, out)
	}
}

func decode(t *testing.T, out string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("%v in:\n%s", err, out)
	}
}

// get fetches url and compares the body.
func get(url, body string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if string(got) != body {
		return fmt.Errorf("%s: got %q, want %q", url, got, body)
	}
	return nil
}
