package imageservice

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

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
