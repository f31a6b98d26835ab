package imageservice

import (
	"archive/tar"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestPullEveryCompressionAndMediaType(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	for _, c := range []struct {
		name  string
		media types.MediaType
		pack  func(testing.TB, []byte) []byte
	}{
		{"oci-gzip", types.OCILayer, gz},
		{"oci-zstd", types.OCILayerZStd, zst},
		{"oci-plain", types.OCIUncompressedLayer, plain},
		{"docker-gzip", types.DockerLayer, gz},
		{"docker-plain", types.DockerUncompressedLayer, plain},
		{"mislabelled", types.OCILayer, zst},
	} {
		img := makeImage(t, makeLayer(t, c.media, c.pack, makeTar(t, file("hello", c.name))))
		if strings.HasPrefix(c.name, "docker") {
			img = mutate.ConfigMediaType(mutate.MediaType(img, types.DockerManifestSchema2), types.DockerConfigJSON)
		}
		ref := host + "/a/" + c.name + ":v1"
		push(t, ref, img)
		image := mustPull(t, s, ref)
		if !slices.Equal(image.Tags, []string{ref}) || len(image.Digests) != 1 || image.Size == 0 {
			t.Errorf("%s: got %+v", c.name, image)
		}
		if want, _ := img.ConfigName(); image.ID != want.String() {
			t.Errorf("%s: id is %s, not %s", c.name, image.ID, want)
		}
		if image.UID == nil || *image.UID != 1000 || image.Username != "" || image.Config.Cmd[0] != "/x" {
			t.Errorf("%s: user %v %q, config %+v", c.name, image.UID, image.Username, image.Config)
		}
		if got := read(t, mountImage(t, s, c.name, image.ID)+"/hello"); got != c.name {
			t.Errorf("%s: the file says %q", c.name, got)
		}
	}
	sound(t, s)
}

func TestPullByDigestHasNoTag(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	img, err := random.Image(1<<16, 3)
	if err != nil {
		t.Fatal(err)
	}
	push(t, host+"/r:v1", img)
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref := host + "/r@" + d.String()
	image := mustPull(t, s, ref)
	if len(image.Tags) != 0 || !slices.Equal(image.Digests, []string{ref}) || len(image.Layers) != 3 {
		t.Fatalf("got %+v", image)
	}
	again := mustPull(t, s, host+"/r:v1")
	if again.ID != image.ID || len(again.Tags) != 1 || len(again.Digests) != 1 {
		t.Fatalf("got %+v", again)
	}
	for _, name := range []string{ref, host + "/r:v1", image.ID, strings.TrimPrefix(image.ID, "sha256:"), image.ID[7:19]} {
		if got, err := s.Status(context.Background(), name); err != nil || got.ID != image.ID {
			t.Errorf("Status(%s) = %s, %v", name, got.ID, err)
		}
	}
	if _, err := s.Status(context.Background(), host+"/r:other"); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("an absent tag gives %v", err)
	}
	sound(t, s)
}

