package registry

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// What hosts.toml says can be written down as one that says the same; its
// endpoints can be requested, and none of them is anything but a host.
func FuzzHosts(f *testing.F) {
	for _, text := range []string{
		"", "server = 'a'\n[host.b]\nclient = [['x','y']]\nheader = {a = ['b']}\n",
		"server = \"https://docker.io\"\n[host.\"https://registry-1.docker.io\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
		"[host.\"http://192.168.31.250:5000\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n  skip_verify = true\n",
		"[host.\"https://non-compliant-mirror.registry/v2/upstream\"]\n  capabilities = [\"pull\"]\n  override_path = true\n",
		"client = [\"/etc/certs/client-1.pem\", \"/etc/certs/client-2.pem\"]\ndial_timeout = \"1s\"\nca = ['a', '/b']\n",
		"[host.\"https://mirror.registry\"]\n  [host.\"https://mirror.registry\".header]\n    x-custom-2 = [\"value1\", \"value2\"]\n",
		"host = {\"http://b\" = {}, \"http://[::1]:5\" = {}}\n", "[host.'a/../..']\n[host.'a/%2e%2e/x']\n", "server = 'https://u:p@a'\n",
	} {
		f.Add(text, "quay.io")
	}
	f.Add("skip_verify = true", "localhost:5000")
	f.Fuzz(func(t *testing.T, text, name string) {
		ref, err := refs.Parse(name+"/x", "")
		if err != nil {
			return // a name that no reference has
		}
		name = ref.Host
		hosts, err := parseHosts("/x/hosts.toml", []byte(text), name, false)
		if err != nil {
			if !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "/x/hosts.toml") {
				t.Fatalf("the error names no file: %v", err)
			}
			return
		}
		var again strings.Builder
		fmt.Fprint(&again, writeHost(hosts[len(hosts)-1], "server = %s\n"))
		for i, h := range hosts {
			if h.base.Scheme != "http" && h.base.Scheme != "https" || h.base.User != nil || h.base.RawQuery != "" {
				t.Fatalf("endpoint %s", h.base)
			}
			for _, file := range h.ca {
				if !filepath.IsAbs(file) && file != "" {
					t.Fatalf("ca %q is relative", file)
				}
			}
			if i < len(hosts)-1 {
				again.WriteString(writeHost(h, "[host.%s]\n"))
			}
		}
		back, err := parseHosts("/x/hosts.toml", []byte(again.String()), name, false)
		if err != nil || len(back) != len(hosts) {
			t.Fatalf("%q became %q, which gives %v", text, again.String(), err)
		}
		for i := range hosts {
			if !back[i].sameAs(hosts[i]) || back[i].can != hosts[i].can {
				t.Fatalf("endpoint %d of %q was %+v and is %+v", i, text, hosts[i], back[i])
			}
		}
	})
}

// writeHost writes h as hosts.toml has it, its URL as place says.
func writeHost(h host, place string) string {
	var b strings.Builder
	fmt.Fprintf(&b, place, tomlString(h.base.String()))
	fmt.Fprintf(&b, "override_path = true\nskip_verify = %v\ncapabilities = [", h.skipVerify)
	for _, c := range h.can.names() {
		fmt.Fprintf(&b, "%q,", c)
	}
	b.WriteString("]\nca = [")
	for _, file := range h.ca {
		b.WriteString(tomlString(file) + ",")
	}
	b.WriteString("]\nclient = [")
	for _, pair := range h.client {
		b.WriteString("[" + tomlString(pair[0]) + "," + tomlString(pair[1]) + "],")
	}
	b.WriteString("]\n")
	if h.dialTimeout != 0 {
		fmt.Fprintf(&b, "dial_timeout = %q\n", h.dialTimeout)
	}
	b.WriteString("header = {")
	sep := ""
	for key, values := range h.header {
		b.WriteString(sep + tomlString(key) + "=[")
		for _, v := range values {
			b.WriteString(tomlString(v) + ",")
		}
		b.WriteString("]")
		sep = ","
	}
	b.WriteString("}\n")
	return b.String()
}

// tomlString quotes s with no other escapes than those of TOML.
func tomlString(s string) string {
	var b strings.Builder
	for _, r := range s {
		fmt.Fprintf(&b, `\U%08X`, r)
	}
	return `"` + b.String() + `"`
}

