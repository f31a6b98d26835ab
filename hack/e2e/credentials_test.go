//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// gate is a registry in front of the lab's that wants a token, and repeats all
// that it was sent when it does not get it.
func gate(t *testing.T, registry, user, password, identity, token string) (host string) {
	t.Helper()
	behind := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if u, p, _ := r.BasicAuth(); u == user && p == password || r.FormValue("refresh_token") == identity {
				_, _ = fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, token)
				return
			}
		} else if r.Header.Get("Authorization") == "Bearer "+token {
			r.Host = registry
			behind.ServeHTTP(w, r)
			return
		} else if r.Header.Get("Authorization") == "" {
			w.Header().Set("Www-Authenticate", fmt.Sprintf("Bearer realm=\"http://%s/token\"", r.Host))
		}
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprintf(w, `{"errors":[{"message":%q}]}`, fmt.Sprint(r.Header, r.Form, string(body)))
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// TestCREDNode pulls with every kind of credentials, right and wrong,
// through a daemon that logs all it can: no secret is in its log, in what any
// client prints, or in any file under root and state.
func TestCREDNode(t *testing.T) {
	proxyPassword := "sentinel" + rand.Text()
	n := newNode(t, lab.Options{
		LogLevel: 9,
		Config:   fmt.Sprintf("image.proxies = { 'proxied.invalid' = 'http://joe:%s@127.0.0.1:1' }", proxyPassword),
	})
	password, identity, token, regToken := "sentinel"+rand.Text(), "sentinel"+rand.Text(), "sentinel"+rand.Text(), "sentinel"+rand.Text()
	host := gate(t, n.Registry, "joe", password, identity, token)
	ref := host + strings.TrimPrefix(n.shell, n.Registry)
	images := criv1.NewImageServiceClient(n.Conn())
	var told []string
	for _, c := range []struct {
		name  string
		auth  *criv1.AuthConfig
		works bool
	}{
		{"password", &criv1.AuthConfig{Username: "joe", Password: password}, true},
		{"auth", &criv1.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte("joe:" + password))}, true},
		{"identity token", &criv1.AuthConfig{IdentityToken: identity}, true},
		{"registry token", &criv1.AuthConfig{RegistryToken: token}, true},
		{"for its server", &criv1.AuthConfig{Username: "joe", Password: password, ServerAddress: host}, true},
		{"for another server", &criv1.AuthConfig{Username: "joe", Password: password, ServerAddress: "quay.io"}, false},
		{"wrong password", &criv1.AuthConfig{Username: "joe", Password: regToken}, false},
		{"wrong identity token", &criv1.AuthConfig{IdentityToken: regToken}, false},
		{"wrong registry token", &criv1.AuthConfig{RegistryToken: regToken}, false},
		{"no base64", &criv1.AuthConfig{Auth: password}, false},
		{"none", nil, false},
	} {
		_, err := images.PullImage(t.Context(), &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: ref}, Auth: c.auth})
		told = append(told, fmt.Sprint(err))
		if (err == nil) != c.works {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	_, err := images.PullImage(t.Context(), &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: "proxied.invalid/x:1"}, Auth: &criv1.AuthConfig{Username: "joe", Password: password}})
	told = append(told, fmt.Sprint(err))
	for _, args := range [][]string{
		{"pull", "--creds", "joe:" + password, ref}, {"pull", "--creds", "joe:" + regToken, ref}, {"push", "--creds", "joe:" + regToken, ref},
		{"registry", "explain", "--creds", "joe:" + password, ref}, {"registry", "explain", "--output", "json", "proxied.invalid/x"},
		{"inspect", ref}, {"info"}, {"check"},
	} {
		out, err := n.Berth(t.Context(), args...)
		told = append(told, strings.ReplaceAll(out+fmt.Sprint(err), strings.Join(args, " "), "")) // the harness repeats the command
	}
	for _, args := range [][]string{{"pull", "--creds", "joe:" + password, ref}, {"info"}, {"inspecti", ref}} {
		out, err := n.Crictl(t.Context(), args...)
		told = append(told, strings.ReplaceAll(out+fmt.Sprint(err), strings.Join(args, " "), ""))
	}
	places := map[string]string{"what clients were told": strings.Join(told, "\n"), "the daemon's log": n.DaemonLog()}
	for _, dir := range []string{n.Root, n.State} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			places[path] = string(b)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	encoded := base64.StdEncoding.EncodeToString([]byte("joe:" + password))
	for place, text := range places {
		for _, secret := range []string{"sentinel", encoded, base64.StdEncoding.EncodeToString([]byte("joe:" + proxyPassword))} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s: ...%q", place, text[max(0, i-300):min(len(text), i+60)])
			}
		}
	}
	// The log tells of the pulls all the same.
	if !strings.Contains(places["the daemon's log"], ref) {
		t.Error("the log does not tell of the pulls: the test shows nothing")
	}
}
