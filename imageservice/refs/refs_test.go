package refs_test

import (
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

var (
	hex64 = strings.Repeat("a1", 32)
	dgst  = digest.Digest("sha256:" + hex64)
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, defaultHost, full, short string }{
		{"busybox", "", "docker.io/library/busybox:latest", "busybox:latest"},
		{"busybox:1.37", "", "docker.io/library/busybox:1.37", "busybox:1.37"},
		{"docker.io/busybox", "", "docker.io/library/busybox:latest", "busybox:latest"},
		{"index.docker.io/library/busybox", "", "docker.io/library/busybox:latest", "busybox:latest"},
		{"registry.hub.docker.com/bitnami/nginx:1", "", "docker.io/bitnami/nginx:1", "bitnami/nginx:1"},
		{"bitnami/nginx", "docker.io", "docker.io/bitnami/nginx:latest", "bitnami/nginx:latest"},
		{"web", "quay.io", "quay.io/web:latest", "quay.io/web:latest"},
		{"docker.io/web", "quay.io", "docker.io/library/web:latest", "web:latest"},
		{"localhost/web", "", "localhost/web:latest", "localhost/web:latest"},
		{"localhost:5000/a/b:v1", "", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1"},
		{"[::1]:5000/web", "", "[::1]:5000/web:latest", "[::1]:5000/web:latest"},
		{"[::1]/web", "", "[::1]/web:latest", "[::1]/web:latest"},
		{"[2001:DB8::1]:5000/a/b:v1", "", "[2001:db8::1]:5000/a/b:v1", "[2001:db8::1]:5000/a/b:v1"},
		{"[2001:db8::1]:5000/a@" + dgst.String(), "", "[2001:db8::1]:5000/a@" + dgst.String(), "[2001:db8::1]:5000/a@" + dgst.String()},
		{"10.0.0.1:5000/a", "", "10.0.0.1:5000/a:latest", "10.0.0.1:5000/a:latest"},
		{"host:65535/a", "", "host:65535/a:latest", "host:65535/a:latest"},
		{"registry.hub.docker.com/nginx", "quay.io", "docker.io/library/nginx:latest", "nginx:latest"},
		{"index.docker.io/nginx:1@" + dgst.String(), "", "docker.io/library/nginx@" + dgst.String(), "nginx@" + dgst.String()},
		{"localhost", "", "docker.io/library/localhost:latest", "localhost:latest"},
		{"localhost:5000", "", "docker.io/library/localhost:5000", "localhost:5000"},
		{"team/app:V1.0_a-b", "", "docker.io/team/app:V1.0_a-b", "team/app:V1.0_a-b"},
		{"a/b/c/d/e", "", "docker.io/a/b/c/d/e:latest", "a/b/c/d/e:latest"},
		{"q.io/" + strings.Repeat("x", 255), "", "q.io/" + strings.Repeat("x", 255) + ":latest", "q.io/" + strings.Repeat("x", 255) + ":latest"},
		{"x:" + strings.Repeat("t", 128), "", "docker.io/library/x:" + strings.Repeat("t", 128), "x:" + strings.Repeat("t", 128)},
		{"GHCR.io/app/web", "", "ghcr.io/app/web:latest", "ghcr.io/app/web:latest"},
		{"busybox@" + dgst.String(), "", "docker.io/library/busybox@" + dgst.String(), "busybox@" + dgst.String()},
		{"quay.io/a/b:v1@" + dgst.String(), "", "quay.io/a/b@" + dgst.String(), "quay.io/a/b@" + dgst.String()},
		{"a/" + hex64, "", "docker.io/a/" + hex64 + ":latest", "a/" + hex64 + ":latest"},
	} {
		r, err := refs.Parse(tt.in, tt.defaultHost)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.in, err)
			continue
		}
		if r.String() != tt.full || r.Short() != tt.short {
			t.Errorf("Parse(%q) = %q, %q, want %q, %q", tt.in, r.String(), r.Short(), tt.full, tt.short)
		}
		// The full form is a fixed point, whatever the default.
		again, err := refs.Parse(r.String(), "quay.io")
		if err != nil || again.String() != r.String() {
			t.Errorf("Parse(%q) = %q, %v, want the same again", r.String(), again.String(), err)
		}
	}
}