func TestPullChoosesThePlatform(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	index := v1.ImageIndex(empty.Index)
	want := ""
	for _, arch := range []string{"s390x", "amd64", "arm64", "unknown"} {
		img := makeImage(t, gzLayer(t, file("arch", arch)))
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	want = "amd64"
	r, err := name.ParseReference(host + "/multi:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r, index); err != nil {
		t.Fatal(err)
	}
	image := mustPull(t, s, host+"/multi:v1")
	top, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(image.Digests, []string{host + "/multi@" + top.String()}) {
		t.Errorf("digests are %q, not the index's %s", image.Digests, top)
	}
	if got := read(t, mountImage(t, s, "c", image.ID)+"/arch"); got != want {
		t.Errorf("got the image for %s", got)
	}
	sound(t, s)
}

func TestSharedLayerIsUnpackedOnceAndFreedLast(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	base := gzLayer(t, file("base", strings.Repeat("b", 1<<20)))
	push(t, host+"/one:v1", makeImage(t, base, gzLayer(t, file("one", "1"))))
	push(t, host+"/two:v1", makeImage(t, base, gzLayer(t, file("two", "2"))))

	var wg sync.WaitGroup
	for _, ref := range []string{"/one:v1", "/two:v1", "/one:v1", "/two:v1"} {
		wg.Go(func() {
			if _, err := s.Pull(context.Background(), PullRequest{Ref: host + ref}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	layers, err := os.ReadDir(s.layersDir())
	if err != nil || len(layers) != 3 {
		t.Fatalf("%d layer directories, not 3 (%v)", len(layers), err)
	}
	images, _ := s.List(context.Background())
	for _, i := range images {
		if i.Size > 1<<20 {
			t.Errorf("removal of %v frees no shared layer, but it says %d bytes", i.Tags, i.Size)
		}
	}
	before, _ := s.Usage(context.Background())
	if before.Bytes < 1<<20 || before.Inodes < 6 {
		t.Errorf("usage is %+v", before)
	}

	one := mountImage(t, s, "c1", host+"/one:v1")
	for range 3 {
		wg.Go(func() {
			if err := s.Remove(context.Background(), host+"/one:v1"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.Remove(context.Background(), host+"/two:v1"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, one+"/one"); got != "1" {
		t.Errorf("a removed image took the container's layers along: %q", got)
	}
	if err := s.Unmount(context.Background(), one); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Discard(context.Background(), "c1"); err != nil {
			t.Fatal(err)
		}
	}
	after, _ := s.Usage(context.Background())
	layers, _ = os.ReadDir(s.layersDir())
	if after.Bytes != 0 || after.Inodes != 0 || len(layers) != 0 {
		t.Errorf("after the last removal %+v and %d directories are left", after, len(layers))
	}
	sound(t, s)
}

func TestRemoveTakesAllTags(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	push(t, host+"/x:v1", makeImage(t, gzLayer(t, file("f", "x"))))
	image := mustPull(t, s, host+"/x:v1")
	ctx := context.Background()
	if err := s.Tag(ctx, image.ID[:16], "other.example/y:v2"); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Status(ctx, "other.example/y:v2"); len(got.Tags) != 2 {
		t.Fatalf("tags are %q", got.Tags)
	}
	if err := s.Remove(ctx, "other.example/y:v2"); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{host + "/x:v1", "other.example/y:v2", image.ID} {
		if _, err := s.Status(ctx, ref); !errkind.Is(err, errkind.NotFound) {
			t.Errorf("%s is still there: %v", ref, err)
		}
		if err := s.Remove(ctx, ref); err != nil {
			t.Errorf("a second Remove of %s: %v", ref, err)
		}
	}
	sound(t, s)
}

func TestLayerThatIsNotWhatItSays(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	wrong, err := v1.NewHash("sha256:" + strings.Repeat("ab", 32))
	if err != nil {
		t.Fatal(err)
	}
	l := gzLayer(t, file("f", "x")).(layerOf)
	l.diffID = wrong
	push(t, host+"/bad:v1", makeImage(t, gzLayer(t, file("good", "y")), l))
	_, err = s.Pull(context.Background(), PullRequest{Ref: host + "/bad:v1"})
	if !errkind.Is(err, errkind.DataLoss) {
		t.Fatalf("got %v", err)
	}
	layers, _ := os.ReadDir(s.layersDir())
	if len(layers) != 0 {
		t.Errorf("%d layer directories are left", len(layers))
	}
	sound(t, s)
}

func TestHostileTarIsRefusedOrConfined(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	outside := t.TempDir()
	canary := outside + "/canary"
	if err := os.WriteFile(canary, []byte("alive"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		entries []entry
		refused bool
	}{
		"dotdot":         {[]entry{file("../../../../../../../.."+canary, "dead")}, true},
		"dotdot-inside":  {[]entry{file("a/../../x", "dead")}, true},
		"absolute":       {[]entry{file(canary, "dead")}, false},
		"through-link":   {[]entry{symlink("l", outside), file("l/canary", "dead")}, false},
		"through-dotdot": {[]entry{symlink("l", "../../../../../../../.."+outside), file("l/canary", "dead")}, false},
		"over-link":      {[]entry{symlink("l", canary), file("l", "dead")}, false},
		"hard-link":      {[]entry{hardlink("h", canary), file("h", "dead")}, true},
		"hard-dotdot":    {[]entry{hardlink("h", "../../../../../.."+canary)}, true},
		"link-loop": {[]entry{symlink("a", "b"), symlink("b", "a"),
			file("a/x", "dead")}, true},
		"whiteout-dotdot": {[]entry{file(".wh...", "")}, true},
		"long-name":       {[]entry{file(strings.Repeat("a/", 20000)+"x", "dead")}, true},
		"minus-one":       {[]entry{{Header: tar.Header{Name: "f", Typeflag: tar.TypeReg, Uid: 1<<32 - 1}}}, true},
	} {
		ref := host + "/hostile/" + name + ":v1"
		push(t, ref, makeImage(t, gzLayer(t, c.entries...)))
		_, err := s.Pull(context.Background(), PullRequest{Ref: ref})
		if c.refused != errkind.Is(err, errkind.InvalidArgument) || (!c.refused && err != nil) {
			t.Errorf("%s: got %v", name, err)
		}
		if got := read(t, canary); got != "alive" {
			t.Fatalf("%s: the canary is %s", name, got)
		}
		if left, _ := os.ReadDir(outside); len(left) != 1 {
			t.Fatalf("%s: %v was written outside", name, left)
		}
	}
	sound(t, s)
}

func TestPaddingAfterTheTarIsPartOfItsDigest(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	padded := append(makeTar(t, file("f", "x")), make([]byte, 1<<20)...)
	push(t, host+"/padded:v1", makeImage(t, makeLayer(t, types.OCILayer, gz, padded)))
	mustPull(t, s, host+"/padded:v1")
}

func TestBombIsRefused(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	s.ratioPad = 1 << 20
	push(t, host+"/bomb:v1", makeImage(t, makeLayer(t, types.OCILayer, zst, make([]byte, 1<<25))))
	_, err := s.Pull(context.Background(), PullRequest{Ref: host + "/bomb:v1"})
	if !errkind.Is(err, errkind.ResourceExhausted) {
		t.Fatalf("got %v", err)
	}
	sound(t, s)
}

func TestAmbiguousManifestsAreRefused(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	for name, body := range map[string]string{
		"both":    `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[],"manifests":[]}`,
		"foreign": `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:` + strings.Repeat("a", 64) + `","size":2},"layers":[{"mediaType":"text/plain","digest":"sha256:` + strings.Repeat("a", 64) + `","size":2}]}`,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			}
			_, _ = w.Write([]byte(body))
		}))
		_, err := s.Pull(context.Background(), PullRequest{Ref: strings.TrimPrefix(srv.URL, "http://") + "/x:v1"})
		srv.Close()
		if !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestPullEndsWithItsDeadline(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	defer srv.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := s.Pull(ctx, PullRequest{Ref: strings.TrimPrefix(srv.URL, "http://") + "/x:v1"})
	if !errkind.Is(err, errkind.DeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestProgressTellsOfEveryLayer(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	push(t, host+"/p:v1", makeImage(t, gzLayer(t, file("a", "1")), gzLayer(t, file("b", "2"))))
	for _, want := range []string{StatusDone, StatusExists} {
		var mu sync.Mutex
		last := map[string]string{}
		_, err := s.Pull(context.Background(), PullRequest{Ref: host + "/p:v1", Progress: func(p Progress) {
			mu.Lock()
			defer mu.Unlock()
			last[p.Layer] = p.Status
		}})
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if len(last) != 2 {
			t.Errorf("told of %d layers", len(last))
		}
		for l, status := range last {
			if status != want {
				t.Errorf("layer %s ended %q, not %q", l, status, want)
			}
		}
		mu.Unlock()
	}
}
