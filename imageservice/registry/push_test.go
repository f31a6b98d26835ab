package registry

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// guarded is a registry that wants a token for pushing, and has its blobs
// uploaded to a storage host elsewhere.
type guarded struct {
	*httptest.Server
	storage *httptest.Server

	mu     sync.Mutex
	scopes []string // that tokens were asked for
	leaked []string // credentials that storage got
	puts   int
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{}
	backend := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	g.storage = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		if a := r.Header.Get("Authorization"); a != "" {
			g.leaked = append(g.leaked, a)
		}
		g.puts++
		g.mu.Unlock()
		backend.ServeHTTP(w, r)
	}))
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			g.mu.Lock()
			g.scopes = append(g.scopes, r.URL.Query()["scope"]...)
			g.mu.Unlock()
			if user, password, _ := r.BasicAuth(); user != "joe" || password != "secret" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = io.WriteString(w, `{"token":"tok"}`)
			return
		}
		if r.Header.Get("Authorization") != "Bearer tok" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+g.URL+`/token",service="s",scope="repository:a/b:pull,push,delete"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		rec := httptest.NewRecorder()
		backend.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		if l := rec.Header().Get("Location"); r.Method == http.MethodPost && l != "" {
			w.Header().Set("Location", g.storage.URL+l)
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	}))
	t.Cleanup(g.Close)
	t.Cleanup(g.storage.Close)
	return g
}

func pusher(t *testing.T, cfg Config, ref string, auth *Auth) (*Pusher, error) {
	t.Helper()
	r, err := refs.Parse(ref, "")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Retries = -1
	return New(cfg).Pusher(t.Context(), r, auth)
}

func bytesOf(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

func TestCREDPushKeepsCredentialsHome(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	ref := strings.TrimPrefix(g.URL, "http://") + "/a/b:1"
	p, err := pusher(t, Config{}, ref, &Auth{Username: "joe", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	blob := bytes.Repeat([]byte("blob"), 1<<18)
	d := digest.FromBytes(blob)
	for i, want := range []bool{true, false} {
		sent, err := p.Blob(t.Context(), d, int64(len(blob)), bytesOf(blob))
		if err != nil || sent != want {
			t.Fatalf("time %d: sent %v, %v", i, sent, err)
		}
	}
	manifest := []byte(`{"schemaVersion":2}`)
	if err := p.Manifest(t.Context(), "1", "application/vnd.oci.image.manifest.v1+json", manifest); err != nil {
		t.Fatal(err)
	}
	if len(g.scopes) != 1 || g.scopes[0] != "repository:a/b:pull,push" {
		t.Errorf("tokens for %q", g.scopes)
	}
	if g.puts != 1 || len(g.leaked) > 0 {
		t.Errorf("%d uploads, leaked %q", g.puts, g.leaked)
	}
	if _, err := p.Blob(t.Context(), digest.FromString("other"), int64(len(blob)), bytesOf(blob)); err == nil {
		t.Error("a blob that is another was accepted")
	}
	p, err = pusher(t, Config{}, ref, &Auth{Username: "joe", Password: "wrong"})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Manifest(t.Context(), "1", "x/y", manifest)
	if !errkind.Is(err, errkind.PermissionDenied) || strings.Contains(err.Error(), "wrong") || !strings.HasPrefix(err.Error(), "cannot push manifest 1 to ") {
		t.Errorf("wrong credentials: %v", err)
	}
}

func TestPushGoesWhereHostsTomlLetsIt(t *testing.T) {
	t.Parallel()
	write := func(text string) Config {
		root := t.TempDir()
		file := filepath.Join(root, "quay.io", "hosts.toml")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Config{CertsDirs: []string{root}}
	}
	p, err := pusher(t, write("capabilities = ['pull', 'push']\n[host.'https://mirror']\ncapabilities = ['pull', 'resolve']\n"), "quay.io/a:1", nil)
	if err != nil || len(p.repo.endpoints) != 1 || p.repo.endpoints[0].base.Host != "quay.io" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := pusher(t, write("capabilities = ['pull']"), "quay.io/a:1", nil); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("nobody may: %v", err)
	}
}

func TestCREDUploadURLs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ base, location, want string }{
		{"https://r/v2", "/v2/a/blobs/uploads/1?x=y", "https://r/v2/a/blobs/uploads/1?x=y"},
		{"https://r/v2", "https://storage/1", "https://storage/1"},
		{"https://r/v2", "http://r/v2/1", ""},
		{"https://r/v2", "https://127.0.0.1/1", ""},
		{"https://r/v2", "https://user@r/1", ""},
		{"https://r/v2", "", ""},
		{"http://localhost:5000/v2", "http://127.0.0.1:5000/1", "http://127.0.0.1:5000/1"},
		{"http://localhost:5000/v2", "ftp://x/1", ""},
	} {
		base, err := url.Parse(tt.base)
		if err != nil {
			t.Fatal(err)
		}
		e := &endpoint{host: host{base: base}}
		resp := &http.Response{Header: http.Header{"Location": {tt.location}}, Request: &http.Request{URL: base}}
		u, err := e.uploadURL(resp)
		if (err == nil) != (tt.want != "") || err == nil && u.String() != tt.want {
			t.Errorf("%s to %q: %v, %v", tt.base, tt.location, u, err)
		}
	}
}

// repositories keeps blobs by repository, as registries of many users do.
type repositories struct {
	mu      sync.Mutex
	blobs   map[string]bool // PATH@DIGEST
	uploads int
	mounts  bool // the host mounts
	private bool // it lets nobody read from elsewhere
}

func (r *repositories) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path, name, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/blobs/")
	q := req.URL.Query()
	switch {
	case req.Method == http.MethodHead && !r.blobs[path+"@"+name]:
		w.WriteHeader(http.StatusNotFound)
	case req.Method == http.MethodHead:
	case req.Method == http.MethodPost && q.Get("mount") != "" && r.private:
		w.WriteHeader(http.StatusUnauthorized)
	case req.Method == http.MethodPost && r.mounts && r.blobs[q.Get("from")+"@"+q.Get("mount")]:
		r.blobs[path+"@"+q.Get("mount")] = true
		w.WriteHeader(http.StatusCreated)
	case req.Method == http.MethodPost:
		w.Header().Set("Location", req.URL.Path+"1")
		w.WriteHeader(http.StatusAccepted)
	case req.Method == http.MethodPut:
		b, _ := io.ReadAll(req.Body)
		r.uploads++
		r.blobs[path+"@"+digest.FromBytes(b).String()] = true
		w.WriteHeader(http.StatusCreated)
	}
}

func TestBlobOfANeighbourIsNotSent(t *testing.T) {
	t.Parallel()
	blob := []byte("a blob")
	d := digest.FromBytes(blob)
	for name, tt := range map[string]struct {
		host    *repositories
		from    string
		uploads int
	}{
		"mounted":           {&repositories{mounts: true}, "team/old", 0},
		"no neighbour":      {&repositories{mounts: true}, "", 1},
		"not there":         {&repositories{mounts: true}, "team/other", 1},
		"host cannot mount": {&repositories{}, "team/old", 1},
		"host refuses":      {&repositories{mounts: true, private: true}, "team/old", 1},
	} {
		t.Run(name, func(t *testing.T) {
			tt.host.blobs = map[string]bool{"team/old@" + d.String(): true}
			srv := httptest.NewServer(tt.host)
			t.Cleanup(srv.Close)
			p, err := pusher(t, Config{}, strings.TrimPrefix(srv.URL, "http://")+"/team/new:1", nil)
			if err != nil {
				t.Fatal(err)
			}
			p.From = tt.from
			sent, err := p.Blob(t.Context(), d, int64(len(blob)), bytesOf(blob))
			if err != nil || sent != (tt.uploads > 0) || tt.host.uploads != tt.uploads || !tt.host.blobs["team/new@"+d.String()] {
				t.Errorf("sent %v, %v; the host had %d uploads and has %v", sent, err, tt.host.uploads, tt.host.blobs)
			}
		})
	}
}
