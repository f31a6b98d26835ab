package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Pusher writes to one repository, through the first endpoint that hosts.toml
// lets push: what belongs together must not be strewn over several. It may be
// used concurrently.
type Pusher struct {
	repo *Repository // with that one endpoint

	// From is the path of another repository of the host that may have the
	// blobs, which the host then need not be sent. Empty: none is known. It is
	// set before the first use.
	From string
}

// Pusher prepares to push to ref's repository with auth, which may be nil. It
// does not touch the network.
func (c *Client) Pusher(ctx context.Context, ref refs.Ref, auth *Auth) (*Pusher, error) {
	r, err := c.Repository(ctx, ref, auth)
	if err != nil {
		return nil, err
	}
	for _, e := range r.endpoints {
		if e.can&canPush != 0 {
			e.auth.allowPush()
			r.endpoints = []*endpoint{e}
			return &Pusher{repo: r}, nil
		}
	}
	return nil, errkind.New(errkind.FailedPrecondition, "cannot push %s: hosts.toml leaves no host capable of it", ref)
}

// Blob uploads the blob d of size bytes unless the repository has it, or gets
// it from the repository From. open is called for each attempt.
func (p *Pusher) Blob(ctx context.Context, d digest.Digest, size int64, open func() (io.ReadCloser, error)) (sent bool, err error) {
	if err := checkDigest(d); err != nil {
		return false, err
	}
	what := fmt.Sprintf("blob %s to %s", d, p.repo.ref.Name())
	err = p.repo.try(ctx, verbPush, what, canPush, func(e *endpoint) error {
		has, err := e.hasBlob(ctx, p.repo.ref.Path, d)
		if err != nil || has {
			sent = false
			return err
		}
		sent, err = e.mountOrUpload(ctx, p.repo.ref.Path, p.From, d, outgoing{size: size, open: open})
		return err
	})
	return sent && err == nil, err
}

// Manifest puts a manifest, whose blobs are there, under a tag or its digest.
func (p *Pusher) Manifest(ctx context.Context, tagOrDigest, mediaType string, body []byte) error {
	if !validTag(tagOrDigest) && checkDigest(digest.Digest(tagOrDigest)) != nil {
		return errkind.New(errkind.InvalidArgument, "cannot push to %s: %q is neither a tag nor a digest", p.repo.ref.Name(), tagOrDigest)
	}
	what := fmt.Sprintf("manifest %s to %s", tagOrDigest, p.repo.ref.Name())
	return p.repo.try(ctx, verbPush, what, canPush, func(e *endpoint) error {
		u := e.url(p.repo.ref.Path, "manifests/"+tagOrDigest)
		resp, err := e.do(ctx, outgoing{
			method: http.MethodPut, url: u, header: http.Header{"Content-Type": {mediaType}}, size: int64(len(body)),
			open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(body))), nil },
		})
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusCreated {
			return statusFailure("", resp)
		}
		if got := digest.Digest(resp.Header.Get("Docker-Content-Digest")); got != "" && got != digest.FromBytes(body) {
			return refuse(errkind.DataLoss, "the host stored the manifest as %s, not %s", e.harmless(string(got)), digest.FromBytes(body))
		}
		return nil
	})
}

func (e *endpoint) hasBlob(ctx context.Context, path string, d digest.Digest) (bool, error) {
	resp, err := e.do(ctx, outgoing{method: http.MethodHead, url: e.url(path, "blobs/"+d.String())})
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, statusFailure("", resp)
}

// mountOrUpload has the host take the blob d from its repository from, or
// sends it. A host that cannot mount answers as to any upload; one that does
// not let us read from there refuses, and is asked for an upload alone.
func (e *endpoint) mountOrUpload(ctx context.Context, path, from string, d digest.Digest, body outgoing) (sent bool, err error) {
	if from != "" {
		u := e.url(path, "blobs/uploads/")
		q := u.Query()
		q.Set("mount", d.String())
		q.Set("from", from)
		u.RawQuery = q.Encode()
		resp, err := e.do(ctx, outgoing{method: http.MethodPost, url: u})
		if err != nil {
			return false, err
		}
		_ = resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusCreated:
			return false, nil
		case http.StatusAccepted:
			return true, e.upload(ctx, resp, d, body)
		}
	}
	resp, err := e.do(ctx, outgoing{method: http.MethodPost, url: e.url(path, "blobs/uploads/")})
	if err != nil {
		return false, err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return false, statusFailure("upload: ", resp)
	}
	return true, e.upload(ctx, resp, d, body)
}

