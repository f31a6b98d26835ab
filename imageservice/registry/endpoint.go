package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/berth-runtime/berth/imageservice/refs"
)

// endpoint is one host through which a repository is reached.
type endpoint struct {
	host
	namespace  string // what a mirror is asked to mirror; empty for the server
	userAgent  string
	noProgress time.Duration
	client     *http.Client
	auth       *authorizer
	secrets    []string // never to be seen in an error
}

func (c *Client) newEndpoint(h host, ref refs.Ref, creds *credentials) (*endpoint, error) {
	rt, err := c.transportFor(h)
	if err != nil {
		return nil, err
	}
	e := &endpoint{
		host:       h,
		userAgent:  c.cfg.UserAgent,
		noProgress: c.cfg.NoProgress,
		client:     &http.Client{Transport: rt, CheckRedirect: checkRedirect},
	}
	if !samePlace(h.base.Host, ref.Host) {
		e.namespace = ref.Host
	}
	if !creds.mayGoTo(h.base, ref.Host) {
		creds = nil
	}
	e.auth = newAuthorizer(h.base, ref.Path, creds, c.tokens, func(req *http.Request) (*http.Response, error) {
		req.Header.Set("User-Agent", e.userAgent)
		return e.send(&http.Client{Transport: rt, CheckRedirect: stayAtOrigin}, req)
	})
	proxy, _ := c.proxyFor(h.base)
	e.secrets = append(creds.secrets(), proxySecrets(proxy, h.base)...)
	for _, values := range h.header {
		e.secrets = append(e.secrets, values...)
	}
	return e, nil
}

// samePlace reports whether the endpoint at host is the server of the
// reference's host, not a mirror.
func samePlace(host, refHost string) bool {
	return strings.EqualFold(host, refHost) || refHost == refs.DockerHub && host == hubServer
}

// origin is what a secret is bound to: scheme, host and port.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// checkRedirect takes all but harmless headers from a request that leaves its
// origin. net/http itself keeps Authorization for subdomains and other ports,
// and any header of hosts.toml for everyone.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return errors.New("too many redirects")
	}
	if s := req.URL.Scheme; s != "https" && (s != "http" || via[len(via)-1].URL.Scheme == "https") {
		return errors.New("redirect from https to " + s + " refused")
	}
	home := origin(via[0].URL)
	left := origin(req.URL) != home
	for _, v := range via {
		// Who was elsewhere is not trusted to choose the way back either.
		left = left || origin(v.URL) != home
	}
	if !left {
		return nil
	}
	kept := http.Header{}
	for _, key := range []string{"Accept", "Range", "User-Agent"} {
		if v := req.Header.Values(key); len(v) > 0 {
			kept[key] = v
		}
	}
	req.Header = kept
	return nil
}

// stayAtOrigin is for token requests, whose body may be a secret too.
func stayAtOrigin(req *http.Request, via []*http.Request) error {
	if origin(req.URL) != origin(via[0].URL) {
		return errors.New("redirect of a token request to another host refused")
	}
	return checkRedirect(req, via)
}

// get asks for name ("manifests/latest") under the repository at path. It
// answers one challenge for credentials. The caller closes the body, whatever
// the status.
func (e *endpoint) get(ctx context.Context, path, name string, header http.Header) (*http.Response, error) {
	return e.do(ctx, outgoing{method: http.MethodGet, url: e.url(path, name), header: header})
}

// errStalled is the cause of a request's end when nothing moved.
var errStalled = errors.New("no progress")

// send does one request under the deadline for no progress, which runs while
// we wait for the host, not while the reader of the body is busy elsewhere.
func (e *endpoint) send(client *http.Client, req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(e.noProgress, func() { cancel(errStalled) })
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &watchedUpload{req.Body, timer, e.noProgress}
	}
	resp, err := client.Do(req)
	timer.Stop()
	if err != nil {
		defer cancel(nil)
		return nil, stallOr(ctx, err)
	}
	resp.Body = &watchedBody{body: resp.Body, ctx: ctx, cancel: cancel, timer: timer, patience: e.noProgress}
	return resp, nil
}

func stallOr(ctx context.Context, err error) error {
	if err != io.EOF && errors.Is(context.Cause(ctx), errStalled) { //nolint:errorlint // a wrapped EOF is a failure, not the end
		return errStalled
	}
	return err
}

// watchedUpload is a body that we send: each piece that the host takes is
// progress.
type watchedUpload struct {
	io.ReadCloser
	timer    *time.Timer
	patience time.Duration
}

func (b *watchedUpload) Read(p []byte) (int, error) {
	b.timer.Reset(b.patience)
	return b.ReadCloser.Read(p)
}

// watchedBody is a body each Read of which has the deadline. The context is
// the request's own and ends with the body.
type watchedBody struct {
	body     io.ReadCloser
	ctx      context.Context
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	patience time.Duration
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.patience)
	n, err := b.body.Read(p)
	b.timer.Stop()
	if err != nil {
		err = stallOr(b.ctx, err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.body.Close()
}
