package registry_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// repo is the repository that all tests use.
const repo = "library/app"

// recorder is a registry that remembers what it was asked, and may be told to
// answer itself before the registry does.
type recorder struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	answer   func(http.ResponseWriter, *http.Request) bool
}

func (r *recorder) ServeHTTP(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.requests = append(r.requests, req.Clone(context.WithoutCancel(req.Context())))
		answer := r.answer
		r.mu.Unlock()
		if answer == nil || !answer(w, req) {
			next.ServeHTTP(w, req)
		}
	}
}

func (r *recorder) intercept(answer func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *recorder) asked() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*http.Request(nil), r.requests...)
}

func (r *recorder) host() string { return strings.SplitN(r.URL, "://", 2)[1] }

func newHandler() http.Handler { return ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))) }

func newRegistry(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{}
	r.Server = httptest.NewServer(r.ServeHTTP(newHandler()))
	t.Cleanup(r.Close)
	return r
}

// newServer answers with h alone.
func newServer(t *testing.T, h http.HandlerFunc) *recorder {
	t.Helper()
	r := &recorder{}
	r.Server = httptest.NewServer(r.ServeHTTP(h))
	t.Cleanup(r.Close)
	return r
}

// pushed is an image in a registry.
type pushed struct {
	manifest []byte
	digest   digest.Digest
	layer    []byte
	layerID  digest.Digest
}

func (r *recorder) send(t *testing.T, method, path, contentType string, body []byte) {
	t.Helper()
	req, err := http.NewRequest(method, r.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

// push puts a random image under tag into each registry.
func push(t *testing.T, tag string, into ...*recorder) pushed {
	t.Helper()
	img, err := random.Image(3<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	var p pushed
	if p.manifest, err = img.RawManifest(); err != nil {
		t.Fatal(err)
	}
	p.digest = digest.FromBytes(p.manifest)
	mediaType, err := img.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if p.layer, err = io.ReadAll(rc); err != nil {
		t.Fatal(err)
	}
	p.layerID = digest.FromBytes(p.layer)
	for _, r := range into {
		r.send(t, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+p.layerID.String(), "application/octet-stream", p.layer)
		r.send(t, http.MethodPut, "/v2/"+repo+"/manifests/"+tag, string(mediaType), p.manifest)
	}
	return p
}

// pull makes a Repository of the test repository at host.
func pull(t *testing.T, cfg registry.Config, host string, auth *registry.Auth) *registry.Repository {
	t.Helper()
	ref, err := refs.Parse(host+"/"+repo+":v1", "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.New(cfg).Repository(t.Context(), ref, auth)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// certsDir writes a hosts.toml for host.
func certsDir(t *testing.T, host, text string) []string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, host), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{dir}
}

func wantKind(t *testing.T, err error, want errkind.Kind, words ...string) {
	t.Helper()
	if !errkind.Is(err, want) {
		t.Fatalf("got error %v of kind %d, want kind %d", err, errkind.Of(err), want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

func wantImage(t *testing.T, r *registry.Repository, p pushed) {
	t.Helper()
	for _, by := range []string{"", "v1", p.digest.String()} {
		m, err := r.Manifest(t.Context(), by)
		if err != nil {
			t.Fatal(err)
		}
		if m.Digest != p.digest || !bytes.Equal(m.Bytes, p.manifest) || m.IsIndex() {
			t.Errorf("Manifest(%q) = %s of type %s", by, m.Digest, m.MediaType)
		}
	}
	for _, offset := range []int64{0, 7, int64(len(p.layer))} {
		wantBlob(t, r, p, int64(len(p.layer)), offset)
	}
	wantBlob(t, r, p, -1, 0)
}

func wantBlob(t *testing.T, r *registry.Repository, p pushed, size, offset int64) {
	t.Helper()
	rc, err := r.Blob(t.Context(), p.layerID, size, offset)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	got, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, p.layer[offset:]) {
		t.Errorf("blob from %d differs: %d bytes, want %d", offset, len(got), int64(len(p.layer))-offset)
	}
}

func TestPlainLoopback(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	wantImage(t, pull(t, registry.Config{}, reg.host(), nil), p)
}

func TestAbsent(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	push(t, "v1", reg)
	r := pull(t, registry.Config{}, reg.host(), nil)
	_, err := r.Manifest(t.Context(), "v2")
	wantKind(t, err, errkind.NotFound, reg.URL, "404", "MANIFEST_UNKNOWN")
	_, err = r.Blob(t.Context(), digest.FromString("x"), 1, 0)
	wantKind(t, err, errkind.NotFound)
	for _, bad := range []string{"../x", "a/b", "sha256:abc", "v1?x=y", "sha512:" + strings.Repeat("ab", 64)} {
		_, err = r.Manifest(t.Context(), bad)
		wantKind(t, err, errkind.InvalidArgument)
	}
	_, err = r.Blob(t.Context(), "sha256:../../x", 1, 0)
	wantKind(t, err, errkind.InvalidArgument)
}

// closedPort is an address at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestRefusedConnectionIsUnavailable(t *testing.T) {
	t.Parallel()
	host := closedPort(t)
	_, err := pull(t, registry.Config{}, host, nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.Unavailable, host, "connection refused")
}

func TestLIMManifest(t *testing.T) {
	t.Parallel()
	reg := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, registry.MaxManifest+1))
	})
	_, err := pull(t, registry.Config{}, reg.host(), nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.InvalidArgument, "4194304")
}