func TestParseKeepsTagBesideDigest(t *testing.T) {
	t.Parallel()
	r, err := refs.Parse("busybox:1.37@"+dgst.String(), "")
	if err != nil || r.Tag != "1.37" || r.Digest != dgst {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", "/", "busybox:", "Busybox", "Host/web", "busy box", "docker.io/", "../etc:5/passwd", "https://quay.io/web",
		hex64, dgst.String(), "sha256:abcdef", "busybox@sha256:abc", "a//b", "a/../b", "web@sha512:" + hex64 + hex64,
		"quay.io/" + strings.Repeat("x", 256), "x:" + strings.Repeat("t", 129), "user@quay.io/web", "::1/web", "[::1]:5000",
		"host:0/web", "host:65536/web", "[::1]:65536/web", "host.:5000/web", "bücher.example/web", " web", "web ", "web\n",
		"web@" + dgst.String() + ":1", "web@" + strings.ToUpper(dgst.String()),
	} {
		if r, err := refs.Parse(in, ""); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("Parse(%q) = %+v, %v, want InvalidArgument", in, r, err)
		}
	}
}

// What is refused says what would not be, and repeats neither secrets nor
// megabytes.
func TestRefusalsHelp(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, has, hasNot string }{
		{"Nginx:V1", `write "nginx:V1"`, ""},
		{"quay.io/Team/App@" + dgst.String(), `write "quay.io/team/app@sha256:`, ""},
		{"MyTeam/app", `write "myteam/app"`, ""},
		{"My Team/app", "not a host", "write"},
		{"https://quay.io/web:1", `write "quay.io/web:1"`, ""},
		{"me:secret@quay.io/web", "credentials", "secret"},
		{"quay.io/" + strings.Repeat("x", 256), "at most 255 characters", ""},
		{"a b", "[HOST[:PORT]/]NAME[:TAG][@DIGEST]", ""},
		{strings.Repeat("x/", 1<<20), "no reference has more than 1024", strings.Repeat("x/", 200)},
	} {
		_, err := refs.Parse(tt.in, "")
		if err == nil || !strings.Contains(err.Error(), tt.has) || tt.hasNot != "" && strings.Contains(err.Error(), tt.hasNot) {
			t.Errorf("Parse(%.40q) says %.400v", tt.in, err)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1": true, "127.1.2.3:80": true, "[::1]:5000": true, "[::1]": true,
		"docker.io": false, "localhost.evil.com": false, "10.0.0.1:5000": false, "127.0.0.1.evil.com": false, "": false,
	} {
		if got := refs.IsLoopback(host); got != want {
			t.Errorf("IsLoopback(%q) = %v", host, got)
		}
	}
}

// A reference that parses is a fixed point of its full and its short form, and
// its parts fit into paths and URLs.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"busybox:1@" + dgst.String(), "LOCALHOST:5000/a", "web", "quay.io/a/b:v1", "[::1]:5000/web", "index.docker.io/library/x",
		"a/../b", "docker.io/library/library", "library/x", "localhost/x:y", hex64, "x@sha256:" + hex64, "A.b/c", "b.\u212a/c", "-x/y", "x.:5/a",
	} {
		f.Add(s, "")
		f.Add(s, "quay.io")
		f.Add(s, "nodots")
	}
	f.Fuzz(func(t *testing.T, s, host string) {
		r, err := refs.Parse(s, host)
		if err != nil {
			if !errkind.Is(err, errkind.InvalidArgument) {
				t.Fatalf("Parse(%q, %q): %v", s, host, err)
			}
			return
		}
		again, err := refs.Parse(r.String(), host)
		if err != nil || again.String() != r.String() || again.Host != r.Host || again.Path != r.Path {
			t.Errorf("Parse(%q, %q) = %q, which parses to %q, %v", s, host, r.String(), again.String(), err)
		}
		short, err := refs.Parse(r.Short(), "")
		if err != nil || short.String() != r.String() {
			t.Errorf("Parse(%q, %q) = %q, whose short form %q parses to %q, %v", s, host, r.String(), r.Short(), short.String(), err)
		}
		u, err := url.Parse("https://" + r.Host + "/v2/" + r.Path + "/manifests/x")
		if err != nil || u.Host != r.Host || u.User != nil || path.Clean(u.Path) != u.Path || u.Path != "/v2/"+r.Path+"/manifests/x" {
			t.Errorf("Parse(%q, %q) = %+v makes the URL %v, %v", s, host, r, u, err)
		}
		if !filepath.IsLocal(r.Host) || strings.ContainsRune(r.Host, filepath.Separator) {
			t.Errorf("Parse(%q, %q) has the host %q, which is no name of a file", s, host, r.Host)
		}
	})
}