// Challenges that are written down again are read as the same.
func FuzzChallenges(f *testing.F) {
	for _, header := range []string{
		`Basic realm="x", Bearer realm="https://a\"b", service=c`, `Bearer realm="unterminated`, `Negotiate, NTLM`,
		`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull"`,
		`Basic`, `Bearer realm = "a" , , error="insufficient_scope"`, `a=b`, `"`, `Bearer a="\`,
		strings.Repeat("a,", 10_000*maxChallenges), "a " + strings.Repeat("b=,", 100),
	} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		all := parseChallenges([]string{header})
		if len(all) > maxChallenges {
			t.Fatalf("%d challenges", len(all))
		}
		var again []string
		for _, c := range all {
			if c.scheme == "" || c.scheme != strings.ToLower(c.scheme) || len(c.params) > maxChallenges {
				t.Fatalf("%q gives %+v", header, c)
			}
			text := c.scheme
			for name, value := range c.params {
				text += " " + name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `",`
			}
			again = append(again, text)
		}
		back := parseChallenges(again)
		if len(back) != len(all) {
			t.Fatalf("%q became %q, which gives %+v", header, again, back)
		}
		for i := range all {
			if fmt.Sprint(back[i]) != fmt.Sprint(all[i]) {
				t.Fatalf("%q became %q: %+v is %+v", header, again, all[i], back[i])
			}
		}
	})
}

// What a challenge asks for never becomes more than leave to do what is being
// done, asked of a place that may know the credentials.
func FuzzTokenRequest(f *testing.F) {
	f.Add("https://auth.docker.io/token", "registry.docker.io", "repository:library/busybox:pull,push")
	f.Add("https://reg.example/token?x=y", "", "registry:catalog:* repository:a:b:pull repository::pull")
	f.Add("http://reg.example/", "s", "repository:a:*")
	f.Add("https://127.0.0.1/", "s", "\x00")
	f.Add("https://[fe80::1%25eth0]/", "s", "")
	f.Fuzz(func(t *testing.T, realm, service, scope string) {
		base := &url.URL{Scheme: "https", Host: "reg.example", Path: "/v2"}
		a := newAuthorizer(base, "a/b", &credentials{username: "joe", password: "hunter2"}, newTokens(), nil)
		u, err := a.checkRealm(realm)
		if err != nil {
			return
		}
		req, err := a.tokenRequest(t.Context(), u, service, a.scopes(scope))
		if err != nil {
			return
		}
		if req.URL.Scheme != "https" || req.URL.Host == "" || req.URL.User != nil || strings.Contains(req.URL.String(), "hunter2") != strings.Contains(realm+service+scope, "hunter2") {
			t.Fatalf("%q leads to %s", realm, req.URL)
		}
		scopes := req.URL.Query()["scope"]
		if len(scopes) == 0 || u.Query().Has("scope") {
			return // of the realm's own making
		}
		for _, s := range scopes {
			if !strings.HasPrefix(s, "repository:") || !strings.HasSuffix(s, ":pull") {
				t.Fatalf("%q asks for %q", scope, s)
			}
		}
	})
}

