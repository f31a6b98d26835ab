package main

import (
	"context"
	"slices"
	"strings"
	"testing"

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

func (n *node) ExplainRegistry(_ context.Context, r *api.ImageRequest) (*api.RegistryExplanation, error) {
	return &api.RegistryExplanation{Ref: normal(r.Ref), Endpoints: []api.Endpoint{{
		URL: "http://mirror:5000/v2/library/box", Capabilities: []string{"pull"}, Source: "/etc/hosts.toml",
		Auth: "none: credentials do not go to a mirror over http", SkipVerify: true,
	}, {
		URL: "https://registry-1.docker.io/v2/library/box", Server: true, Capabilities: []string{"pull", "resolve"},
		Auth: "none: the request brings no credentials",
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
}
