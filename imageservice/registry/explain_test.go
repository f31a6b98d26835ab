package registry

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/berth-runtime/berth/imageservice/refs"
)

func explain(t *testing.T, dir, ref string, auth *Auth) []Endpoint {
	t.Helper()
	r, err := refs.Parse(ref, "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := New(Config{CertsDirs: []string{dir}}).Explain(t.Context(), r, auth)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestCREDExplainHidesSecrets(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	file := filepath.Join(root, "docker.io", "hosts.toml")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	const text = `
ca = "hub.pem"
[host."http://mirror.example:5000"]
  capabilities = ["pull"]
  skip_verify = true
  [host."http://mirror.example:5000".header]
    X-Key = "secret"
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := explain(t, root, "busybox", &Auth{Username: "u", Password: "secret"})
	for i := range got {
		got[i].Proxy = "" // the environment's
	}
	want := []Endpoint{{
		URL: "http://mirror.example:5000/v2/library/busybox", Capabilities: []string{"pull"}, Source: file,
		Auth: "none: credentials do not go to a mirror over http", SkipVerify: true, Headers: []string{"X-Key"},
	}, {
		URL: "https://registry-1.docker.io/v2/library/busybox", Server: true, Capabilities: []string{"pull", "resolve", "push"},
		Source: file, Auth: "the request's credentials", CA: []string{filepath.Join(root, "docker.io", "hub.pem")},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if other := explain(t, root, "quay.io/a/b", nil); len(other) != 1 || other[0].Source != "" ||
		!slices.Equal(other[0].Capabilities, []string{"pull", "resolve", "push"}) || other[0].Auth != "none: the request brings no credentials" {
		t.Errorf("without a file: %+v", other)
	}
	if other := explain(t, root, "busybox", &Auth{Username: "u", Password: "p", ServerAddress: "quay.io"}); other[1].Auth != "none: the request's credentials are for quay.io" {
		t.Errorf("credentials of another registry: %q", other[1].Auth)
	}
}