// A token is read only as one that can be sent, and a lifetime as one that is
// bounded.
func FuzzToken(f *testing.F) {
	for _, body := range []string{`{"token":"x","expires_in":300}`, `{"access_token":"x","expires_in":"300"}`, `{}`, `[`, `{"token":"a b"}`, `{"token":"a\n","access_token":"b"}`, `{"token":"x","expires_in":1e400}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		text, lifetime, ok := parseToken(body)
		if !ok {
			if text != "" || lifetime != 0 {
				t.Fatal("what is no token has one")
			}
			return
		}
		if lifetime < 0 || lifetime > maxLifetime {
			t.Fatalf("%q lasts %v", body, lifetime)
		}
		var wire bytes.Buffer
		req := httptest.NewRequest(http.MethodGet, "http://a/", nil)
		req.Header.Set("Authorization", "Bearer "+text)
		if err := req.Write(&wire); err != nil || strings.Count(wire.String(), "\r\n") != 5 || !strings.Contains(wire.String(), "Bearer "+text+"\r\n") {
			t.Fatalf("%q makes the request %q, %v", body, wire.String(), err)
		}
	})
}

// A manifest is what it is whoever says so: header and body agree, or it is
// refused; and what was read is of that kind by its own words too.
func FuzzManifest(f *testing.F) {
	const index, image = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
	for _, body := range []string{
		`{"config":{},"layers":[],"manifests":[]}`, `{"manifests":[]}`, `{"config":{},"layers":[]}`, `{"mediaType":"` + index + `","config":{}}`,
		`{"mediaType":"` + image + `","config":{},"layers":[]}`, `{"schemaVersion":1,"fsLayers":[]}`, `{"Manifests":[],"manifests":null}`,
	} {
		f.Add(index, []byte(body))
		f.Add(image+"; charset=utf-8", []byte(body))
	}
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		got, err := classify(header, body)
		if err != nil {
			if len(err.Error()) > 2*len(body)+len(header)*6+200 {
				t.Fatalf("%d bytes of an error for %d", len(err.Error()), len(body))
			}
			return
		}
		known, index := isIndexType(got)
		if !known {
			t.Fatalf("%q is taken for %q", body, got)
		}
		if again, err := classify(got, body); err != nil || again != got {
			t.Fatalf("%q was %q and is %q, %v", body, got, again, err)
		}
		other := image
		if !index {
			other = "application/vnd.oci.image.index.v1+json"
		}
		if _, err := classify(other, body); err == nil {
			t.Fatalf("%q is taken for an image and for an index", body)
		}
	})
}

// What hosts say goes into errors as one short line of text without the
// secrets that were sent to them.
func FuzzHarmless(f *testing.F) {
	f.Add("plain", "hunter2")
	f.Add("https://joe:hunter2@x/?sig=hunter2", "hunter2")
	f.Add("a\nb\x1b[2J", "=&+ %")
	f.Add(strings.Repeat("x", 290)+"hunter2", "hunter2")
	f.Fuzz(func(t *testing.T, text, secret string) {
		e := &endpoint{auth: newAuthorizer(&url.URL{}, "", nil, newTokens(), nil), secrets: []string{secret}}
		for _, said := range []string{text, text + secret, secret + text + url.QueryEscape(secret)} {
			got := e.harmless(said)
			if len(got) > maxSaid+3 || strings.ContainsAny(got, "\r\n\x1b\x00") {
				t.Fatalf("%q became %q", said, got)
			}
			if len(secret) >= 12 && strings.Contains(got, secret) && !strings.Contains(redacted, secret) {
				t.Fatalf("%q of %q tells the secret %q", got, said, secret)
			}
		}
	})
}

// A blob is put together from the place that a host says it starts at.
func FuzzContentRange(f *testing.F) {
	f.Add("bytes 5-9/10", 206, int64(5))
	f.Add("bytes 5-9/*", 206, int64(5))
	f.Add("bytes 50-9/10", 206, int64(5))
	f.Add("", 200, int64(5))
	f.Fuzz(func(t *testing.T, header string, code int, length int64) {
		const offset, size = 5, 10
		content := []byte("0123456789")
		body := content
		if code == http.StatusPartialContent {
			body = content[offset:]
		}
		resp := &http.Response{StatusCode: code, Header: http.Header{"Content-Range": {header}}, ContentLength: length, Body: nopCloser{bytes.NewReader(body)}}
		if position(resp, span{offset, size, size}, true) != nil {
			return
		}
		if code != http.StatusOK && !strings.HasPrefix(header, "bytes "+strconv.Itoa(offset)+"-") {
			t.Fatalf("%d with %q was taken for the rest", code, header)
		}
		var rest bytes.Buffer
		if _, err := rest.ReadFrom(resp.Body); err != nil || rest.String() != "56789" {
			t.Fatalf("%d with %q leaves %q", code, header, rest.String())
		}
	})
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

// Only sha256 digests are asked for, since they become paths and URLs.
func FuzzDigest(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("ab", 32))
	f.Add("sha256:../../x")
	f.Add("sha512:" + strings.Repeat("ab", 64))
	f.Fuzz(func(t *testing.T, s string) {
		if checkDigest(digest.Digest(s)) != nil {
			return
		}
		if len(s) != len("sha256:")+64 || strings.Trim(strings.TrimPrefix(s, "sha256:"), "0123456789abcdef") != "" {
			t.Fatalf("%q is taken for a digest", s)
		}
	})
}
