package testimage

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// small is an image that needs no busybox.
func small(t *testing.T, docker bool) v1.Image {
	t.Helper()
	img, err := Image{Docker: docker, Layers: []Layer{
		{Files: []File{{Path: "/a/b", Data: "b"}, {Path: "/a/c", Link: "/a/b"}, {Path: "/d", Sym: "a/b"}}},
	}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestBuildRepeats(t *testing.T) {
	t.Parallel()
	one, err := small(t, false).Digest()
	if err != nil {
		t.Fatal(err)
	}
	two, err := small(t, false).Digest()
	if err != nil {
		t.Fatal(err)
	}
	if one != two {
		t.Errorf("the same recipe gave %s and %s", one, two)
	}
}

func TestPushAndSave(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/small:1"
	for _, docker := range []bool{false, true} {
		img := small(t, docker)
		digest, err := Push(t.Context(), ref, img)
		if err != nil {
			t.Fatal(err)
		}
		if got := headDigest(t, server.URL+"/v2/small/manifests/1"); got != digest.String() {
			t.Errorf("pushed %s, the registry has %s", digest, got)
		}
		file := filepath.Join(t.TempDir(), "small.tar")
		if err := Save(file, "example.org/small:1", img); err != nil {
			t.Fatal(err)
		}
		if _, err := tarball.ImageFromPath(file, nil); err != nil {
			t.Error(err)
		}
	}
}

func headDigest(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Head(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("Docker-Content-Digest")
}

func TestPushIndex(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/index:1"
	digest, err := PushIndex(t.Context(), ref, map[string]v1.Image{"amd64": small(t, false), "arm64": small(t, true)})
	if err != nil {
		t.Fatal(err)
	}
	if got := headDigest(t, server.URL+"/v2/index/manifests/1"); got != digest.String() {
		t.Errorf("pushed %s, the registry has %s", digest, got)
	}
}

func TestWeb(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(BusyboxPath); err != nil {
		t.Skipf("needs busybox-static: %v", err)
	}
	img, err := Web("hello")
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 3 {
		t.Errorf("%d layers", len(layers))
	}
}
