package imageservice

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// part is a layer of an artifact.
type part struct {
	mediaType, title string
	content          []byte
}

func titled(title, content string) part {
	return part{"application/octet-stream", title, []byte(content)}
}

// rawManifest is a manifest to be put as it is.
type rawManifest []byte

func (m rawManifest) RawManifest() ([]byte, error)        { return m, nil }
func (m rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (m rawManifest) descriptor(platform string) v1.Descriptor {
	os, arch, _ := strings.Cut(platform, "/")
	return v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m)),
		Platform: &v1.Platform{OS: os, Architecture: arch}}
}

// pushArtifact puts an artifact with the empty config into a registry, which
// does not get that config, and gives its manifest.
func pushArtifact(t testing.TB, ref string, parts ...part) rawManifest {
	t.Helper()
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		ArtifactType: "application/x-model", Config: v1.DescriptorEmptyJSON, Layers: []v1.Descriptor{}}
	to, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	sent := map[digest.Digest]bool{}
	for _, p := range parts {
		d := v1.Descriptor{MediaType: p.mediaType, Digest: digest.FromBytes(p.content), Size: int64(len(p.content))}
		if p.title != "" {
			d.Annotations = map[string]string{v1.AnnotationTitle: p.title}
		}
		m.Layers = append(m.Layers, d)
		if sent[d.Digest] {
			continue
		}
		sent[d.Digest] = true
		if err := remote.WriteLayer(to.Context(), static.NewLayer(p.content, types.MediaType(p.mediaType))); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Put(to, rawManifest(raw)); err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestArtifactIsAnImageOfFiles(t *testing.T) {
	t.Parallel()
	s, ctx := openStore(t), t.Context()
	host, other := startRegistry(t), startRegistry(t)
	packed := makeTar(t, dir("tree", 0o755), file("tree/leaf", "green"))
	parts := []part{
		titled("weights/model.bin", "binary"),
		titled("archive.tar.gz", string(gz(t, []byte("not to be touched")))),
		titled("../../escape", "caught"),
		{"application/x", "", []byte("nameless")},
		{v1.MediaTypeImageLayerGzip, "", gz(t, packed)},
		titled("empty", ""),
	}
	raw := pushArtifact(t, host+"/model:v1", parts...)
	pushArtifact(t, other+"/copy:v2", parts...)
	image := mustPull(t, s, host+"/model:v1")
	if image.ID != digest.FromBytes(raw).String() {
		t.Errorf("the id is %s, want that of the manifest", image.ID)
	}
	if again := mustPull(t, s, other+"/copy:v2"); again.ID != image.ID || len(again.Tags) != 2 || len(again.Digests) != 2 {
		t.Errorf("from another registry it is %+v", again)
	}
	if image.Artifact == nil || image.Artifact.Type != "application/x-model" || len(image.Artifact.Parts) != len(parts) {
		t.Errorf("it is told to hold %+v", image.Artifact)
	}
	for _, name := range []string{image.ID, image.ID[7:19], host + "/model:v1", other + "/copy@" + image.ID} {
		if got, err := s.Status(ctx, name); err != nil || got.ID != image.ID {
			t.Errorf("%s is %s, %v", name, got.ID, err)
		}
	}

	history, err := s.History(ctx, image.ID)
	if err != nil || len(history) != len(parts) || history[0].CreatedBy != "weights/model.bin" || history[0].DiffID != image.Layers[0].DiffID || history[0].Size != image.Layers[0].Size {
		t.Errorf("its history is %+v, %v", history, err)
	}

	at := mountImage(t, s, "c-v0", image.ID)
	for name, want := range map[string]string{
		"weights/model.bin": "binary",
		"archive.tar.gz":    string(parts[1].content),
		"sha256-" + digest.FromString("caught").Encoded():   "caught",
		"sha256-" + digest.FromString("nameless").Encoded(): "nameless",
		"tree/leaf": "green",
		"empty":     "",
	} {
		if got := read(t, filepath.Join(at, name)); got != want {
			t.Errorf("%s has %q", name, got)
		}
	}
	if names, err := os.ReadDir(at); err != nil || len(names) != 6 {
		t.Errorf("the artifact has %v, %v", names, err)
	}
	if fi, err := os.Stat(filepath.Join(at, "weights")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("a directory that a title implies is %v, %v", fi, err)
	}
	sound(t, s)
}

func TestArtifactLivesAndGoesLikeAnImage(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	needRoot(t)
	s, ctx := openAt(t, root), t.Context()
	host := startRegistry(t)
	shared := titled("shared", strings.Repeat("x", 100000))
	pushArtifact(t, host+"/a:1", shared, titled("own", strings.Repeat("y", 20000)))
	pushArtifact(t, host+"/b:1", shared)
	a, b := mustPull(t, s, host+"/a:1"), mustPull(t, s, host+"/b:1")
	if a.ID == b.ID {
		t.Fatal("two artifacts of one config are one image")
	}
	if a, _ = s.Status(ctx, a.ID); a.Size < 20000 || a.Size >= 100000 {
		t.Errorf("%d bytes are said to go with it", a.Size)
	}
	before, _ := s.Usage(ctx)
	at := mountImage(t, s, "c-v0", b.ID)
	if p, err := s.Prune(ctx, PruneUntagged); err != nil || len(p.Images) > 0 {
		t.Errorf("pruning what no name leads to takes %+v, %v", p.Images, err)
	}
	if err := s.Remove(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	if after, _ := s.Usage(ctx); before.Bytes-after.Bytes != a.Size {
		t.Errorf("%d bytes came free, %d were said", before.Bytes-after.Bytes, a.Size)
	}
	if p, err := s.Prune(ctx, PruneUnused); err != nil || len(p.Images) > 0 {
		t.Errorf("pruning what no container has takes %+v, %v, which one mounts", p.Images, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, root)
	if got, err := s.Status(ctx, host+"/b:1"); err != nil || got.ID != b.ID || got.Artifact == nil {
		t.Errorf("after a restart it is %+v, %v", got, err)
	}
	if err := s.Remove(ctx, b.ID); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(at, "shared")); got != string(shared.content) {
		t.Errorf("the volume of a removed artifact has %d bytes", len(got))
	}
	sound(t, s)
}

func TestArtifactIsVerifiedAndRepaired(t *testing.T) {
	t.Parallel()
	s, ctx := openStore(t), t.Context()
	ref := startRegistry(t) + "/model:v1"
	pushArtifact(t, ref, titled("dir/weights", "many numbers"), titled("other", "other"))
	image := mustPull(t, s, ref)
	flip(t, place(s, image, 0, "dir/weights"))
	found := damage(t, s, false)
	if len(found) != 1 || found[0].File != "dir/weights" || len(found[0].Images) != 1 {
		t.Fatalf("found %+v", found)
	}
	if err := s.Repair(ctx, found, nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, place(s, image, 0, "dir/weights")); got != "many numbers" {
		t.Errorf("it was repaired to %q", got)
	}
	if found := damage(t, s, false); len(found) > 0 {
		t.Errorf("left %+v", found)
	}
	sound(t, s)
}

// As many files as an artifact may have are one mount, and each is its own.
func TestArtifactOfManyFiles(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	ref := startRegistry(t) + "/many:v1"
	var parts []part
	for i := range manifest.MaxLayers {
		name := fmt.Sprintf("shards/%d/model-%03d.bin", i%7, i)
		parts = append(parts, titled(name, strconv.Itoa(i%10)))
	}
	pushArtifact(t, ref, parts...)
	at := mountImage(t, s, "c-v0", mustPull(t, s, ref).ID)
	for _, p := range parts {
		if got := read(t, filepath.Join(at, p.title)); got != string(p.content) {
			t.Fatalf("%s has %q", p.title, got)
		}
	}
	pushArtifact(t, ref, append(parts, titled("one more", ""))...)
	if _, err := s.Pull(t.Context(), PullRequest{Ref: ref}); !errkind.Is(err, errkind.ResourceExhausted) {
		t.Errorf("one file more: %v", err)
	}
	sound(t, s)
}

// An artifact goes out as it came in, to the byte, by whatever way.
func TestArtifactKeepsItsDigests(t *testing.T) {
	t.Parallel()
	s, ctx := openStore(t), t.Context()
	host, fresh := startRegistry(t), startRegistry(t)
	raw := pushArtifact(t, host+"/model:v1", titled("dir/weights", strings.Repeat("w", 9000)), titled("empty", ""),
		part{v1.MediaTypeImageLayerGzip, "", gz(t, makeTar(t, dir("tree", 0o755), file("tree/leaf", "green")))})
	id := digest.FromBytes(raw)
	mustPull(t, s, host+"/model:v1")
	if sum, err := s.Push(ctx, PushRequest{Image: host + "/model:v1", Ref: fresh + "/copy:v2"}); err != nil || sum != id {
		t.Errorf("pushed as %s, %v, want %s", sum, err, id)
	}
	if err := s.Save(ctx, []string{host + "/model:v1"}, ArchiveDocker, io.Discard); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("saved for docker: %v", err)
	}
	var saved bytes.Buffer
	if err := s.Save(ctx, []string{host + "/model:v1"}, ArchiveOCI, &saved); err != nil {
		t.Fatal(err)
	}
	sound(t, s)

	other := openStore(t)
	if got := mustPull(t, other, fresh+"/copy:v2"); got.ID != id.String() || got.Digests[0] != fresh+"/copy@"+id.String() {
		t.Errorf("pushed and pulled it is %+v", got)
	}
	if err := other.Remove(ctx, id.String()); err != nil {
		t.Fatal(err)
	}
	if u, _ := other.Usage(ctx); u.Bytes != 0 || u.Inodes != 0 {
		t.Errorf("its removal leaves %+v", u)
	}
	loaded, err := other.Load(ctx, &saved, nil)
	if err != nil || len(loaded) != 1 || loaded[0].ID != id.String() || !slices.Equal(loaded[0].Tags, []string{host + "/model:v1"}) || loaded[0].Artifact == nil {
		t.Fatalf("saved and loaded it is %+v, %v", loaded, err)
	}
	if sum, err := other.Push(ctx, PushRequest{Image: id.String(), Ref: startRegistry(t) + "/again:v3"}); err != nil || sum != id {
		t.Errorf("loaded and pushed it is %s, %v", sum, err)
	}
	at := mountImage(t, other, "c-v0", id.String())
	if read(t, filepath.Join(at, "dir/weights")) != strings.Repeat("w", 9000) || read(t, filepath.Join(at, "tree/leaf")) != "green" {
		t.Error("it has other files")
	}
	sound(t, other)

	// What the disk has broken does not go out under its digest.
	flip(t, place(other, loaded[0], 0, "dir/weights"))
	if err := other.Save(ctx, []string{id.String()}, ArchiveOCI, io.Discard); !errkind.Is(err, errkind.DataLoss) {
		t.Errorf("a flipped byte was saved: %v", err)
	}
}

func TestArtifactOfAnIndex(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	host := startRegistry(t)
	raw := pushArtifact(t, host+"/model:amd64", titled("f", "x"))
	index, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{raw.descriptor("linux/amd64"), raw.descriptor("linux/arm64")}})
	if err != nil {
		t.Fatal(err)
	}
	to, err := name.ParseReference(host + "/model:all")
	if err == nil {
		err = remote.Put(to, rawIndex{index})
	}
	if err != nil {
		t.Fatal(err)
	}
	image := mustPull(t, s, host+"/model:all")
	if image.ID != digest.FromBytes(raw).String() || image.Digests[0] != host+"/model@"+digest.FromBytes(index).String() {
		t.Errorf("got %+v", image)
	}
	sound(t, s)
}

