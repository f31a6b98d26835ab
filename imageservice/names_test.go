package imageservice

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestHistoryHasALineForEachCommand(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	a, b := gzLayer(t, file("a", "1")), gzLayer(t, file("b", "22"))
	img := makeImage(t, a, b)
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	made := time.Unix(1_700_000_000, 0).UTC()
	c.History = []v1.History{
		{CreatedBy: "COPY a /", Created: v1.Time{Time: made}},
		{CreatedBy: "ENV x=y", EmptyLayer: true},
		{CreatedBy: "COPY b /", Comment: "second"},
	}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	ref := startRegistry(t) + "/h:1"
	push(t, ref, img)
	image := mustPull(t, s, ref)
	got, err := s.History(context.Background(), ref)
	if err != nil || len(got) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	if got[0].DiffID != image.Layers[0].DiffID || got[0].Size != image.Layers[0].Size || !got[0].Created.Equal(made) {
		t.Errorf("%+v", got[0])
	}
	if got[1].DiffID != "" || got[1].CreatedBy != "ENV x=y" {
		t.Errorf("%+v", got[1])
	}
	if got[2].DiffID != image.Layers[1].DiffID || got[2].Comment != "second" {
		t.Errorf("%+v", got[2])
	}
}

func TestHistoryOfABuilderThatCountsWrongly(t *testing.T) {
	t.Parallel()
	layers := []Layer{{DiffID: "sha256:a", Size: 1}, {DiffID: "sha256:b", Size: 2}}
	if got := history(nil, layers); len(got) != 2 || got[1].DiffID != "sha256:b" {
		t.Errorf("layers without history: %+v", got)
	}
	many := []specs.History{{CreatedBy: "1"}, {CreatedBy: "2"}, {CreatedBy: "3"}}
	if got := history(many, layers); len(got) != 3 || got[2].DiffID != "" {
		t.Errorf("history without layers: %+v", got)
	}
}

func TestUntagLeavesTheImage(t *testing.T) {
	t.Parallel()
	s, ctx := openStore(t), context.Background()
	ref := startRegistry(t) + "/u:1"
	push(t, ref, makeImage(t, gzLayer(t, file("a", "1"))))
	image := mustPull(t, s, ref)
	if err := s.Untag(ctx, ref); err != nil {
		t.Fatal(err)
	}
	if err := s.Untag(ctx, ref); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("a tag that is gone: %v", err)
	}
	if got, err := s.Status(ctx, image.ID); err != nil || len(got.Tags) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	sound(t, s)
}

func TestPruneSparesWhatIsNamedUsedOrPinned(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx, host := context.Background(), startRegistry(t)
	shared := gzLayer(t, file("shared", "x"))
	refs := map[string]string{}
	for _, name := range []string{"named", "used", "pinned", "loose"} {
		refs[name] = host + "/" + name + ":1"
		push(t, refs[name], makeImage(t, shared, gzLayer(t, file(name, name))))
	}
	s, err := Open(ctx, Config{Root: t.TempDir(), BootID: "test", Pinned: []string{refs["pinned"]}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	ids := map[string]string{}
	for name, ref := range refs {
		ids[name] = mustPull(t, s, ref).ID
	}
	if err := s.Prepare(ctx, "c", ids["used"]); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"used", "loose"} {
		if err := s.Untag(ctx, refs[name]); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		scope PruneScope
		goes  string
	}{{PruneUntagged, "loose"}, {PruneUnused, "named"}} {
		before, _ := s.Usage(ctx)
		p, err := s.Prune(ctx, step.scope)
		after, _ := s.Usage(ctx)
		if err != nil || len(p.Images) != 1 || p.Images[0].ID != ids[step.goes] {
			t.Fatalf("%s: %+v, %v", step.goes, p, err)
		}
		if p.Bytes == 0 || before.Bytes-after.Bytes != p.Bytes {
			t.Errorf("%s: %d bytes said, %d freed", step.goes, p.Bytes, before.Bytes-after.Bytes)
		}
		sound(t, s)
	}
	for _, name := range []string{"used", "pinned"} {
		if _, err := s.Status(ctx, ids[name]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
