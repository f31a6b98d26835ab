package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// tenThousand is how far over a limit the tests go.
const tenThousand = 10_000

// endless writes chunk until n bytes are gone or nobody takes them, and counts
// them.
func endless(w io.Writer, chunk []byte, n int64, sent *atomic.Int64) {
	for sent.Load() < n {
		k, err := w.Write(chunk)
		sent.Add(int64(k))
		if err != nil {
			return
		}
	}
}

// within fails the test if do allocates more than limit bytes in all.
func within(t *testing.T, limit uint64, do func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > limit {
		t.Errorf("allocated %d MiB, more than %d", took>>20, limit>>20)
	}
}

// A body goes on ten thousand times beyond its limit: little more than the
// limit is read of it, and none of the rest is kept. Not parallel, as memory
// is counted for the process.
func TestLIMEndlessBodies(t *testing.T) {
	chunk := bytes.Repeat([]byte(`[{"x":`), 10<<10)
	for name, c := range map[string]struct {
		limit  int64 // of the body, in bytes
		answer func(w http.ResponseWriter, req *http.Request) (body bool)
		kind   errkind.Kind
	}{
		"manifest": {registry.MaxManifest, func(http.ResponseWriter, *http.Request) bool { return true }, errkind.InvalidArgument},
		"refusal": {16 << 10, func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}, errkind.PermissionDenied},
		"unauthorized": {16 << 10, func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, errkind.PermissionDenied},
		"redirect": {16 << 10, func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path == "/there" {
				w.WriteHeader(http.StatusNotFound)
				return false
			}
			w.Header().Set("Location", "/there")
			w.WriteHeader(http.StatusFound)
			return true
		}, errkind.NotFound},
		"token": {128 << 10, func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path == "/token" {
				return true
			}
			w.Header().Set("Www-Authenticate", "Bearer realm=\"http://"+req.Host+"/token\"")
			w.WriteHeader(http.StatusUnauthorized)
			return false
		}, errkind.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64
			reg := newServer(t, func(w http.ResponseWriter, req *http.Request) {
				if c.answer(w, req) {
					endless(w, chunk, c.limit*tenThousand, &sent)
				}
			})
			within(t, uint64(c.limit)*8+(4<<20), func() {
				_, err := pull(t, registry.Config{Retries: -1}, reg.host(), nil).Manifest(t.Context(), "v1")
				wantKind(t, err, c.kind)
				if len(err.Error()) > 1000 {
					t.Errorf("the error has %d bytes", len(err.Error()))
				}
			})
			// What the kernel buffers of a connection comes on top.
			if n := sent.Load(); n > c.limit+(16<<20) {
				t.Errorf("%d bytes were taken, limit %d", n, c.limit)
			}
		})
	}
}

// A blob has the size of its descriptor: what comes after is not read.
func TestLIMBlob(t *testing.T) {
	var sent atomic.Int64
	chunk := make([]byte, 32<<10)
	reg := newServer(t, func(w http.ResponseWriter, _ *http.Request) { endless(w, chunk, tenThousand<<20, &sent) })
	within(t, 16<<20, func() {
		body, err := pull(t, registry.Config{Retries: -1}, reg.host(), nil).Blob(t.Context(), digest.FromString("x"), 1<<20, 0)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, body)
		if n != 1<<20 || err != nil {
			t.Errorf("read %d bytes, %v", n, err)
		}
		_ = body.Close()
	})
	if n := sent.Load(); n > 17<<20 {
		t.Errorf("%d bytes were taken", n)
	}
}

