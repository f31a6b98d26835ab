package imageservice

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/meta"
)

// keeper opens a store that keeps blobs.
func keeper(t *testing.T, root string) *Service {
	t.Helper()
	needRoot(t)
	s, err := Open(context.Background(), Config{Root: root, BootID: "test", KeepBlobs: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// served gives what a registry has under ref: the digests of the manifest and
// of the layers' blobs.
func served(t *testing.T, ref string) (all []string) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d.String())
	}
	return append(all, sum.String())
}

// With its blobs kept an image is the same to the byte wherever it goes.
func TestKeptBlobsMakeTheRoundTripExact(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	ref := startRegistry(t) + "/round/trip:1"
	push(t, ref, mixed(t))
	want := served(t, ref)
	a := keeper(t, t.TempDir())
	image := mustPull(t, a, ref)

	b := keeper(t, t.TempDir())
	archive := save(t, a, ArchiveOCI, ref)
	if !bytes.Equal(archive, save(t, a, ArchiveOCI, ref)) {
		t.Error("saved twice, the archives differ")
	}
	if _, err := b.Load(ctx, bytes.NewReader(archive), nil); err != nil {
		t.Fatal(err)
	}
	there := startRegistry(t) + "/else/where:2"
	sum, err := b.Push(ctx, PushRequest{Image: ref, Ref: there})
	if err != nil || sum.String() != want[len(want)-1] {
		t.Fatalf("pushed %s, %v, want %s", sum, err, want[len(want)-1])
	}
	if got := served(t, there); !slices.Equal(got, want) {
		t.Errorf("the registry has %v, want %v", got, want)
	}
	c := keeper(t, t.TempDir())
	if got := mustPull(t, c, there); got.ID != image.ID || !slices.Equal(diffIDs(got), diffIDs(image)) {
		t.Errorf("came back as %+v, not %+v", got, image)
	}
	// An archive of docker's has tars, which the blobs give too.
	plain := openStore(t)
	if _, err := plain.Load(ctx, bytes.NewReader(save(t, c, ArchiveDocker, there)), nil); err != nil {
		t.Fatal(err)
	}
	if got, err := plain.Status(ctx, image.ID); err != nil || !slices.Equal(diffIDs(got), diffIDs(image)) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, s := range []*Service{a, b, c, plain} {
		sound(t, s)
	}
}

// A blob is accounted for like a layer and goes with the last image that has it.
func TestKeptBlobsAreAccountedAndCollected(t *testing.T) {
	t.Parallel()
	ctx, s, host := context.Background(), keeper(t, t.TempDir()), startRegistry(t)
	shared := gzLayer(t, file("shared", strings.Repeat("x", 20000)))
	push(t, host+"/one:1", makeImage(t, shared, gzLayer(t, file("one", "1"))))
	push(t, host+"/two:1", makeImage(t, shared, gzLayer(t, file("two", "2"))))
	one, two := mustPull(t, s, host+"/one:1"), mustPull(t, s, host+"/two:1")
	blobs := func() int {
		t.Helper()
		all, err := s.blobs.List()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if n := blobs(); n != 2+2+3 { // configs, manifests, layers
		t.Errorf("there are %d blobs, want 7", n)
	}
	for _, image := range []Image{one, two} {
		now, err := s.Status(ctx, image.ID)
		if err != nil {
			t.Fatal(err)
		}
		before, _ := s.Usage(ctx)
		if err := s.Remove(ctx, image.ID); err != nil {
			t.Fatal(err)
		}
		if after, _ := s.Usage(ctx); before.Bytes-after.Bytes != now.Size {
			t.Errorf("%d bytes came free, %d were said", before.Bytes-after.Bytes, now.Size)
		}
		sound(t, s)
	}
	if after, _ := s.Usage(ctx); blobs() != 0 || after.Bytes != 0 || after.Inodes != 0 {
		t.Errorf("%d blobs are left, %+v", blobs(), after)
	}
}

// What was pulled before blobs were kept gets its blobs by the next pull, and
// so does a layer that came from another image as another blob.
func TestBlobsOfLayersThatAreHereAreFetched(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root, host := t.TempDir(), startRegistry(t)
	tarball := makeTar(t, file("f", "content"))
	push(t, host+"/gzip:1", makeImage(t, makeLayer(t, types.OCILayer, gz, tarball)))
	push(t, host+"/zstd:1", makeImage(t, makeLayer(t, types.OCILayerZStd, zst, tarball), gzLayer(t, file("g", "2"))))
	s := openAt(t, root)
	mustPull(t, s, host+"/gzip:1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = keeper(t, root)
	to := startRegistry(t)
	for _, ref := range []string{"/gzip:1", "/zstd:1"} {
		mustPull(t, s, host+ref)
		if _, err := s.Push(context.Background(), PushRequest{Image: host + ref, Ref: to + ref}); err != nil {
			t.Fatal(err)
		}
		if got, want := served(t, to+ref), served(t, host+ref); !slices.Equal(got, want) {
			t.Errorf("%s: pushed %v, want %v", ref, got, want)
		}
	}
	if ingests, err := s.blobs.Ingests(); err != nil || len(ingests) > 0 {
		t.Errorf("parts are left: %v, %v", ingests, err)
	}
	if n := len(s.layers(func(meta.Layer) bool { return true })); n != 2 {
		t.Errorf("there are %d layers, want 2", n)
	}
	sound(t, s)
}

// Many who want the same blob at once fetch it once and disturb nobody.
func TestBlobsAreKeptOnceByManyPulls(t *testing.T) {
	t.Parallel()
	s, host := keeper(t, t.TempDir()), startRegistry(t)
	base := gzLayer(t, file("base", strings.Repeat("base", 100000)))
	var refs []string
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		ref := host + "/" + n + ":1"
		push(t, ref, makeImage(t, base, gzLayer(t, file(n, n))))
		refs = append(refs, ref)
	}
	done := make(chan error)
	for _, ref := range refs {
		go func() {
			_, err := s.Pull(context.Background(), PullRequest{Ref: ref})
			done <- err
		}()
	}
	for range refs {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(s.cfg.Root, "ingest")); err != nil || len(left) > 0 {
		t.Errorf("parts are left: %v, %v", left, err)
	}
	sound(t, s)
}

func TestADamagedKeptBlobIsNotSaved(t *testing.T) {
	t.Parallel()
	s, host := keeper(t, t.TempDir()), startRegistry(t)
	layer := gzLayer(t, file("f", "content"))
	push(t, host+"/x:1", makeImage(t, layer))
	mustPull(t, s, host+"/x:1")
	blob, _ := blobOf(t, layer)
	flip(t, s.blobs.Path(digest.Digest(blob)))
	if err := s.Save(context.Background(), []string{host + "/x:1"}, ArchiveOCI, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), blob) {
		t.Errorf("saved with %v", err)
	}
}