func TestDIGManifest(t *testing.T) {
	t.Parallel()
	reg := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"config":{},"layers":[]}`)
	})
	r := pull(t, registry.Config{}, reg.host(), nil)
	_, err := r.Manifest(t.Context(), digest.FromString("x").String())
	wantKind(t, err, errkind.DataLoss)

	reg.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
		return false
	})
	_, err = r.Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.DataLoss)
}

func TestDIGAmbiguousManifest(t *testing.T) {
	t.Parallel()
	const index, image = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
	for _, tt := range []struct {
		header, body, want string
	}{
		{image, `{"config":{},"layers":[],"manifests":[]}`, ""},
		{image, `{"manifests":[]}`, ""},
		{index, `{"config":{},"layers":[]}`, ""},
		{image, `{"mediaType":"` + index + `","config":{},"layers":[]}`, ""},
		{image, `{"mediaType":"text/plain","config":{}}`, ""},
		{image, `{"mediaType":"` + index + `","manifests":[]}`, ""},
		{image + ";charset=utf-8", `{"manifests":[]}`, ""},
		{registry.MediaTypeDockerList, `{"mediaType":"` + image + `","config":{},"layers":[]}`, ""},
		{registry.MediaTypeDockerManifest, `{"mediaType":"` + image + `","config":{},"layers":[]}`, image},
		{image, `{}`, ""},
		{image, `<html>`, ""},
		{image, `{"schemaVersion":1,"fsLayers":[]}`, ""},
		{index + "; charset=utf-8", `{"manifests":[]}`, index},
		{"application/json", `{"manifests":[]}`, index},
		{"", `{"config":{},"layers":[]}`, image},
		{"text/plain", `{"mediaType":"` + registry.MediaTypeDockerList + `","manifests":[]}`, registry.MediaTypeDockerList},
	} {
		reg := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", tt.header)
			_, _ = io.WriteString(w, tt.body)
		})
		m, err := pull(t, registry.Config{}, reg.host(), nil).Manifest(t.Context(), "v1")
		switch {
		case tt.want == "" && !errkind.Is(err, errkind.InvalidArgument):
			t.Errorf("%s as %s: got %v, want InvalidArgument", tt.body, tt.header, err)
		case tt.want != "" && (err != nil || m.MediaType != tt.want):
			t.Errorf("%s as %s: got %q, %v, want %q", tt.body, tt.header, m.MediaType, err, tt.want)
		}
	}
}

func TestMirrorsInOrderOfTheFile(t *testing.T) {
	t.Parallel()
	down := closedPort(t)
	empty, mirror, server := newRegistry(t), newRegistry(t), newRegistry(t)
	p := push(t, "v1", mirror, server)
	before := len(server.asked())
	// The table of hosts is not in alphabetical order, "z" aside.
	dirs := certsDir(t, "registry.example", fmt.Sprintf(`
