package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func (n *node) Untag(_ context.Context, r *api.ImageRequest) (*api.Empty, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, img := range n.images {
		if i := slices.Index(img.RepoTags, normal(r.Ref)); i >= 0 {
			img.RepoTags = slices.Delete(img.RepoTags, i, i+1)
			return &api.Empty{}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no image has the tag %s", r.Ref)
}

func (n *node) Save(r *api.SaveRequest, s grpc.ServerStreamingServer[api.Chunk]) error {
	if err := s.Send(&api.Chunk{Data: []byte(r.Format + " of ")}); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ref := range r.Images {
		if n.findImage(ref) == nil {
			return status.Errorf(codes.NotFound, "there is no image %s", ref)
		}
		if err := s.Send(&api.Chunk{Data: []byte(ref + ";")}); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) Push(r *api.PushRequest, s grpc.ServerStreamingServer[api.Progress]) error {
	if r.Username != "joe" || r.Password != "secret" {
		return status.Errorf(codes.PermissionDenied, "credentials were refused")
	}
	if err := s.Send(&api.Progress{Layer: "sha256:" + strings.Repeat("ab", 32), Status: "pushing", Total: 2_000_000}); err != nil {
		return err
	}
	return s.Send(&api.Progress{Digest: "sha256:" + r.Image + "-" + r.Ref})
}

func (n *node) Prune(_ context.Context, r *api.PruneRequest) (*api.PruneResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := &api.PruneResult{Images: []api.Usage{}}
	for id, img := range n.images {
		if r.All || len(img.RepoTags) == 0 {
			out.Images = append(out.Images, api.Usage{ID: id, Bytes: img.Size})
			out.Bytes += img.Size
			delete(n.images, id)
		}
	}
	return out, nil
}

func (n *node) ExplainRegistry(_ context.Context, r *api.ExplainRequest) (*api.RegistryExplanation, error) {
	auth := "none: the request brings no credentials"
	if r.Username != "" {
		auth = "the request's credentials"
	}
	return &api.RegistryExplanation{Ref: normal(r.Ref), Endpoints: []api.Endpoint{{
		URL: "http://mirror:5000/v2/library/box", Capabilities: []string{"pull"}, Source: "/etc/hosts.toml",
		Auth: "none: credentials do not go to a mirror over http", SkipVerify: true,
	}, {
		URL: "https://registry-1.docker.io/v2/library/box", Server: true, Capabilities: []string{"pull", "resolve"},
		Auth: auth,
	}}}, nil
}

func TestNamesOfImages(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	img := n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "tag", "box", "web:1")
	n.must(t, "run", "-d", "--name", "user", "box", "sleep")
	id := img.Id[7:19]
	if code, _, errs := n.berth("rmi", id); code != exitOwn || !strings.Contains(errs, "it has several names: docker.io/library/box:latest, docker.io/library/web:1") {
		t.Errorf("rmi of an id with several names: %d %q", code, errs)
	}
	if got := n.must(t, "rmi", "web:1"); got != "Untagged web:1\n" || len(n.images) != 1 {
		t.Errorf("rmi of one of several names: %q, left %v", got, n.images)
	}
	if got := n.must(t, "prune"); got != "0B came free\n" {
		t.Errorf("prune of a named image: %q", got)
	}
	if got := n.must(t, "untag", "box"); got != "Untagged box\n" || len(img.RepoTags) != 0 {
		t.Errorf("untag: %q, left %v", got, img.RepoTags)
	}
	if code, _, errs := n.berth("untag", "box"); code != exitOwn || !strings.Contains(errs, "no image has the tag") {
		t.Errorf("untag of an absent one: %d %q", code, errs)
	}
	if got := n.must(t, "prune"); got != "Deleted "+id+" \n4.32MB came free\n" {
		t.Errorf("prune: %q", got)
	}
}

func TestSave(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	if got := n.must(t, "save", "box", "box:latest"); got != "docker of box;box:latest;" {
		t.Errorf("to stdout: %q", got)
	}
	file := filepath.Join(t.TempDir(), "x.tar")
	n.must(t, "save", "--format", "oci", "-o", file, "box")
	if got, err := os.ReadFile(file); err != nil || string(got) != "oci of box;" {
		t.Errorf("to a file: %q, %v", got, err)
	}
	if code, _, errs := n.berth("save", "-o", file, "box", "absent"); code != exitOwn || !strings.Contains(errs, "there is no image absent") {
		t.Errorf("of an absent image: %d %q", code, errs)
	}
	if got, err := os.ReadDir(filepath.Dir(file)); err != nil || len(got) != 1 {
		t.Errorf("a failure left %v, %v", got, err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "oci of box;" {
		t.Errorf("a failure changed the file: %q, %v", got, err)
	}
}

func TestPush(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	if got := n.must(t, "push", "--creds", "joe:secret", "box", "r.example/box:2"); got != "abababababab: pushing (2MB)\nr.example/box:2: sha256:box-r.example/box:2\n" {
		t.Errorf("push: %q", got)
	}
	if got := n.must(t, "push", "-q", "--creds", "joe:secret", "box"); got != "sha256:box-box\n" {
		t.Errorf("push -q: %q", got)
	}
	if code, _, errs := n.berth("push", "--creds", "joe:wrong", "box"); code != exitOwn || !strings.Contains(errs, "credentials were refused") || strings.Contains(errs, "wrong") {
		t.Errorf("wrong credentials: %d %q", code, errs)
	}
	if code, _, errs := n.berth("push", "--creds", "joe", "box"); code != exitOwn || !strings.Contains(errs, "not USER:PASSWORD") {
		t.Errorf("half of credentials: %d %q", code, errs)
	}
}

// Not parallel: the environment is this process's.
func TestCredentialsOfDockerLogin(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write("docker-credential-test", `#!/bin/sh
read host
case "$1 $host" in
"get helped.example") echo '{"ServerURL":"x","Username":"joe","Secret":"secret"}' ;;
"get token.example") echo '{"Username":"<token>","Secret":"idtoken"}' ;;
"get broken.example") echo 'no keys today' >&2; exit 1 ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
`)
	write("config.json", `{
 "auths": {
  "https://index.docker.io/v1/": {"auth": "am9lOnNlY3JldA=="},
  "plain.example": {"username": "u", "password": "p"},
  "odd.example": {"auth": "!"},
  "https://id.example": {"identitytoken": "t"}
 },
 "credHelpers": {"helped.example": "test", "token.example": "test", "broken.example": "test", "none.example": "test", "bad.example": "../x"}
}`)
	var config dockerConfig
	text, err := os.ReadFile(dockerConfigFile())
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]api.Credentials{
		"docker.io":      {Username: "joe", Password: "secret", Server: "docker.io"},
		"plain.example":  {Username: "u", Password: "p", Server: "plain.example"},
		"id.example":     {IdentityToken: "t", Server: "id.example"},
		"helped.example": {Username: "joe", Password: "secret", Server: "helped.example"},
		"token.example":  {IdentityToken: "idtoken", Server: "token.example"},
		"none.example":   {},
		"other.example":  {},
	} {
		if got, err := config.lookup(t.Context(), host); err != nil || got != want {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
	for host, why := range map[string]string{
		"odd.example": "not base64 of user:password", "broken.example": "no keys today", "bad.example": "no name of a credential helper",
	} {
		if _, err := config.lookup(t.Context(), host); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", host, err)
		}
	}
	config.CredsStore = "test" // has nothing for it, so that auths count
	if got, err := config.lookup(t.Context(), "plain.example"); err != nil || got.Username != "u" {
		t.Errorf("with a store: %+v, %v", got, err)
	}
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	if got := n.must(t, "push", "-q", "box"); got != "sha256:box-box\n" {
		t.Errorf("push: %q", got)
	}
	write("config.json", "{")
	if code, _, errs := n.berth("push", "box"); code != exitOwn || !strings.Contains(errs, "config.json") {
		t.Errorf("a broken file: %d %q", code, errs)
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	want := "LAYER          CREATED   CREATED BY               SIZE    COMMENT\n" +
		"<none>         -         CMD [\"serve\"]            0B      \n" +
		"cdcdcdcdcdcd   -         COPY x / # with spaces   4.2MB   by hand\n"
	if got := n.must(t, "history", "box"); got != want {
		t.Errorf("history:\n%swant\n%s", got, want)
	}
}

func TestRegistryExplain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const want = `docker.io/library/box:latest is looked for at
1. http://mirror:5000/v2/library/box
   what          a mirror, used to pull
   configured by /etc/hosts.toml
   credentials   none: credentials do not go to a mirror over http
   certificate   not verified
2. https://registry-1.docker.io/v2/library/box
   what          the registry itself, used to pull, resolve
   configured by no file: the default
   credentials   none: the request brings no credentials
`
	if got := n.must(t, "registry", "explain", "box"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := n.must(t, "registry", "explain", "--creds", "joe:secret", "box"); !strings.Contains(got, "credentials   the request's credentials\n") || strings.Contains(got, "secret") {
		t.Errorf("with credentials: %s", got)
	}
}
