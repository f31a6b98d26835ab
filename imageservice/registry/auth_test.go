package registry_test

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
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
	"time"

	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// leaked reports whether req carries any of the secrets, in whatever form.
func leaked(req *http.Request, secrets ...string) bool {
	body, _ := io.ReadAll(req.Body)
	all := fmt.Sprint(req.Header, req.URL, string(body))
	for _, s := range secrets {
		if strings.Contains(all, s) {
			return true
		}
	}
	return req.Header.Get("Authorization") != "" || req.Header.Get("Cookie") != "" || req.Header.Get("Referer") != ""
}

// demand makes reg answer 401 with challenge unless the request has the header.
func demand(reg *recorder, challenge, header string) {
	reg.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Header.Get("Authorization") == header {
			return false
		}
		w.Header().Set("Www-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

func basicHeader(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestBasic(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	pass := secret(t)
	demand(reg, `Basic realm="registry"`, basicHeader("joe", pass))

	wantImage(t, pull(t, registry.Config{}, reg.host(), &registry.Auth{Username: "joe", Password: pass}), p)
	encoded := base64.StdEncoding.EncodeToString([]byte("joe:" + pass + "\n"))
	wantImage(t, pull(t, registry.Config{}, reg.host(), &registry.Auth{Auth: encoded, ServerAddress: reg.URL + "/v1/"}), p)

	for _, auth := range []*registry.Auth{
		nil,
		{Username: "joe", Password: secret(t)},
		{Username: "joe", Password: pass, ServerAddress: "elsewhere.example"},
	} {
		_, err := pull(t, registry.Config{}, reg.host(), auth).Manifest(t.Context(), "v1")
		wantKind(t, err, errkind.PermissionDenied, "401")
	}
}

// tokenServer gives out token after checking the request with check.
func tokenServer(t *testing.T, token string, check func(*http.Request) error) *recorder {
	t.Helper()
	return newServer(t, func(w http.ResponseWriter, req *http.Request) {
		if err := check(req); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprintf(w, `{"access_token": %q, "expires_in": 300}`, token)
	})
}

func TestBearer(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	pass, token := secret(t), secret(t)
	realm := tokenServer(t, token, func(req *http.Request) error {
		q := req.URL.Query()
		if user, got, _ := req.BasicAuth(); user != "joe" || got != pass {
			return fmt.Errorf("not joe")
		}
		if q.Get("service") != "reg, the \"one\"" || strings.Join(q["scope"], " ") != "repository:other/name:pull repository:"+repo+":pull" {
			return fmt.Errorf("wrong question: %v", q)
		}
		return nil
	})
	// The scope to push is cut, what is no repository dropped.
	demand(reg, fmt.Sprintf(`Negotiate, Bearer realm="%s/token",service="reg, the \"one\"",scope="repository:other/name:pull,push registry:catalog:* repository:%s:pull"`,
		realm.URL, repo), "Bearer "+token)

	wantImage(t, pull(t, registry.Config{}, reg.host(), &registry.Auth{Username: "joe", Password: pass}), p)
	if n := len(realm.asked()); n != 1 {
		t.Errorf("the token server was asked %d times", n)
	}
	_, err := pull(t, registry.Config{}, reg.host(), nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.PermissionDenied, "403", realm.host())
}

func TestIdentityToken(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	refresh, token := secret(t), secret(t)
	realm := tokenServer(t, token, func(req *http.Request) error {
		if req.Method != http.MethodPost || req.FormValue("refresh_token") != refresh ||
			req.FormValue("grant_type") != "refresh_token" || req.FormValue("scope") != "repository:"+repo+":pull" {
			return fmt.Errorf("wrong question: %v", req.Form)
		}
		return nil
	})
	demand(reg, fmt.Sprintf(`Bearer realm="%s/token",service="reg"`, realm.URL), "Bearer "+token)
	wantImage(t, pull(t, registry.Config{}, reg.host(), &registry.Auth{IdentityToken: refresh}), p)
	wantImage(t, pull(t, registry.Config{}, reg.host(), &registry.Auth{Username: "<token>", Password: refresh}), p)
}

func TestRegistryToken(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	token := secret(t)
	demand(reg, `Bearer realm="http://127.0.0.1:1/"`, "Bearer "+token)
	wantImage(t, pull(t, registry.Config{}, reg.host(), &registry.Auth{RegistryToken: token}), p)
	_, err := pull(t, registry.Config{}, reg.host(), &registry.Auth{RegistryToken: secret(t)}).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.PermissionDenied)
}

func TestExpiredTokenIsRenewedOnce(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	var mu sync.Mutex
	valid, given := "", 0
	realm := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		given++
		valid = fmt.Sprintf("token%d", given)
		_, _ = fmt.Fprintf(w, `{"token": %q}`, valid)
	})
	reg.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if valid != "" && req.Header.Get("Authorization") == "Bearer "+valid {
			return false
		}
		w.Header().Set("Www-Authenticate", fmt.Sprintf("Bearer realm=%q", realm.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	r := pull(t, registry.Config{}, reg.host(), nil)
	wantImage(t, r, p)
	mu.Lock()
	valid = "expired"
	mu.Unlock()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := r.Manifest(t.Context(), "v1"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if given != 2 {
		t.Errorf("%d tokens were asked for, want 2", given)
	}
}

func TestCREDRedirectCarriesNoSecret(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	pass, header := secret(t), secret(t)
	storage := newServer(t, func(w http.ResponseWriter, req *http.Request) {
		http.ServeContent(w, req, "", time.Time{}, strings.NewReader(string(p.layer)))
	})
	reg.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Header.Get("Authorization") != basicHeader("joe", pass) || req.Header.Get("X-Key") != header {
			w.Header().Set("Www-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		http.Redirect(w, req, storage.URL+"/blob?sig=signed", http.StatusTemporaryRedirect)
		return true
	})
	dirs := certsDir(t, reg.host(), fmt.Sprintf("server = %q\n[header]\nX-Key = %q\n", reg.URL, header))
	r := pull(t, registry.Config{CertsDirs: dirs}, reg.host(), &registry.Auth{Username: "joe", Password: pass})
	wantBlob(t, r, p, int64(len(p.layer)), 10)
	for _, req := range storage.asked() {
		if leaked(req, pass, header) {
			t.Errorf("the storage host was given %v", req.Header)
		}
		if req.Header.Get("Range") != fmt.Sprintf("bytes=10-%d", len(p.layer)-1) {
			t.Errorf("the range got lost: %v", req.Header)
		}
	}
}

// A storage host must not get credentials by a challenge of its own, by
// sending us on, or back to a path of its choice.
func TestCREDRedirectedHostHasNoSay(t *testing.T) {
	t.Parallel()
	pass := secret(t)
	evil := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"token":"x"}`)
	})
	reg := newRegistry(t)
	auth := &registry.Auth{Username: "joe", Password: pass}
	target := ""
	reg.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/back" {
			if leaked(req, pass) {
				t.Errorf("the way back carries %v", req.Header)
			}
			return true
		}
		if req.Header.Get("Authorization") == "" {
			w.Header().Set("Www-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		http.Redirect(w, req, target, http.StatusFound)
		return true
	})
	storage := newServer(t, func(w http.ResponseWriter, req *http.Request) {
		if leaked(req, pass) {
			t.Errorf("the storage host was given %v", req.Header)
		}
		switch req.URL.Path {
		case "/challenge":
			w.Header().Add("Www-Authenticate", fmt.Sprintf("Bearer realm=%q", evil.URL))
			w.Header().Add("Www-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
		case "/back":
			http.Redirect(w, req, reg.URL+"/back", http.StatusFound)
		}
	})
	for _, path := range []string{"/challenge", "/back"} {
		target = storage.URL + path
		_, err := pull(t, registry.Config{}, reg.host(), auth).Manifest(t.Context(), "v1")
		if err == nil {
			t.Errorf("%s: no error", path)
		}
	}
	if n := len(evil.asked()); n != 0 {
		t.Errorf("the evil realm was asked %d times", n)
	}
}

func TestCREDErrorsCarryNoSecret(t *testing.T) {
	t.Parallel()
	pass, sig := secret(t), secret(t)
	down := closedPort(t)
	auth := &registry.Auth{Username: "joe", Password: pass}
	for name, answer := range map[string]http.HandlerFunc{
		"echo": func(w http.ResponseWriter, req *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"%s %s\n\u001b[2J https://u:%s@x/?a=%s"}]}`, pass, req.Header.Get("Authorization"), sig, sig)
		},
		"redirect": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "http://u:"+sig+"@"+down+"/x?sig="+sig, http.StatusFound)
		},
		"bad location": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://["+down+"/x?sig="+sig)
			w.WriteHeader(http.StatusFound)
		},
		"downgrade": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "ftp://x/?sig="+sig, http.StatusFound)
		},
	} {
		reg := newServer(t, func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Authorization") == "" {
				w.Header().Set("Www-Authenticate", "Basic")
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			answer(w, req)
		})
		_, err := pull(t, registry.Config{}, reg.host(), auth).Manifest(t.Context(), "v1")
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		for _, s := range []string{pass, sig, strings.TrimPrefix(basicHeader("joe", pass), "Basic "), "\n", "\x1b"} {
			if strings.Contains(err.Error(), s) {
				t.Errorf("%s: the error contains %q: %v", name, s, err)
			}
		}
	}
}

