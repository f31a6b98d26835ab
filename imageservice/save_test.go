package imageservice

import (
	"bytes"
	"context"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// mixed is an image of layers of several compressions, one of which is right
// only on the one below it.
func mixed(t testing.TB) v1.Image {
	t.Helper()
	return makeImage(t,
		makeLayer(t, types.OCILayer, gz, makeTar(t, dir("usr", 0o755), dir("usr/lib", 0o755), file("usr/lib/a", "a"), symlink("lib", "usr/lib"))),
		makeLayer(t, types.OCILayerZStd, zst, makeTar(t, file("lib/b", "bb"), hardlink("c", "usr/lib/a"), dir("x", 0o700), dir("x", 0o711))),
		makeLayer(t, types.OCIUncompressedLayer, plain, append(makeTar(t, file("big", string(make([]byte, 1<<20)))), 0, 0, 0)))
}

func diffIDs(image Image) (all []digest.Digest) {
	for _, l := range image.Layers {
		all = append(all, l.DiffID)
	}
	return all
}

func save(t testing.TB, s *Service, format ArchiveFormat, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Save(context.Background(), names, format, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsSavedLoadsAsTheSameImage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := openStore(t)
	ref := startRegistry(t) + "/mixed:1"
	push(t, ref, mixed(t))
	image := mustPull(t, s, ref)
	if err := s.Tag(ctx, ref, "other:2"); err != nil {
		t.Fatal(err)
	}
	for name, format := range map[string]ArchiveFormat{"oci": ArchiveOCI, "docker": ArchiveDocker} {
		saved := save(t, s, format, ref, "other:2", image.ID)
		if !bytes.Equal(saved, save(t, s, format, ref, "other:2")) {
			t.Errorf("%s: saved twice, the archives differ", name)
		}
		fresh := openStore(t)
		if _, err := fresh.Load(ctx, bytes.NewReader(saved), nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := fresh.Status(ctx, image.ID)
		if err != nil || !slices.Equal(diffIDs(got), diffIDs(image)) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if want := []string{ref, "docker.io/library/other:2"}; !slices.Equal(got.Tags, slices.Sorted(slices.Values(want))) {
			t.Errorf("%s: tags %q", name, got.Tags)
		}
		sound(t, fresh)
		// What was loaded can be saved too, and gives the same archive.
		if !bytes.Equal(saved, save(t, fresh, format, ref, "other:2")) {
			t.Errorf("%s: saved from another store, the archive differs", name)
		}
	}
	sound(t, s)
}

func TestSavedByIDAnImageHasNoName(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), openStore(t)
	ref := startRegistry(t) + "/anon:1"
	push(t, ref, makeImage(t, gzLayer(t, file("a", "1"))))
	image := mustPull(t, s, ref)
	fresh := openStore(t)
	got, err := fresh.Load(ctx, bytes.NewReader(save(t, s, ArchiveDocker, image.ID)), nil)
	if err != nil || len(got) != 1 || got[0].ID != image.ID || len(got[0].Tags) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.Save(ctx, []string{"absent"}, ArchiveOCI, &bytes.Buffer{}); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("an absent image: %v", err)
	}
	sound(t, s)
}

// The answer of Load is about the archive, whatever else names the image here.
func TestLoadTellsTheTagsOfTheArchive(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), openStore(t)
	ref := startRegistry(t) + "/x:1"
	push(t, ref, makeImage(t, gzLayer(t, file("a", "1"))))
	mustPull(t, s, ref)
	archive := save(t, s, ArchiveDocker, ref)
	if err := s.Tag(ctx, ref, "other:2"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		images, err := s.Load(ctx, bytes.NewReader(archive), nil)
		if err != nil || len(images) != 1 || !slices.Equal(images[0].Tags, []string{ref}) {
			t.Fatalf("loaded %+v, %v", images, err)
		}
		now, err := s.Status(ctx, ref)
		if err != nil || len(now.Tags) != 2 {
			t.Errorf("the store has %+v, %v", now, err)
		}
	}
}