server = "%s"
[host."http://%s"]
[host."%s"]
  capabilities = ["pull", "resolve"]
[host."%s".header]
  X-Mirror = ["yes"]
`, server.URL, down, empty.URL, mirror.URL))
	r := pull(t, registry.Config{CertsDirs: dirs}, "registry.example", nil)
	wantImage(t, r, p)
	if n := len(server.asked()); n != before {
		t.Errorf("the server was asked %d times though a mirror answers", n-before)
	}
	asked := mirror.asked()
	last := asked[len(asked)-1]
	if last.Header.Get("X-Mirror") != "yes" || last.URL.Query().Get("ns") != "registry.example" {
		t.Errorf("mirror was asked %s with %v", last.URL, last.Header)
	}

	_, err := r.Manifest(t.Context(), "v2")
	wantKind(t, err, errkind.NotFound, down, empty.URL, mirror.URL, server.URL)
	text := err.Error()
	if strings.Index(text, empty.URL) > strings.Index(text, mirror.URL) || strings.Index(text, mirror.URL) > strings.Index(text, server.URL) {
		t.Errorf("not in the order of the file: %s", text)
	}
}

func TestDIGMirrorMayServeButNotResolve(t *testing.T) {
	t.Parallel()
	mirror, server := newRegistry(t), newRegistry(t)
	stale := push(t, "v1", mirror)
	p := push(t, "v1", server)
	dirs := certsDir(t, "registry.example", fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\"]\n", server.URL, mirror.URL))
	r := pull(t, registry.Config{CertsDirs: dirs}, "registry.example", nil)
	if m, err := r.Manifest(t.Context(), "v1"); err != nil || m.Digest != p.digest {
		t.Errorf("resolved to %s, %v, want the server's %s", m.Digest, err, p.digest)
	}
	if m, err := r.Manifest(t.Context(), stale.digest.String()); err != nil || m.Digest != stale.digest {
		t.Errorf("by digest: %s, %v", m.Digest, err)
	}
}

func TestDIGMirrorWithWrongBytesIsPassedOver(t *testing.T) {
	t.Parallel()
	server := newRegistry(t)
	p := push(t, "v1", server)
	liar := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"config":{},"layers":[]}`)
	})
	dirs := certsDir(t, "registry.example", fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\"]\n", server.URL, liar.URL))
	r := pull(t, registry.Config{CertsDirs: dirs}, "registry.example", nil)
	if m, err := r.Manifest(t.Context(), p.digest.String()); err != nil || m.Digest != p.digest {
		t.Errorf("got %s, %v", m.Digest, err)
	}
	wantBlob(t, r, p, int64(len(p.layer)), 0)
}

