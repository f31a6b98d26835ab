package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// spy is a host that nobody has named: it must never learn a secret.
func spy(t *testing.T, secrets ...string) *recorder {
	t.Helper()
	s := newServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"x"}`) })
	t.Cleanup(func() {
		for _, req := range s.asked() {
			if leaked(req, secrets...) {
				t.Errorf("a host that nobody named was sent %s %v", req.URL, req.Header)
			}
		}
	})
	return s
}

// A cookie is neither kept nor sent on, not even to who set it.
func TestCREDCookies(t *testing.T) {
	t.Parallel()
	cookie := secret(t)
	evil := spy(t, cookie)
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	header := secret(t)
	reg.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if got := req.Header.Get("Cookie"); got != "own="+header {
			t.Errorf("sent the cookie %q, want that of hosts.toml", got)
		}
		http.SetCookie(w, &http.Cookie{Name: "session", Value: cookie, Path: "/"})
		if strings.Contains(req.URL.Path, "/blobs/") {
			http.Redirect(w, req, evil.URL, http.StatusFound)
			return true
		}
		return false
	})
	dirs := certsDir(t, reg.host(), fmt.Sprintf("server = %q\n[header]\nCookie = \"own=%s\"\n", reg.URL, header))
	r := pull(t, registry.Config{CertsDirs: dirs, Retries: -1}, reg.host(), nil)
	for range 2 {
		if _, err := r.Manifest(t.Context(), "v1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Blob(t.Context(), p.layerID, int64(len(p.layer)), 0); err == nil {
		t.Error("a host that nobody named gave the blob")
	}
	if len(evil.asked()) == 0 {
		t.Error("the redirect was not followed: the test shows nothing")
	}
}

// Of an answer nothing but its body and a redirect leads anywhere: no Link is
// followed, no Refresh, no alternative service.
func TestCREDHeadersLeadNowhere(t *testing.T) {
	t.Parallel()
	pass := secret(t)
	evil := spy(t, pass)
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	reg.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		for key, value := range map[string]string{
			"Link": "<" + evil.URL + "/v2/>; rel=\"next\"", "Refresh": "0; url=" + evil.URL,
			"Alt-Svc": "h2=\"" + evil.host() + "\"", "Content-Location": evil.URL, "OCI-Subject": p.digest.String(),
		} {
			w.Header().Set(key, value)
		}
		return false
	})
	wantImage(t, pull(t, registry.Config{}, reg.host(), &registry.Auth{Username: "joe", Password: pass}), p)
	if n := len(evil.asked()); n > 0 {
		t.Errorf("another host was asked %d times", n)
	}
}

// A mirror that is not trusted with credentials cannot get them by a
// challenge, nor can one that sends us to the server for them.
func TestCREDMirrorInTheClear(t *testing.T) {
	t.Parallel()
	pass, header := secret(t), secret(t)
	server, ca := secure(t, newHandler().ServeHTTP)
	p := push(t, "v1", server)
	evil := spy(t, pass, header)
	evil.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		w.Header().Set("Www-Authenticate", "Basic realm=\"give\"")
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	proxies, err := registry.ParseProxies(map[string]string{"mirror.invalid": evil.URL})
	if err != nil {
		t.Fatal(err)
	}
	dirs := certsDir(t, server.host(), fmt.Sprintf("server = %q\nca = %q\n[header]\nX-Key = %q\n[host.\"http://mirror.invalid\"]\n", server.URL, ca, header))
	auth := &registry.Auth{Username: "joe", Password: pass}
	wantImage(t, pull(t, registry.Config{CertsDirs: dirs, Proxies: proxies}, server.host(), auth), p)
	if len(evil.asked()) == 0 {
		t.Error("the mirror was not asked: the test shows nothing")
	}
}

// An identity token, which is good for long, goes to the token server alone,
// in the body of the request and never in an URL; what that gives goes to the
// registry alone.
func TestCREDIdentityToken(t *testing.T) {
	t.Parallel()
	refresh, token := secret(t), secret(t)
	evil := spy(t, refresh, token)
	realm := newServer(t, func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.String(), refresh) {
			t.Errorf("the identity token is in the URL %s", req.URL)
		}
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"refresh_token":"other"}`, token)
	})
	reg := newRegistry(t)
	p := push(t, "v1", reg)
	reg.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(fmt.Sprint(req.URL, req.Header), refresh) {
			t.Error("the registry was sent the identity token")
		}
		switch {
		case req.Header.Get("Authorization") != "Bearer "+token:
			w.Header().Set("Www-Authenticate", fmt.Sprintf("Bearer realm=%q", realm.URL))
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(req.URL.Path, "/blobs/"):
			http.Redirect(w, req, evil.URL+"/blob", http.StatusTemporaryRedirect)
		default:
			return false
		}
		return true
	})
	r := pull(t, registry.Config{Retries: -1}, reg.host(), &registry.Auth{IdentityToken: refresh})
	if _, err := r.Manifest(t.Context(), "v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Blob(t.Context(), p.layerID, int64(len(p.layer)), 0); err == nil || len(evil.asked()) == 0 {
		t.Errorf("got %v; the other host was asked %d times", err, len(evil.asked()))
	}
}

