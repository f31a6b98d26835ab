package registry_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// cut answers with all of a manifest's headers and half of its body.
func cut(w http.ResponseWriter, p pushed) {
	w.Header().Set("Content-Length", fmt.Sprint(len(p.manifest)))
	_, _ = w.Write(p.manifest[:len(p.manifest)/2])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// What a little time may mend is tried again, and nothing else.
func TestWhatIsRetried(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fail  func(w http.ResponseWriter, p pushed)
		asked int32 // in all, of an endpoint that fails once
	}{
		"429": {func(w http.ResponseWriter, _ pushed) { w.WriteHeader(http.StatusTooManyRequests) }, 2},
		"429 that says when": {func(w http.ResponseWriter, _ pushed) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}, 2},
		"500":              {func(w http.ResponseWriter, _ pushed) { w.WriteHeader(http.StatusInternalServerError) }, 2},
		"502":              {func(w http.ResponseWriter, _ pushed) { w.WriteHeader(http.StatusBadGateway) }, 2},
		"408":              {func(w http.ResponseWriter, _ pushed) { w.WriteHeader(http.StatusRequestTimeout) }, 2},
		"connection ends":  {func(http.ResponseWriter, pushed) { panic(http.ErrAbortHandler) }, 2},
		"connection reset": {func(w http.ResponseWriter, _ pushed) { reset(w) }, 2},
		"truncated":        {cut, 2},
		"400":              {func(w http.ResponseWriter, _ pushed) { w.WriteHeader(http.StatusBadRequest) }, 1},
		"403":              {func(w http.ResponseWriter, _ pushed) { w.WriteHeader(http.StatusForbidden) }, 1},
		"404":              {func(w http.ResponseWriter, _ pushed) { w.WriteHeader(http.StatusNotFound) }, 1},
		"501":              {func(w http.ResponseWriter, _ pushed) { w.WriteHeader(http.StatusNotImplemented) }, 1},
	} {
		reg := newRegistry(t)
		p := push(t, "v1", reg)
		var asked atomic.Int32
		reg.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
			if asked.Add(1) > 1 {
				return false
			}
			c.fail(w, p)
			return true
		})
		m, err := pull(t, registry.Config{}, reg.host(), nil).Manifest(t.Context(), "v1")
		if n := asked.Load(); n != c.asked || (err == nil) != (c.asked > 1) || err == nil && m.Digest != p.digest {
			t.Errorf("%s: asked %d times, then %v", name, n, err)
		}
	}
}

// reset ends a connection without the end of its stream.
func reset(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// An endpoint that fails for good is not asked again when another one may be.
func TestRetriesSpareThoseThatAnswered(t *testing.T) {
	t.Parallel()
	absent, flaky := newRegistry(t), newRegistry(t)
	flaky.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	dirs := certsDir(t, "registry.invalid", fmt.Sprintf("server = %q\n[host.%q]\n", flaky.URL, absent.URL))
	_, err := pull(t, registry.Config{CertsDirs: dirs, Retries: 2}, "registry.invalid", nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.Unavailable, absent.URL+"/v2: 404", flaky.URL+"/v2: 503")
	if a, f := len(absent.asked()), len(flaky.asked()); a != 1 || f != 3 {
		t.Errorf("asked %d and %d times, want 1 and 3", a, f)
	}
	if n := strings.Count(err.Error(), "503"); n != 1 {
		t.Errorf("told %d times: %v", n, err)
	}
}

// The files are read at each pull, by a client that lives as long as the
// daemon.
func TestHostsTomlIsReadAtEachPull(t *testing.T) {
	t.Parallel()
	one, two := newRegistry(t), newRegistry(t)
	dirs := certsDir(t, "registry.invalid", fmt.Sprintf("server = %q\n", one.URL))
	client := registry.New(registry.Config{CertsDirs: dirs})
	ref, err := refs.Parse("registry.invalid/"+repo, "")
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		t.Helper()
		r, err := client.Repository(t.Context(), ref, nil)
		if err == nil {
			_, err = r.Manifest(t.Context(), "")
		}
		return err
	}
	wantKind(t, ask(), errkind.NotFound, one.URL)
	file := filepath.Join(dirs[0], "registry.invalid", "hosts.toml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "server = %q\n", two.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	wantKind(t, ask(), errkind.NotFound, two.URL)
	if err := os.WriteFile(file, []byte("sever = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantKind(t, ask(), errkind.FailedPrecondition, file+":1: unknown key \"sever\"")
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	wantKind(t, ask(), errkind.Unavailable, "https://registry.invalid/v2")
	if len(one.asked()) != 1 || len(two.asked()) != 1 {
		t.Errorf("asked %d and %d times", len(one.asked()), len(two.asked()))
	}
}