// secure is a registry behind TLS, and the file of its authority.
func secure(t *testing.T, h http.HandlerFunc) (r *recorder, ca string) {
	t.Helper()
	r = &recorder{}
	r.Server = httptest.NewUnstartedServer(r.ServeHTTP(h))
	r.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that must not succeed
	r.StartTLS()
	t.Cleanup(r.Close)
	ca = filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return r, ca
}

func TestTLS(t *testing.T) {
	t.Parallel()
	reg, ca := secure(t, newHandler().ServeHTTP)
	p := push(t, "v1", reg)
	dir := certsDir(t, reg.host(), fmt.Sprintf("server = %q\nca = %q\n", reg.URL, ca))
	wantImage(t, pull(t, registry.Config{CertsDirs: dir}, reg.host(), nil), p)
	dir = certsDir(t, reg.host(), fmt.Sprintf("server = %q\nskip_verify = true\n", reg.URL))
	wantImage(t, pull(t, registry.Config{CertsDirs: dir}, reg.host(), nil), p)

	dir = certsDir(t, reg.host(), fmt.Sprintf("server = %q\n", reg.URL))
	_, err := pull(t, registry.Config{CertsDirs: dir}, reg.host(), nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.Unavailable, "certificate")

	// Docker's layout: the authority's file alone, and the port with underscores.
	root := t.TempDir()
	hostDir := filepath.Join(root, strings.Replace(reg.host(), ":", "_", 1)+"_")
	pemText, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(hostDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hostDir, "ca.crt"), pemText, 0o600); err != nil {
		t.Fatal(err)
	}
	wantImage(t, pull(t, registry.Config{CertsDirs: []string{root}}, reg.host(), nil), p)
}