func TestOverridePath(t *testing.T) {
	t.Parallel()
	inner := newHandler()
	reg := &recorder{}
	reg.Server = httptest.NewServer(reg.ServeHTTP(inner))
	t.Cleanup(reg.Close)
	p := push(t, "v1", reg)
	proxy := newServer(t, func(w http.ResponseWriter, req *http.Request) {
		if rest, ok := strings.CutPrefix(req.URL.Path, "/artifactory/hub/"); ok {
			req.URL.Path = "/v2/" + rest
			inner.ServeHTTP(w, req)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
	dirs := certsDir(t, "registry.example", fmt.Sprintf("server = %q\noverride_path = true\n", proxy.URL+"/artifactory/hub/"))
	wantImage(t, pull(t, registry.Config{CertsDirs: dirs}, "registry.example", nil), p)
}

func TestTransientAnswersAreRetried(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	failures := 2
	reg.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if failures--; failures < 0 {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	r := pull(t, registry.Config{Retries: 2}, reg.host(), nil)
	if m, err := r.Manifest(t.Context(), "v1"); err != nil || m.Digest != p.digest {
		t.Errorf("got %s, %v", m.Digest, err)
	}

	failures = 2
	r = pull(t, registry.Config{Retries: -1}, reg.host(), nil)
	_, err := r.Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.Unavailable, "503")
}

// flaky sends only part of each blob and then breaks the connection.
func flaky(t *testing.T, reg *recorder, p pushed, part int, ignoreRange bool) {
	t.Helper()
	reg.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/blobs/") {
			return false
		}
		start := 0
		if rg := req.Header.Get("Range"); rg != "" && !ignoreRange {
			if _, err := fmt.Sscanf(rg, "bytes=%d-", &start); err != nil {
				t.Errorf("range %q: %v", rg, err)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(p.layer)-1, len(p.layer)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(p.layer)-start))
		if start > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(p.layer[start:min(start+part, len(p.layer))])
		if start+part < len(p.layer) {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		return true
	})
}

func TestBrokenBlobGoesOnByRange(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	flaky(t, reg, p, 3<<19, false) // twice, which is over "worthwhile" each time
	r := pull(t, registry.Config{Retries: 1}, reg.host(), nil)
	wantBlob(t, r, p, int64(len(p.layer)), 0)
	var ranges int
	for _, req := range reg.asked() {
		if req.Header.Get("Range") != "" {
			ranges++
		}
	}
	if ranges == 0 {
		t.Error("no range was asked for")
	}
}

func TestRangeRefused(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	reg.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Header.Get("Range") == "" {
			return false
		}
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return true
	})
	wantBlob(t, pull(t, registry.Config{}, reg.host(), nil), p, int64(len(p.layer)), 1000)
}

func TestRangeIgnored(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	flaky(t, reg, p, len(p.layer), true)
	wantBlob(t, pull(t, registry.Config{}, reg.host(), nil), p, int64(len(p.layer)), 1000)
}

func TestBlobGivesUp(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	flaky(t, reg, p, 1000, false)
	rc, err := pull(t, registry.Config{Retries: 1}, reg.host(), nil).Blob(t.Context(), p.layerID, int64(len(p.layer)), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	n, err := io.Copy(io.Discard, rc)
	wantKind(t, err, errkind.Unavailable, "byte 2000", reg.URL)
	if n != 2000 {
		t.Errorf("read %d bytes, want those of two connections", n)
	}
}

func TestStalledBlobGoesOn(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	first := true
	reg.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/blobs/") || !first {
			return false
		}
		first = false
		w.Header().Set("Content-Length", fmt.Sprint(len(p.layer)))
		_, _ = w.Write(p.layer[:5000])
		w.(http.Flusher).Flush()
		<-req.Context().Done()
		return true
	})
	wantBlob(t, pull(t, registry.Config{NoProgress: 300 * time.Millisecond}, reg.host(), nil), p, int64(len(p.layer)), 0)
}

func TestSlowReaderIsNoStall(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	rc, err := pull(t, registry.Config{NoProgress: 200 * time.Millisecond, Retries: -1}, reg.host(), nil).
		Blob(t.Context(), p.layerID, int64(len(p.layer)), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rc.Close() }()
	time.Sleep(500 * time.Millisecond) // as if unpacking were slow
	if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, p.layer) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestBlobOfAnotherSize(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	_, err := pull(t, registry.Config{}, reg.host(), nil).Blob(t.Context(), p.layerID, int64(len(p.layer))-1, 0)
	wantKind(t, err, errkind.DataLoss)
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reg := newServer(t, func(_ http.ResponseWriter, req *http.Request) {
		cancel()
		<-req.Context().Done()
	})
	_, err := pull(t, registry.Config{}, reg.host(), nil).Manifest(ctx, "v1")
	wantKind(t, err, errkind.Canceled)
}

func TestHandmadeRefIsRefused(t *testing.T) {
	t.Parallel()
	for _, ref := range []refs.Ref{
		{Host: "../..", Path: "x", Tag: "v1"}, {Host: "docker.io", Path: "../x", Tag: "v1"}, {Host: "docker.io", Path: "x?y", Tag: "v1"}, {},
	} {
		_, err := registry.New(registry.Config{}).Repository(t.Context(), ref, nil)
		wantKind(t, err, errkind.InvalidArgument)
	}
}

func secret(t *testing.T) string {
	t.Helper()
	return "sentinel" + rand.Text()
}
