package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// Apply honours manifests of one word, which is the image, and refuses "bad".
func (n *node) Apply(_ context.Context, r *api.ManifestRequest) (*api.ManifestResult, error) {
	if r.Text == "bad" {
		return nil, status.Error(codes.InvalidArgument, "cannot honour the manifest: line 3: spec.volumes: no")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p := api.ManifestPod{Namespace: "default", Name: "web", Change: "created", Images: []api.ManifestImage{{Ref: r.Text, PullPolicy: "IfNotPresent"}}}
	switch have := n.applied; {
	case have == r.Text:
		p.Change = "unchanged"
	case have != "":
		p.Change, p.Differs = "replaced", []string{"spec.containers[0].image"}
	}
	if !r.DryRun {
		n.applied = r.Text
	}
	return &api.ManifestResult{Pods: []api.ManifestPod{p}}, nil
}

func (n *node) Delete(context.Context, *api.ManifestRequest) (*api.ManifestResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.applied == "" {
		return &api.ManifestResult{}, nil
	}
	n.applied = ""
	return &api.ManifestResult{Pods: []api.ManifestPod{{Namespace: "default", Name: "web"}}}, nil
}

func (n *node) Manifest(_ context.Context, r *api.PodRequest) (*api.PodManifest, error) {
	return &api.PodManifest{Text: "kind: Pod # " + r.Pod + "\n", Lost: []string{"devices of container web"}}, nil
}

func TestApplyAndDelete(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.registry["docker.io/library/box:latest"] = "box"
	n.registry["docker.io/library/other:latest"] = "other"
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "pod.yaml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if out := n.must(t, "apply", "-f", file("box"), "--dry-run"); out != "pod default/web would be created\n" || len(n.pulls) > 0 {
		t.Errorf("dry: %q, pulled %v", out, n.pulls)
	}
	if out := n.must(t, "apply", "-f", file("box")); out != "pod default/web created\n" || len(n.pulls) != 1 {
		t.Errorf("first: %q, pulled %v", out, n.pulls)
	}
	if out := n.must(t, "apply", "-f", file("box")); out != "pod default/web unchanged\n" || len(n.pulls) != 1 {
		t.Errorf("again: %q, pulled %v", out, n.pulls)
	}
	if out := n.must(t, "apply", "-f", file("other"), "--output", "json"); !strings.Contains(out, `"change": "replaced"`) {
		t.Errorf("as JSON: %q", out)
	}
	if out := n.must(t, "apply", "-f", file("box")); out != "pod default/web replaced; it differed in spec.containers[0].image\n" {
		t.Errorf("changed: %q", out)
	}
	for says, args := range map[string][]string{
		"why: cannot honour the manifest: line 3: spec.volumes: no": {"apply", "-f", file("bad")},
		"no such file":       {"apply", "-f", "/nowhere.yaml"},
		`"filename" not set`: {"apply"},
		"unknown command":    {"delete", "-f", "-", "x"},
	} {
		if code, out, errs := n.berth(args...); code != exitOwn || out != "" || !strings.Contains(errs, says) {
			t.Errorf("%v: %d %q %q", args, code, out, errs)
		}
	}
	if out := n.must(t, "delete", "-f", "-"); out != "pod default/web deleted\n" {
		t.Errorf("delete: %q", out)
	}
	if out := n.must(t, "delete", "-f", "-"); out != "" {
		t.Errorf("delete again: %q", out)
	}
}

func TestInspectAsManifest(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "box", "sleep")
	c := n.containerNamed(t, "web")
	code, out, errs := n.berth("inspect", "--output", "pod", "web")
	if code != 0 || out != "kind: Pod # "+c.PodSandboxId+"\n" || !strings.Contains(errs, "does not say: devices") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if code, _, errs := n.berth("ps", "--output", "pod"); code != exitOwn || !strings.Contains(errs, `cannot print as "pod"`) {
		t.Errorf("ps: %d %q", code, errs)
	}
}
