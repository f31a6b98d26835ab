package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// withEngine puts a program on PATH that lists, and saves what it is asked for;
// one name it does not know.
func withEngine(t *testing.T, name, list string) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%[1]s/calls\ncase \"$*\" in\n"+
		"*missing*) printf 'no such\\033[31m image\\n' >&2; exit 1;;\n"+
		"*inspect*) echo application/vnd.oci.image.manifest.v1+json;;\n"+
		"*save*|*export*) echo archive;;\n*) printf '%[2]s';;\nesac\n", dir, list)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "calls"))
		_ = os.Remove(filepath.Join(dir, "calls"))
		return strings.TrimSpace(string(b))
	}
}

func TestImportFromDocker(t *testing.T) {
	n := newNode(t)
	here := n.addImage("", "box")
	calls := withEngine(t, "docker", here.Id+`\tteam/box:1\nsha256:aa\tnginx:1\nsha256:bb\t<none>:<none>\n`)
	code, out, errs := n.berth("import", "--from", "docker")
	if code != 0 || !strings.Contains(out, "team/box:1: "+short(here.Id, false)+", here already\n") || !strings.Contains(out, "nginx:1: ") || !strings.Contains(errs, "nginx:1: importing") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if got := calls(); got != "images --no-trunc --format {{.ID}}\t{{.Repository}}:{{.Tag}}\nsave nginx:1" {
		t.Errorf("docker was called with %q", got)
	}
	if string(n.loaded) != "archive\n" {
		t.Errorf("loaded %q", n.loaded)
	}
	for _, ref := range []string{"team/box:1", "nginx:1"} {
		if img := n.findImage(ref); img == nil {
			t.Errorf("%s has no name here", ref)
		}
	}
	// What fails is told in the engine's words, and holds up no other.
	code, out, errs = n.berth("import", "--from", "docker", "missing", "nginx:1")
	if code != exitOwn || !strings.Contains(out, "nginx:1: ") || !strings.Contains(errs, "why: no such [31m image\n") || !strings.Contains(errs, "try: try by hand: docker save missing >image.tar") {
		t.Errorf("%d %q %q", code, out, errs)
	}
}

func TestImportFromPodmanAndContainerd(t *testing.T) {
	n := newNode(t)
	calls := withEngine(t, "podman", `aa\tlocalhost/box:1\n`)
	n.must(t, "import", "--from", "podman")
	if got := calls(); !strings.HasSuffix(got, "\nimage inspect --format {{.ManifestType}} localhost/box:1\nsave --quiet --format oci-archive localhost/box:1") {
		t.Errorf("podman was called with %q", got)
	}
	calls = withEngine(t, "ctr", `quay.io/a/b:1\nquay.io/a/b@sha256:cc\nsha256:dd\n`)
	n.must(t, "import", "--from", "containerd")
	if got := calls(); got != "--namespace k8s.io images list --quiet\n--namespace k8s.io images export - quay.io/a/b:1" {
		t.Errorf("ctr was called with %q", got)
	}
	t.Setenv("PATH", t.TempDir())
	for args, says := range map[string]string{"--from docker": "docker is not installed here", "--from rkt": "no engine that is known"} {
		if code, _, errs := n.berth(append([]string{"import"}, strings.Fields(args)...)...); code != exitOwn || !strings.Contains(errs, says) {
			t.Errorf("%s: %d %q", args, code, errs)
		}
	}
}
