package registry_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// forwardProxy is a proxy in front of to, whatever name it is asked for.
func forwardProxy(t *testing.T, to http.Handler, user, password string) *recorder {
	t.Helper()
	return newServer(t, func(w http.ResponseWriter, req *http.Request) {
		if want := basicHeader(user, password); user != "" && req.Header.Get("Proxy-Authorization") != want {
			http.Error(w, "who are you?", http.StatusProxyAuthRequired)
			return
		}
		to.ServeHTTP(w, req)
	})
}

// The environment's proxies serve registries elsewhere, and not those that it
// excepts.
func TestProxyOfTheEnvironment(t *testing.T) {
	backend := &recorder{}
	handler := newHandler()
	backend.Server = newServer(t, handler.ServeHTTP).Server
	p := push(t, "v1", backend)
	proxy := forwardProxy(t, handler, "", "")
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "excepted.invalid")
	dirs := certsDir(t, "registry.invalid", "server = \"http://registry.invalid\"\n")
	wantImage(t, pull(t, registry.Config{CertsDirs: dirs}, "registry.invalid", nil), p)
	asked := len(proxy.asked())
	if asked == 0 {
		t.Error("the proxy was not asked")
	}
	dirs = certsDir(t, "excepted.invalid", "server = \"http://excepted.invalid\"\n")
	_, err := pull(t, registry.Config{CertsDirs: dirs}, "excepted.invalid", nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.Unavailable, "excepted.invalid")
	if n := len(proxy.asked()); n != asked {
		t.Errorf("the proxy was asked %d times for a host that is excepted", n-asked)
	}
}

