package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func TestCheckEndsWithOneUntilAllIsRepaired(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.problems = []api.Problem{{Kind: "layer", Object: "sha256:aa", Detail: `file "etc/passwd": its content differs`}}
	code, out, errs := n.berth("check", "--quick")
	if code != 1 || !strings.Contains(out, "etc/passwd") || strings.Contains(out, "repaired") || errs != "" {
		t.Errorf("check: code %d, %q, %q", code, out, errs)
	}
	if out := n.must(t, "check", "--repair"); !strings.Contains(out, `repaired: file "etc/passwd"`) {
		t.Errorf("check --repair: %q", out)
	}
}

// The daemon gets the credentials of the registries that the repair needs, and
// of no other.
func TestRepairBringsTheCredentialsOfDockerLogin(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"auths": {
  "private.example": {"username": "joe", "password": "secret"},
  "other.example": {"username": "joe", "password": "other"}}}`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	n.problems = []api.Problem{
		{Kind: "layer", Object: "sha256:aa", Detail: "x", Registries: []string{"public.example", "private.example"}},
		{Kind: "blob", Object: "sha256:bb", Detail: "x", Registries: []string{"private.example"}},
	}
	n.must(t, "check", "--repair")
	want := map[string]api.Credentials{
		"public.example":  {},
		"private.example": {Username: "joe", Password: "secret", Server: "private.example"},
	}
	if len(n.checks) != 2 || n.checks[0].Repair || n.checks[0].Credentials != nil || !n.checks[1].Repair || !maps.Equal(n.checks[1].Credentials, want) {
		t.Errorf("the daemon was asked %+v", n.checks)
	}
}