// upload sends a blob in one piece to where begun, the answer to a POST, says.
func (e *endpoint) upload(ctx context.Context, begun *http.Response, d digest.Digest, body outgoing) error {
	to, err := e.uploadURL(begun)
	if err != nil {
		return err
	}
	q := to.Query()
	q.Set("digest", d.String())
	to.RawQuery = q.Encode()
	body.method, body.url, body.header = http.MethodPut, to, http.Header{"Content-Type": {"application/octet-stream"}}
	resp, err := e.do(ctx, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusCreated {
		return statusFailure("upload: ", resp)
	}
	return nil
}

// uploadURL is where the answer to a POST says that the blob is to go. That
// may be another host, which then gets no credentials, but not down to http.
func (e *endpoint) uploadURL(resp *http.Response) (*url.URL, error) {
	u, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	switch {
	case err != nil || resp.Header.Get("Location") == "" || u.Host == "" || u.User != nil:
		return nil, refuse(errkind.Unavailable, "the host does not say where to upload")
	case u.Scheme != "https" && (u.Scheme != "http" || e.base.Scheme == "https"):
		return nil, refuse(errkind.PermissionDenied, "upload over %s refused", u.Scheme)
	case refs.IsLoopback(u.Host) && !refs.IsLoopback(e.base.Host):
		return nil, refuse(errkind.PermissionDenied, "upload to a service of this machine refused")
	}
	return u, nil
}

// url is that of name ("manifests/latest") under the repository at path.
func (e *endpoint) url(path, name string) *url.URL {
	u := *e.base
	u.Path += "/" + path + "/" + name
	if e.namespace != "" {
		u.RawQuery = url.Values{"ns": {e.namespace}}.Encode()
	}
	return &u
}

// outgoing is a request with everything to send it again.
type outgoing struct {
	method string
	url    *url.URL
	header http.Header
	size   int64                         // of the body
	open   func() (io.ReadCloser, error) // nil for no body
}

// request makes the request anew. Settings of this endpoint and credentials
// go to its own origin only.
func (e *endpoint) request(ctx context.Context, o outgoing, authorization string) (*http.Request, error) {
	var body io.ReadCloser
	if o.open != nil {
		var err error
		if body, err = o.open(); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, o.method, o.url.String(), body)
	if err != nil {
		if body != nil {
			_ = body.Close()
		}
		return nil, err
	}
	if o.open != nil {
		req.ContentLength, req.GetBody = o.size, o.open
		if o.size == 0 {
			_ = body.Close()
			req.Body, req.GetBody = http.NoBody, nil
		}
	}
	home := origin(o.url) == origin(e.base)
	if home {
		for key, values := range e.header {
			req.Header[key] = values
		}
	}
	for key, values := range o.header {
		req.Header[key] = values
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", e.userAgent)
	}
	if authorization != "" && home {
		req.Header.Set("Authorization", authorization)
	}
	return req, nil
}

// do sends o and answers one challenge for credentials, or two if what was kept
// for the first is refused. The caller closes the
// body of the answer, whatever the status.
func (e *endpoint) do(ctx context.Context, o outgoing) (*http.Response, error) {
	authorization := e.auth.authorization()
	for challenged := false; ; {
		req, err := e.request(ctx, o, authorization)
		if err != nil {
			return nil, err
		}
		resp, err := e.send(e.client, req)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || challenged {
			return resp, err
		}
		// The host at the end of a redirect, or of an upload elsewhere, has no
		// say in where credentials go.
		if origin(resp.Request.URL) != origin(e.base) {
			return resp, nil
		}
		next, fresh, err := e.auth.answer(ctx, resp.Header.Values("Www-Authenticate"), authorization)
		if err == nil && next == "" {
			return resp, nil
		}
		err = errors.Join(err, resp.Body.Close())
		if err != nil {
			return nil, err
		}
		authorization, challenged = next, fresh
	}
}