// Headers without end are cut off with their connection.
func TestLIMHeaders(t *testing.T) {
	var sent atomic.Int64
	reg := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 401 Unauthorized\r\n")
		_ = rw.Flush()
		line := []byte(strings.Repeat("Www-Authenticate: Bearer realm=\"x\", Basic\r\n", 1000))
		endless(conn, line, tenThousand<<20, &sent)
	})
	within(t, 64<<20, func() {
		_, err := pull(t, registry.Config{Retries: -1}, reg.host(), nil).Manifest(t.Context(), "v1")
		wantKind(t, err, errkind.Unavailable, "header")
	})
	if n := sent.Load(); n > 17<<20 {
		t.Errorf("%d bytes were taken", n)
	}
}

// Challenges that fill the headers are read in the time of one pass, and ask
// for a few scopes only.
func TestLIMChallenges(t *testing.T) {
	const many = 16 * tenThousand // so many times over what is read, as far as the headers' own limit lets
	var tokens atomic.Int32
	var longest atomic.Int64
	var challenge string
	reg := newServer(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/token" {
			tokens.Add(1)
			longest.Store(max(longest.Load(), int64(len(req.RequestURI))))
			_, _ = io.WriteString(w, `{"token":"x"}`)
			return
		}
		w.Header().Set("Www-Authenticate", strings.ReplaceAll(challenge, "HOST", req.Host))
		w.WriteHeader(http.StatusUnauthorized)
	})
	const realm = `Bearer realm="http://HOST/token"`
	for name, text := range map[string]string{
		"challenges": strings.Repeat("a,", many) + realm,
		"parameters": realm + strings.Repeat(",a=", many),
		"scopes":     realm + `,scope="` + strings.Repeat("repository:x:pull ", many/16) + `"`,
		"long scope": realm + `,scope="repository:` + strings.Repeat("x", many) + `:pull"`,
		"service":    realm + `,service="` + strings.Repeat("x", many) + `"`,
		"realm":      `Bearer realm="http://HOST/token?` + strings.Repeat("x", many) + `"`,
		"unended":    realm + `,x="` + strings.Repeat(`\`, many),
	} {
		challenge = text
		within(t, 64<<20, func() {
			_, err := pull(t, registry.Config{Retries: -1}, reg.host(), nil).Manifest(t.Context(), "v1")
			if err == nil || len(err.Error()) > 1000 {
				t.Errorf("%s: got %.200v", name, err)
			}
		})
	}
	if n := longest.Load(); n == 0 || n > 8<<10 {
		t.Errorf("the longest question to the token server has %d bytes", n)
	}
}

// A host that redirects for ever is left after ten times.
func TestLIMRedirects(t *testing.T) {
	t.Parallel()
	reg := newServer(t, func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, fmt.Sprintf("/%d", len(req.URL.Path)), http.StatusFound)
	})
	_, err := pull(t, registry.Config{Retries: -1}, reg.host(), nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.Unavailable, "too many redirects")
	if n := len(reg.asked()); n != 10 {
		t.Errorf("asked %d times", n)
	}
}

// A host cannot make a pull wait for ten thousand times our longest pause.
func TestLIMRetryAfter(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"100000", "4294967295", "99999999999999999999", "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "x"} {
		if d := registry.RetryAfter(value); d < 0 || d > registry.MaxBackoff {
			t.Errorf("%s: %v", value, d)
		}
	}
	if d := registry.RetryAfter("2"); d.Seconds() != 2 {
		t.Errorf("2: %v", d)
	}
}

// A hosts.toml is read to its limit.
func TestLIMHostsFile(t *testing.T) {
	dir := certsDir(t, "registry.invalid", "")
	file := filepath.Join(dir[0], "registry.invalid", "hosts.toml")
	if err := os.Truncate(file, tenThousand<<20); err != nil { // a hole, which takes no disk
		t.Fatal(err)
	}
	ref, err := refs.Parse("registry.invalid/x", "")
	if err != nil {
		t.Fatal(err)
	}
	within(t, 16<<20, func() {
		_, err = registry.New(registry.Config{CertsDirs: dir}).Repository(t.Context(), ref, nil)
		wantKind(t, err, errkind.FailedPrecondition, file, "1048576 bytes")
	})
}
