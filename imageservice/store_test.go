package imageservice

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestOpenRemovesWhatACrashLeft(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root, host := t.TempDir(), startRegistry(t)
	ctx := context.Background()
	s := openAt(t, root)
	push(t, host+"/whole:v1", makeImage(t, gzLayer(t, file("f", "whole"))))
	push(t, host+"/torn:v1", makeImage(t, gzLayer(t, file("f", "torn"))))
	push(t, host+"/bent:v1", makeImage(t, gzLayer(t, file("f", "bent"))))
	whole, torn, bent := mustPull(t, s, host+"/whole:v1"), mustPull(t, s, host+"/torn:v1"), mustPull(t, s, host+"/bent:v1")
	if err := s.Prepare(ctx, "kept", whole.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	if err := os.RemoveAll(s.layerDir(s.state.Images[torn.ID].Layers[0])); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(root, "blobs/sha256", strings.TrimPrefix(bent.ID, "sha256:"))
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"l/77/fs", "l/78.tmp/fs", "s/lost/fs", "spool/load-1"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	loose := filepath.Join(root, "blobs/sha256", strings.Repeat("ab", 32))
	if err := os.WriteFile(loose, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}

	s = openAt(t, root)
	sound(t, s)
	images, _ := s.List(ctx)
	images = slices.DeleteFunc(images, func(i Image) bool { return i.ID == torn.ID })
	if len(images) != 1 || images[0].ID != whole.ID || images[0].Config.Cmd[0] != "/x" || len(images[0].Layers) != 1 {
		t.Fatalf("after the crash there are %+v beside the torn one", images)
	}
	for _, gone := range []string{"l/77", "l/78.tmp", "s/lost", "spool/load-1"} {
		absent(t, filepath.Join(root, gone))
	}
	absent(t, loose)
	if got := s.Snapshots(ctx); len(got) != 1 || got[0] != "kept" {
		t.Errorf("snapshots are %q", got)
	}
	if got := read(t, mountImage(t, s, "torn", torn.ID)+"/f"); got != "torn" {
		t.Errorf("a container of the torn image reads %q", got)
	}
	sound(t, s)
}

func TestSecondOpenIsRefused(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, root := range []string{"relative", "/with:colon", "/with,comma"} {
		if _, err := Open(context.Background(), Config{Root: root}); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: got %v", root, err)
		}
	}
}

func TestAmbiguousPrefixNamesTheCandidates(t *testing.T) {
	t.Parallel()
	v := &view{byID: map[string]int{}, byRef: map[string]string{}}
	for _, digits := range []string{"abc1", "abc2", "def0"} {
		v.byID["sha256:"+digits] = len(v.images)
		v.images = append(v.images, Image{ID: "sha256:" + digits, Tags: []string{"docker.io/library/" + digits + ":latest"}})
	}
	v.byRef["docker.io/library/abc:latest"] = "sha256:def0"

	if got, err := v.find("abc", ""); err != nil || got.ID != "sha256:def0" {
		t.Errorf("a name must win over a beginning of an id: %s, %v", got.ID, err)
	}
	delete(v.byRef, "docker.io/library/abc:latest")
	_, err := v.find("abc", "")
	if !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), "abc1:latest") || !strings.Contains(err.Error(), "abc2:latest") {
		t.Errorf("got %v", err)
	}
	if got, err := v.find("def", ""); err != nil || got.ID != "sha256:def0" {
		t.Errorf("got %s, %v", got.ID, err)
	}
	for _, ref := range []string{"de", "0123", "sha256:99999"} {
		if _, err := v.find(ref, ""); !errkind.Is(err, errkind.NotFound) {
			t.Errorf("%s: got %v", ref, err)
		}
	}
	if _, err := v.find("Not A Name", ""); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("got %v", err)
	}
}

func dockerArchive(t *testing.T, ref string, img v1.Image) []byte {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(tag, img, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLoadDockerArchive(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	ctx := context.Background()
	img := makeImage(t, gzLayer(t, file("f", "docker")), gzLayer(t, file("g", "2")))
	b := dockerArchive(t, "load.example/app:v1", img)
	for _, r := range []io.Reader{bytes.NewReader(b), bytes.NewReader(gz(t, b)), bytes.NewReader(zst(t, b))} {
		images, err := s.Load(ctx, r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(images) != 1 || len(images[0].Tags) != 1 || images[0].Tags[0] != "load.example/app:v1" || len(images[0].Digests) != 0 {
			t.Fatalf("got %+v", images)
		}
	}
	if got := read(t, mountImage(t, s, "c", "load.example/app:v1")+"/f"); got != "docker" {
		t.Errorf("got %q", got)
	}
	sound(t, s)
}

func TestLoadLayout(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	ctx := context.Background()
	img := makeImage(t, makeLayer(t, "application/vnd.oci.image.layer.v1.tar+zstd", zst, makeTar(t, file("f", "oci"))))
	dir := t.TempDir()
	p, err := layout.Write(dir, emptyIndex())
	if err != nil {
		t.Fatal(err)
	}
	err = p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "oci.example/x:v1"}))
	if err != nil {
		t.Fatal(err)
	}
	images, err := s.LoadDir(ctx, dir)
	if err != nil || len(images) != 1 || images[0].Tags[0] != "oci.example/x:v1" {
		t.Fatalf("got %+v, %v", images, err)
	}
	if err := s.Remove(ctx, images[0].ID); err != nil {
		t.Fatal(err)
	}
	var entries []entry
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			entries = append(entries, file(rel, read(t, path)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if images, err = s.Load(ctx, bytes.NewReader(makeTar(t, entries...)), nil); err != nil || len(images) != 1 {
		t.Fatalf("got %+v, %v", images, err)
	}
	if got := read(t, mountImage(t, s, "c", "oci.example/x:v1")+"/f"); got != "oci" {
		t.Errorf("got %q", got)
	}
	sound(t, s)
}

func TestHostileArchiveIsRefused(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	outside := t.TempDir()
	canary := outside + "/canary"
	if err := os.WriteFile(canary, []byte("alive"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"dotdot":  makeTar(t, file("../../../../../../../.."+canary, "dead")),
		"through": makeTar(t, symlink("l", outside), file("l/canary", "dead")),
		"read":    makeTar(t, symlink("config", canary), file("manifest.json", `[{"Config":"config","Layers":[]}]`)),
		"absent":  makeTar(t, file("manifest.json", `[{"Config":"nothing","Layers":[]}]`)),
		"neither": makeTar(t, file("hello", "world")),
		"no-tar":  []byte(strings.Repeat("no tar at all", 100)),
		"empty":   nil,
	} {
		_, err := s.Load(context.Background(), bytes.NewReader(b), nil)
		if err == nil || errkind.Is(err, errkind.DataLoss) {
			t.Errorf("%s: got %v", name, err)
		}
		if got := read(t, canary); got != "alive" {
			t.Fatalf("%s: the canary is %s", name, got)
		}
	}
	left, _ := os.ReadDir(s.spoolDir())
	if len(left) != 0 {
		t.Errorf("%d spools are left", len(left))
	}
	sound(t, s)
}