type rawIndex struct{ b []byte }

func (i rawIndex) RawManifest() ([]byte, error)        { return i.b, nil }
func (i rawIndex) MediaType() (types.MediaType, error) { return types.OCIImageIndex, nil }

// serveOne serves a manifest for every manifest and content for every blob.
func serveOne(t *testing.T, m, content []byte) (ref string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
			_, _ = w.Write(m)
			return
		}
		_, _ = w.Write(content)
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://") + "/x:v1"
}

// A registry that serves other bytes for an artifact's file than its manifest
// says leaves nothing behind.
func TestArtifactOfWrongBytesIsRefused(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	for what, c := range map[string]struct {
		size    int64
		content string
		kind    errkind.Kind
	}{
		"other bytes": {5, "wrong", errkind.DataLoss},
		"fewer":       {5, "righ", errkind.DataLoss},
		"more":        {5, "right!", errkind.DataLoss},
	} {
		m, err := json.Marshal(v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
			Config: v1.DescriptorEmptyJSON,
			Layers: []v1.Descriptor{{MediaType: "text/plain", Digest: digest.FromString("right"), Size: c.size}}})
		if err != nil {
			t.Fatal(err)
		}
		ref := serveOne(t, m, []byte(c.content))
		if _, err := s.Pull(t.Context(), PullRequest{Ref: ref}); !errkind.Is(err, c.kind) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	// The registry's client does not let a wrong size through, an archive's might.
	for _, content := range []string{"four", "sixsix"} {
		r, err := fileTar("f", 5, strings.NewReader(content))
		if err == nil {
			_, err = new(bytes.Buffer).ReadFrom(r)
		}
		if !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("a file of 5 bytes from %q: %v", content, err)
		}
	}
	sound(t, s)
}