// The certificate of a client is for its registry, not for where that leads.
func TestCREDClientCertificate(t *testing.T) {
	t.Parallel()
	var shown atomic.Int32
	other, otherCA := secureWithClients(t, func(_ http.ResponseWriter, req *http.Request) {
		if len(req.TLS.PeerCertificates) > 0 {
			shown.Add(1)
		}
	})
	reg, ca := secureWithClients(t, func(w http.ResponseWriter, req *http.Request) {
		if len(req.TLS.PeerCertificates) == 0 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		http.Redirect(w, req, other.URL+"/blob", http.StatusFound)
	})
	pair := clientPair(t)
	dirs := certsDir(t, reg.host(), fmt.Sprintf("server = %q\nca = [%q, %q]\nclient = [[%q, %q]]\n", reg.URL, ca, otherCA, pair[0], pair[1]))
	body, err := pull(t, registry.Config{CertsDirs: dirs, Retries: -1}, reg.host(), nil).Blob(t.Context(), digest.FromString("x"), -1, 0)
	if err != nil {
		t.Fatalf("the registry did not take the certificate: %v", err)
	}
	_ = body.Close()
	if len(other.asked()) == 0 || shown.Load() > 0 {
		t.Errorf("where the registry led was asked %d times, and shown the certificate %d times", len(other.asked()), shown.Load())
	}
}

