//go:build kube

package kube

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// TestPulls names images by tag and by digest, with each policy, and asks for
// what is not there.
func TestPulls(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("tag", `
  containers: [{name: c, image: $REGISTRY/box:2, imagePullPolicy: Always, `+idle+`}]
`)
	c := s.ready("tag").Status.ContainerStatuses[0]
	if c.Image != s.Registry+"/box:2" || !strings.Contains(c.ImageID, "sha256:") {
		t.Errorf("the image is said to be %v", c)
	}
	s.event("tag", `Successfully pulled image "`+s.Registry+`/box:2"`)
	digest := c.ImageID[strings.Index(c.ImageID, "sha256:"):]
	// What the status says is what a pull by digest takes.
	req, err := http.NewRequest(http.MethodHead, "http://"+s.Registry+"/v2/box/manifests/"+digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the registry says of %s: %s", digest, resp.Status)
	}
	s.run("digest", `
  containers: [{name: c, image: "$REGISTRY/box@`+digest+`", `+idle+`}]
`)
	if got := s.ready("digest").Status.ContainerStatuses[0]; got.ImageID != c.ImageID {
		t.Errorf("by digest the image is %s, by tag %s", got.ImageID, c.ImageID)
	}
	s.run("present", `
  containers: [{name: c, image: $REGISTRY/box:2, imagePullPolicy: Never, `+idle+`}]
`)
	s.ready("present")

	for name, want := range map[string]struct{ image, policy, reasons string }{
		"lacks":   {"$REGISTRY/no-such:1", "Always", "ErrImagePull ImagePullBackOff"},
		"never":   {"$REGISTRY/no-such:1", "Never", "ErrImageNeverPull"},
		"invalid": {"UPPER/Case", "Always", "InvalidImageName"},
		"nobody":  {"127.0.0.1:1/box:1", "Always", "ErrImagePull ImagePullBackOff RegistryUnavailable"},
	} {
		s.run(name, fmt.Sprintf(`
  containers: [{name: c, image: %q, imagePullPolicy: %s, `+idle+`}]
`, want.image, want.policy))
		s.until(name, func(p pod) error {
			if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
				return fmt.Errorf("no status yet")
			}
			if w := p.Status.ContainerStatuses[0].State.Waiting; !strings.Contains(want.reasons, w.Reason) || w.Reason == "ContainerCreating" {
				return fmt.Errorf("%s waits for %v, want %s", name, w, want.reasons)
			}
			return nil
		})
	}
	s.event("lacks", "/no-such:1")
}

// TestPullSecrets pulls from a registry that wants a name and a password, which
// a secret of the pod has, or has not; who has none does not get the image because
// another had.
func TestPullSecrets(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	private := guarded(t, s.Registry, "joe", "secret")
	s.kubectl("create", "secret", "docker-registry", "good", "--docker-server", private, "--docker-username", "joe", "--docker-password", "secret")
	s.kubectl("create", "secret", "docker-registry", "bad", "--docker-server", private, "--docker-username", "joe", "--docker-password", "wrong")
	spec := func(secrets string) string {
		return `
  imagePullSecrets: [` + secrets + `]
  containers: [{name: c, image: ` + private + `/secret:1, ` + idle + `}]
`
	}
	refused := func(name string) {
		t.Helper()
		s.until(name, func(p pod) error {
			if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
				return fmt.Errorf("no status yet")
			}
			if w := p.Status.ContainerStatuses[0].State.Waiting; w.Reason != "ErrImagePull" && w.Reason != "ImagePullBackOff" {
				return fmt.Errorf("%s waits for %v", name, w)
			}
			return nil
		})
	}
	s.run("bad", spec("{name: bad}"))
	refused("bad")
	s.event("bad", "401")
	for _, e := range s.events("bad") {
		if strings.Contains(e, "wrong") || strings.Contains(e, base64.StdEncoding.EncodeToString([]byte("joe:wrong"))) {
			t.Errorf("an event shows the password: %s", e)
		}
	}
	s.run("good", spec("{name: bad}, {name: good}"))
	s.ready("good")
	s.says("good", "secret", "cat /etc/image")
	s.run("none", spec(""))
	refused("none")
}

// guarded is a registry in front of another that wants credentials.
func guarded(t *testing.T, registry, user, password string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String()
}
