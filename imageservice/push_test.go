package imageservice

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// An image keeps its identity on all its ways: from a registry, into an
// archive, out of it into another store, to another registry, and back.
func TestRoundTripKeepsTheIdentity(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a := openStore(t)
	ref := startRegistry(t) + "/round/trip:1"
	push(t, ref, mixed(t))
	image := mustPull(t, a, ref)

	b := openStore(t)
	if _, err := b.Load(ctx, bytes.NewReader(save(t, a, ArchiveOCI, ref)), nil); err != nil {
		t.Fatal(err)
	}
	there := startRegistry(t) + "/else/where:2"
	var mu sync.Mutex
	said := map[string]int{}
	r := PushRequest{Image: ref, Ref: there, Progress: func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		said[p.Status]++
	}}
	sum, err := b.Push(ctx, r)
	if err != nil || said[StatusDone] != 4 || said[StatusExists] != 0 {
		t.Fatalf("%v, %v", said, err)
	}

	c := openStore(t)
	got := mustPull(t, c, there)
	if got.ID != image.ID || !slices.Equal(diffIDs(got), diffIDs(image)) {
		t.Errorf("came back as %s %v, not %s %v", got.ID, diffIDs(got), image.ID, diffIDs(image))
	}
	if want := there[:len(there)-len(":2")] + "@" + sum.String(); !slices.Contains(got.Digests, want) {
		t.Errorf("digests %v lack %s", got.Digests, want)
	}
	// Another node pushes the same blobs, so nothing is sent again.
	clear(said)
	again, err := a.Push(ctx, r)
	if err != nil || again != sum || said[StatusDone] != 0 || said[StatusExists] != 4 {
		t.Errorf("pushed again: %v %v, %v", again, said, err)
	}
	for _, s := range []*Service{a, b, c} {
		sound(t, s)
	}
}

func TestPushRefusals(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), openStore(t)
	ref := startRegistry(t) + "/p:1"
	push(t, ref, makeImage(t, gzLayer(t, file("a", "1"))))
	image := mustPull(t, s, ref)
	for name, tt := range map[string]struct {
		r    PushRequest
		kind errkind.Kind
	}{
		"absent":         {PushRequest{Image: "absent"}, errkind.NotFound},
		"by digest":      {PushRequest{Image: ref, Ref: image.Digests[0]}, errkind.InvalidArgument},
		"an id alone":    {PushRequest{Image: image.ID}, errkind.InvalidArgument},
		"nobody listens": {PushRequest{Image: ref, Ref: "localhost:1/p:1"}, errkind.Unavailable},
	} {
		if _, err := s.Push(ctx, tt.r); !errkind.Is(err, tt.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	sound(t, s)
}

func TestNeighbourIsAnotherRepositoryOfTheSameHost(t *testing.T) {
	t.Parallel()
	s := &Service{}
	image := Image{Digests: []string{"quay.io/a/b@sha256:" + digest.FromString("x").Encoded()}, Tags: []string{"docker.io/library/c:1", "quay.io/a/d:2"}}
	for to, want := range map[string]string{
		"quay.io/a/e:1": "a/b", "quay.io/a/b:2": "a/d", "d:1": "library/c", "c:3": "", "ghcr.io/a/b:1": "",
	} {
		ref, err := refs.Parse(to, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.neighbour(image, ref); got != want {
			t.Errorf("%s: %q, want %q", to, got, want)
		}
	}
}