func TestCREDNoWayFromHTTPSToHTTP(t *testing.T) {
	t.Parallel()
	plain := newServer(t, func(http.ResponseWriter, *http.Request) {})
	reg, ca := secure(t, func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, plain.URL, http.StatusFound)
	})
	dir := certsDir(t, reg.host(), fmt.Sprintf("server = %q\nca = %q\n", reg.URL, ca))
	_, err := pull(t, registry.Config{CertsDirs: dir}, reg.host(), nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.Unavailable, "https to http")

	// skip_verify is for the registry alone: not for where it sends us.
	other, _ := secure(t, func(http.ResponseWriter, *http.Request) {})
	reg, _ = secure(t, func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, other.URL, http.StatusFound)
	})
	dir = certsDir(t, reg.host(), fmt.Sprintf("server = %q\nskip_verify = true\n", reg.URL))
	_, err = pull(t, registry.Config{CertsDirs: dir}, reg.host(), nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.Unavailable, "certificate")
	if n := len(plain.asked()) + len(other.asked()); n != 0 {
		t.Errorf("%d requests went where none may", n)
	}
}

func TestCREDTokenRequestIsNotRedirected(t *testing.T) {
	t.Parallel()
	refresh := secret(t)
	evil := newServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"x"}`) })
	realm := newServer(t, func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, evil.URL+"?"+url.Values{"x": {"y"}}.Encode(), http.StatusTemporaryRedirect)
	})
	reg := newRegistry(t)
	demand(reg, fmt.Sprintf("Bearer realm=%q", realm.URL), "never")
	for _, auth := range []*registry.Auth{{IdentityToken: refresh}, {Username: "joe", Password: refresh}} {
		_, err := pull(t, registry.Config{}, reg.host(), auth).Manifest(t.Context(), "v1")
		wantKind(t, err, errkind.Unavailable, "redirect")
	}
	if n := len(evil.asked()); n != 0 {
		t.Errorf("the other host was asked %d times", n)
	}
}
