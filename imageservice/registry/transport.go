package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const defaultDialTimeout = 30 * time.Second

// reach is how far a connection may go.
type reach uint8

const (
	anywhere   reach = iota
	offMachine       // not to services of this machine or its link
)

// newTransport makes a pool of connections. Compression is off because blobs
// are fetched by ranges of their own bytes.
func newTransport(conf *tls.Config, dialTimeout time.Duration, proxy proxyFunc, far reach) *http.Transport {
	if dialTimeout == 0 {
		dialTimeout = defaultDialTimeout
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	if far == offMachine {
		dialer.ControlContext = refuseLocal
	}
	t := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true, // a TLSClientConfig of one's own turns it off
		DisableCompression:     true,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        30 * time.Second, // pools of one pull end soon after it
		MaxResponseHeaderBytes: maxHeaders,
	}
	if proxy != nil {
		t.Proxy = func(req *http.Request) (*url.URL, error) { return proxy(req.URL) }
	}
	return t
}

// refuseLocal ends a connection before it is made. It sees the address that
// the name of a host has led to, so a name cannot hide it.
func refuseLocal(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("cannot tell where %s is: %w", address, err)
	}
	if isLocal(to.Addr()) {
		return refuse(errkind.PermissionDenied, "the registry leads to %s, a service of this machine or its link: refused", to)
	}
	return nil
}

// isLocal tells the addresses behind which are this machine and what a cloud
// offers to it alone, such as the metadata at 169.254.169.254.
func isLocal(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast()
}

// transportFor gives the way to h and to where h leads. Two of its settings
// are for h alone and do not go along a redirect or to a token server
// elsewhere: the client's certificate, and the leave to skip verification. And
// only a registry on this machine may lead to other services of it.
func (c *Client) transportFor(h host) (http.RoundTripper, error) {
	proxy, own := c.proxyFor(h.base)
	t := &splitTransport{origin: origin(h.base), proxy: proxy, home: c.plain, viaProxy: c.plain, direct: c.guarded}
	if own || h.hasTLS() || h.dialTimeout != 0 {
		elsewhere, home, err := h.tlsConfigs()
		if err != nil {
			return nil, err
		}
		t.home = newTransport(home, h.dialTimeout, proxy, anywhere)
		t.viaProxy = newTransport(elsewhere, h.dialTimeout, proxy, anywhere)
		t.direct = newTransport(elsewhere, h.dialTimeout, nil, offMachine)
	}
	if refs.IsLoopback(h.base.Host) {
		t.direct = t.viaProxy
	}
	if h.base.Scheme == "http" && h.hasTLS() && h.base.Port() != "" && h.base.Port() != "80" {
		t.home = &preferTLS{next: t.home}
	}
	return t, nil
}

func (h host) hasTLS() bool { return len(h.ca)+len(h.client) > 0 || h.skipVerify }

// tlsConfigs gives the settings for h itself and for where it leads.
func (h host) tlsConfigs() (elsewhere, home *tls.Config, err error) {
	elsewhere = &tls.Config{MinVersion: tls.VersionTLS12}
	if len(h.ca) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, file := range h.ca {
			pem, err := os.ReadFile(file)
			if err != nil {
				return nil, nil, errkind.New(errkind.FailedPrecondition, "cannot read ca of registry %s: %w", h.base.Host, err)
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, nil, errkind.New(errkind.FailedPrecondition, "cannot read ca of registry %s: %s has no certificate", h.base.Host, file)
			}
		}
		elsewhere.RootCAs = pool
	}
	home = elsewhere.Clone()
	home.InsecureSkipVerify = h.skipVerify
	for _, pair := range h.client {
		cert, err := tls.LoadX509KeyPair(pair[0], pair[1])
		if err != nil {
			return nil, nil, errkind.New(errkind.FailedPrecondition, "cannot read client certificate of registry %s: %s: %w", h.base.Host, pair[0], err)
		}
		home.Certificates = append(home.Certificates, cert)
	}
	return elsewhere, home, nil
}

// splitTransport keeps what is for one origin from all others.
type splitTransport struct {
	origin string
	proxy  proxyFunc

	home     http.RoundTripper // to the origin
	viaProxy http.RoundTripper // elsewhere through a proxy, which is where it is and may be here
	direct   http.RoundTripper // elsewhere without one
}

func (t *splitTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if origin(req.URL) == t.origin {
		return t.home.RoundTrip(req)
	}
	if proxy, err := t.proxy(req.URL); err != nil || proxy != nil {
		return t.viaProxy.RoundTrip(req)
	}
	return t.direct.RoundTrip(req)
}

// preferTLS is for an endpoint whose URL says http and whose settings are for
// TLS. As in containerd, TLS is tried first: what was written for one of the
// two works with the other, and only a host that answers the handshake in
// plain HTTP is spoken to so.
type preferTLS struct {
	next  http.RoundTripper
	plain atomic.Bool // the host has no TLS
}

func (t *preferTLS) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.plain.Load() {
		return t.next.RoundTrip(req)
	}
	upgraded := req.Clone(req.Context())
	upgraded.URL.Scheme = "https"
	resp, err := t.next.RoundTrip(upgraded)
	var notTLS tls.RecordHeaderError
	if errors.As(err, &notTLS) && string(notTLS.RecordHeader[:]) == "HTTP/" {
		t.plain.Store(true)
		again := req.Clone(req.Context())
		if req.GetBody != nil {
			if again.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
		resp, err = t.next.RoundTrip(again)
	}
	if err != nil {
		return nil, err
	}
	resp.Request = req
	return resp, nil
}