// A directory of docker's old layout with a certificate and its key.
func TestDockerClientCertificate(t *testing.T) {
	t.Parallel()
	reg, ca := secureWithClients(t, func(w http.ResponseWriter, req *http.Request) {
		if len(req.TLS.PeerCertificates) == 0 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		newHandler().ServeHTTP(w, req)
	})
	pair := clientPair(t)
	root := t.TempDir()
	dir := filepath.Join(root, strings.Replace(reg.host(), ":", "_", 1)+"_")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{"ca.crt": ca, "client.cert": pair[0], "client.key": pair[1]} {
		if err := os.Link(from, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := pull(t, registry.Config{CertsDirs: []string{root}}, reg.host(), nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.NotFound, "404")
}

// Every failure of a pull with credentials, whatever the host does with them.
func TestCREDNoFailureTells(t *testing.T) {
	t.Parallel()
	pass, refresh, regToken, token := secret(t), secret(t)+"=&", secret(t), secret(t)
	var answer atomic.Value
	reg := newServer(t, func(w http.ResponseWriter, req *http.Request) { answer.Load().(http.HandlerFunc)(w, req) })
	echo := func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		form, _ := url.QueryUnescape(string(body))
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, req.Header.Get("Authorization"), string(body)+" "+form+" "+req.URL.RawQuery)
	}
	for name, h := range map[string]http.HandlerFunc{
		"the registry echoes": func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Authorization") != "" {
				echo(w, req)
				return
			}
			w.Header().Set("Www-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
		},
		"the token server echoes": func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/token" {
				echo(w, req)
				return
			}
			w.Header().Set("Www-Authenticate", fmt.Sprintf("Bearer realm=%q", reg.URL+"/token"))
			w.WriteHeader(http.StatusUnauthorized)
		},
		"a token that is refused": func(w http.ResponseWriter, req *http.Request) {
			switch {
			case req.URL.Path == "/token":
				_, _ = fmt.Fprintf(w, `{"token":%q}`, token)
			case req.Header.Get("Authorization") == "Bearer "+token:
				echo(w, req)
			default:
				w.Header().Set("Www-Authenticate", fmt.Sprintf("Bearer realm=%q", reg.URL+"/token"))
				w.WriteHeader(http.StatusUnauthorized)
			}
		},
		"a token with a line feed": func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/token" {
				_, _ = fmt.Fprintf(w, `{"token":%q}`, token+"\nX-Evil: 1")
				return
			}
			w.Header().Set("Www-Authenticate", fmt.Sprintf("Bearer realm=%q", reg.URL+"/token"))
			w.WriteHeader(http.StatusUnauthorized)
		},
		"a realm with a user": func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Www-Authenticate", fmt.Sprintf("Bearer realm=%q", "http://u:"+token+"@"+req.Host+"/token"))
			w.WriteHeader(http.StatusUnauthorized)
		},
	} {
		answer.Store(h)
		for _, auth := range []*registry.Auth{{Username: "joe", Password: pass}, {IdentityToken: refresh}, {RegistryToken: regToken}} {
			_, err := pull(t, registry.Config{Retries: -1}, reg.host(), auth).Manifest(t.Context(), "v1")
			if err == nil {
				t.Errorf("%s: no error", name)
				continue
			}
			for _, s := range []string{pass, refresh, url.QueryEscape(refresh), regToken, token, strings.TrimPrefix(basicHeader("joe", pass), "Basic "), "\n"} {
				if strings.Contains(err.Error(), s) {
					t.Errorf("%s: the error contains %q: %v", name, s, err)
				}
			}
		}
	}
}

// A registry elsewhere cannot make us speak to services of this machine.
func TestCREDRegistryCannotLeadHome(t *testing.T) {
	t.Parallel()
	service := spy(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, service.URL, http.StatusFound)
	}))
	t.Cleanup(elsewhere.Close)
	_, err := repositoryAt(t, elsewhere.URL).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.PermissionDenied, "a service of this machine", service.host())
	if n := len(service.asked()); n > 0 {
		t.Errorf("a service of this machine was asked %d times", n)
	}
}

// repositoryAt is a repository at registry.invalid, which is found at target.
func repositoryAt(t *testing.T, target string) *registry.Repository {
	t.Helper()
	ref, err := refs.Parse("registry.invalid/"+repo+":v1", "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.New(registry.Config{CertsDirs: certsDir(t, "registry.invalid", "server = \"http://registry.invalid\"\n"), Retries: -1}).
		Repository(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	registry.DialHomeAt(r, strings.TrimPrefix(target, "http://"))
	return r
}

// secureWithClients is a registry behind TLS that asks clients for their
// certificate, and the file of its authority.
func secureWithClients(t *testing.T, h http.HandlerFunc) (r *recorder, ca string) {
	t.Helper()
	r = &recorder{}
	r.Server = httptest.NewUnstartedServer(r.ServeHTTP(h))
	r.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	r.StartTLS()
	t.Cleanup(r.Close)
	return r, pemFile(t, "CERTIFICATE", r.Certificate().Raw)
}

func pemFile(t *testing.T, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// clientPair makes a certificate for a client, and its key.
func clientPair(t *testing.T) [2]string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return [2]string{pemFile(t, "CERTIFICATE", der), pemFile(t, "EC PRIVATE KEY", keyDER)}
}