// A proxy of the configuration serves all that is done for its host: the token
// server and the storage too, of which nobody knows the names.
func TestProxyOfAHost(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://"+closedPort(t))
	t.Setenv("NO_PROXY", "")
	pass := secret(t)
	var p pushed
	handler := newHandler()
	behind := newServer(t, handler.ServeHTTP)
	p = push(t, "v1", behind)
	proxy := forwardProxy(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.Host == "storage.invalid":
			_, _ = w.Write(p.layer)
		case req.URL.Path == "/token":
			_, _ = io.WriteString(w, `{"token":"x"}`)
		case req.Header.Get("Authorization") != "Bearer x":
			w.Header().Set("Www-Authenticate", `Bearer realm="http://registry.invalid/token"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(req.URL.Path, "/blobs/"):
			http.Redirect(w, req, "http://storage.invalid/x", http.StatusFound)
		default:
			handler.ServeHTTP(w, req)
		}
	}), "proxyuser", pass)
	proxies, err := registry.ParseProxies(map[string]string{"Registry.invalid": strings.Replace(proxy.URL, "://", "://proxyuser:"+pass+"@", 1)})
	if err != nil {
		t.Fatal(err)
	}
	dirs := certsDir(t, "registry.invalid", "server = \"http://registry.invalid\"\n")
	r := pull(t, registry.Config{CertsDirs: dirs, Proxies: proxies}, "registry.invalid", nil)
	if m, err := r.Manifest(t.Context(), "v1"); err != nil || m.Digest != p.digest {
		t.Fatalf("%s, %v", m.Digest, err)
	}
	wantBlob(t, r, p, int64(len(p.layer)), 0)
	hosts := map[string]bool{}
	for _, req := range proxy.asked() {
		hosts[req.Host+" "+req.URL.Path] = true
		if req.Host == "storage.invalid" && req.Header.Get("Authorization") != "" {
			t.Error("the storage host was given a token")
		}
	}
	for _, want := range []string{"registry.invalid /token", "storage.invalid /x"} {
		if !hosts[want] {
			t.Errorf("%s did not go through the proxy: %v", want, hosts)
		}
	}
}

// An empty value is no proxy, also where the environment names one.
func TestNoProxyOfAHost(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://"+closedPort(t))
	t.Setenv("NO_PROXY", "")
	proxies, err := registry.ParseProxies(map[string]string{"registry.invalid": ""})
	if err != nil {
		t.Fatal(err)
	}
	dirs := certsDir(t, "registry.invalid", "server = \"http://registry.invalid\"\n")
	_, err = pull(t, registry.Config{CertsDirs: dirs, Proxies: proxies}, "registry.invalid", nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.Unavailable, "lookup registry.invalid")
	_, err = pull(t, registry.Config{CertsDirs: dirs}, "registry.invalid", nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.Unavailable, "proxyconnect")
}

func TestParseProxiesRefuses(t *testing.T) {
	t.Parallel()
	pass := secret(t)
	for host, value := range map[string]string{
		"https://quay.io": "http://proxy:3128",
		"":                "http://proxy:3128",
		"a":               "proxy:" + pass,
		"b":               "ftp://u:" + pass + "@proxy",
		"c":               "http://u:" + pass + "@pro xy",
		"d":               "http://u:" + pass + "@proxy/path",
		"e":               "http://u:" + pass + "@proxy?x=y",
	} {
		_, err := registry.ParseProxies(map[string]string{host: value})
		wantKind(t, err, errkind.InvalidArgument, fmt.Sprintf("%q", host))
		if strings.Contains(err.Error(), pass) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

// No failure at a proxy tells its password, and no explanation.
func TestCREDProxyCredentialsStayHidden(t *testing.T) {
	t.Setenv("NO_PROXY", "")
	t.Setenv("HTTPS_PROXY", "")
	pass := secret(t) + "&+"
	echo := newServer(t, func(w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprintf(w, `{"errors":[{"message":"%s proxyuser:%s %s"}]}`, req.Header.Get("Proxy-Authorization"), pass, url.QueryEscape(pass))
	})
	for name, address := range map[string]string{"down": closedPort(t), "echo": echo.host()} {
		with := (&url.URL{Scheme: "http", Host: address, User: url.UserPassword("proxyuser", pass)}).String()
		for _, how := range []string{"environment", "configuration"} {
			var cfg registry.Config
			if how == "environment" {
				t.Setenv("HTTP_PROXY", with)
			} else {
				t.Setenv("HTTP_PROXY", "")
				var err error
				if cfg.Proxies, err = registry.ParseProxies(map[string]string{"registry.invalid": with}); err != nil {
					t.Fatal(err)
				}
			}
			cfg.CertsDirs, cfg.Retries = certsDir(t, "registry.invalid", "server = \"http://registry.invalid\"\n"), -1
			_, err := pull(t, cfg, "registry.invalid", nil).Manifest(t.Context(), "v1")
			ref, parseErr := refs.Parse("registry.invalid/x", "")
			if err == nil || parseErr != nil {
				t.Fatal(err, parseErr)
			}
			endpoints, explainErr := registry.New(cfg).Explain(t.Context(), ref, nil)
			if explainErr != nil || endpoints[0].Proxy != "http://"+address {
				t.Errorf("%s by %s: explained as %+v, %v", name, how, endpoints, explainErr)
			}
			all := fmt.Sprintf("%v %+v", err, endpoints)
			for _, s := range []string{pass, url.QueryEscape(pass), strings.TrimPrefix(basicHeader("proxyuser", pass), "Basic ")} {
				if strings.Contains(all, s) {
					t.Errorf("%s by %s: %q is in %s", name, how, s, all)
				}
			}
		}
	}
}

// Files often name the server among the hosts too. Its answer is told once.
func TestServerAmongTheHostsAnswersOnce(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	dirs := certsDir(t, "registry.invalid", fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", reg.URL, reg.URL+"/v2/"))
	_, err := pull(t, registry.Config{CertsDirs: dirs}, "registry.invalid", nil).Manifest(t.Context(), "v1")
	wantKind(t, err, errkind.NotFound)
	if n := strings.Count(err.Error(), "404"); n != 1 || len(reg.asked()) != 1 {
		t.Errorf("asked %d times and told %d times: %v", len(reg.asked()), n, err)
	}
}

// Docker's certificates serve beside a hosts.toml that names none.
func TestDockerCertificatesBesideHostsToml(t *testing.T) {
	t.Parallel()
	reg, ca := secure(t, newHandler().ServeHTTP)
	p := push(t, "v1", reg)
	dirs := certsDir(t, reg.host(), "[host.\"http://"+closedPort(t)+"\"]\n")
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dirs[0], reg.host(), "ca.crt"), pem, 0o600); err != nil {
		t.Fatal(err)
	}
	wantImage(t, pull(t, registry.Config{CertsDirs: dirs}, reg.host(), nil), p)
}

// As in containerd, an URL with http and settings for TLS means either.
func TestTLSIsPreferredWhereItIsSetUp(t *testing.T) {
	t.Parallel()
	encrypted, _ := secure(t, newHandler().ServeHTTP)
	p := push(t, "v1", encrypted)
	dirs := certsDir(t, encrypted.host(), fmt.Sprintf("server = \"http://%s\"\nskip_verify = true\n", encrypted.host()))
	wantImage(t, pull(t, registry.Config{CertsDirs: dirs}, encrypted.host(), nil), p)

	plain := newRegistry(t)
	p = push(t, "v1", plain)
	dirs = certsDir(t, plain.host(), fmt.Sprintf("server = %q\nskip_verify = true\n", plain.URL))
	wantImage(t, pull(t, registry.Config{CertsDirs: dirs}, plain.host(), nil), p)
	ref, err := refs.Parse(plain.host()+"/"+repo+":v2", "")
	if err != nil {
		t.Fatal(err)
	}
	to, err := registry.New(registry.Config{CertsDirs: dirs}).Pusher(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The first request of this client is one with a body.
	m, err := pull(t, registry.Config{CertsDirs: dirs}, plain.host(), nil).Manifest(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Manifest(t.Context(), "v2", m.MediaType, m.Bytes); err != nil {
		t.Errorf("a body was not sent again: %v", err)
	}
}
