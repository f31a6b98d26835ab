package imageservice

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// openStore opens a store of the test's own.
func openStore(t *testing.T) *Service {
	t.Helper()
	needRoot(t)
	return openAt(t, t.TempDir())
}

func openAt(t *testing.T, root string) *Service {
	t.Helper()
	s, err := Open(context.Background(), Config{Root: root, BootID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// sound fails the test if Check finds anything.
func sound(t *testing.T, s *Service) {
	t.Helper()
	lines, err := s.Check(context.Background())
	if err != nil || len(lines) > 0 {
		t.Fatalf("the store is not sound: %v %q", err, lines)
	}
}

// startRegistry gives the host of a registry in memory.
func startRegistry(t testing.TB) string {
	t.Helper()
	srv := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// entry is one of a tar.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, content}
}

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}}
}

func symlink(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}}
}

func hardlink(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}}
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1700000000, 0)
		}
		e.Size = int64(len(e.content))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func emptyIndex() v1.ImageIndex { return empty.Index }

// layerOf is a layer whose blob is the tar, compressed by pack.
type layerOf struct {
	v1.Layer
	diffID v1.Hash
}

func (l layerOf) DiffID() (v1.Hash, error) { return l.diffID, nil }

func makeLayer(t testing.TB, mediaType types.MediaType, pack func(testing.TB, []byte) []byte, tarball []byte) v1.Layer {
	t.Helper()
	diffID, err := v1.NewHash(digest.FromBytes(tarball).String())
	if err != nil {
		t.Fatal(err)
	}
	return layerOf{static.NewLayer(pack(t, tarball), mediaType), diffID}
}

func plain(_ testing.TB, b []byte) []byte { return b }

func gzLayer(t testing.TB, entries ...entry) v1.Layer {
	t.Helper()
	return makeLayer(t, types.OCILayer, gz, makeTar(t, entries...))
}

// makeImage stacks layers, bottom first.
func makeImage(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, layers...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config.User, c.Config.Cmd = "linux", "amd64", "1000:1000", []string{"/x"}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func push(t testing.TB, ref string, img v1.Image) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
}

func mustPull(t testing.TB, s *Service, ref string) Image {
	t.Helper()
	image, err := s.Pull(context.Background(), PullRequest{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// run pushes an image of layers, pulls it and mounts it for a container.
// It gives the mount point.
func run(t *testing.T, s *Service, layers ...v1.Layer) string {
	t.Helper()
	ref := startRegistry(t) + "/run:latest"
	push(t, ref, makeImage(t, layers...))
	return mountImage(t, s, "c-"+digest.FromString(t.Name()).Encoded()[:8], mustPull(t, s, ref).ID)
}

func mountImage(t *testing.T, s *Service, container, image string) string {
	t.Helper()
	ctx := context.Background()
	if err := s.Prepare(ctx, container, image); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "root")
	if err := s.Mount(ctx, container, target, nil, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Unmount(ctx, target) })
	return target
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func absent(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Fatalf("%s is there (%v)", path, err)
	}
}
