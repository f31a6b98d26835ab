// Package registry resolves references, fetches manifests and blobs from
// registries that speak the OCI distribution protocol, and pushes them there.
// It knows neither the store nor the records of images.
//
// # Model
//
// A Client holds the settings of the daemon. For each pull it makes a
// Repository, which reads the host's hosts.toml anew and so has an ordered
// list of endpoints: the mirrors in the order of the file, then the server
// itself. A request goes to each endpoint in turn until one gives a right
// answer; an answer that does not match the digest asked for counts as wrong.
// A failure names every endpoint tried with its answer, and its kind is that
// of the last endpoint, the authority. A Pusher has one endpoint only, the
// first that hosts.toml lets push.
//
// # Law
//
// A secret (password, token, client certificate, header of hosts.toml) leaves
// only to the endpoint it was meant for: never along a redirect to another
// origin or an upload to one, never from https down to http, never in the
// clear to a host that the reference does not name. A token server elsewhere
// is given credentials over https alone, and a redirected answer cannot name a
// token server.
// No error carries credentials or the query of an URL, as storage hosts sign
// their URLs there.
//
// A registry that is not on this machine cannot lead us, by redirect or token
// server, to services of it.
//
// The deadline is for no progress, never for the total. What a host sends is
// bounded: see limits.go.
package registry

import (
	"context"
	"net/http"
	"time"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Auth is what a pull request brings to prove itself, as in CRI's AuthConfig.
// RegistryToken wins over IdentityToken, that over a user name and password.
type Auth struct {
	Username, Password string
	Auth               string // base64 of "username:password", used if Username is empty
	IdentityToken      string // exchanged for an access token at the token server
	RegistryToken      string // a bearer token, sent as it is
	ServerAddress      string // if set, the one host that may have the above
}

// Config is what the daemon's own configuration says about registries.
type Config struct {
	CertsDirs  []string      // searched in order for <host>/hosts.toml, then for _default
	Proxies    Proxies       // for hosts that need another than the environment says
	UserAgent  string        // default "berth"
	NoProgress time.Duration // a request without a byte for so long is given up; default 60s
	Retries    int           // further rounds after a transient failure; default 3, negative for none
}

// Client makes Repositories. It may be used concurrently.
type Client struct {
	cfg         Config
	environment proxyFunc
	tokens      *tokens

	// For hosts without settings of their own, and for where those lead.
	plain, guarded *http.Transport
}

// New makes a client; zero fields of cfg take their defaults.
func New(cfg Config) *Client {
	if cfg.UserAgent == "" {
		cfg.UserAgent = "berth"
	}
	if cfg.NoProgress <= 0 {
		cfg.NoProgress = time.Minute
	}
	switch {
	case cfg.Retries == 0:
		cfg.Retries = 3
	case cfg.Retries < 0:
		cfg.Retries = 0
	}
	c := &Client{cfg: cfg, environment: environmentProxies(), tokens: newTokens()}
	c.plain = newTransport(nil, 0, c.environment, anywhere)
	c.guarded = newTransport(nil, 0, nil, offMachine)
	return c
}

// Repository is one repository as seen through its endpoints for the length
// of a pull. It may be used concurrently and needs no closing: connections
// that idle end by themselves.
type Repository struct {
	ref       refs.Ref
	endpoints []*endpoint
	retries   int
}

// Repository prepares to fetch from ref's repository with auth, which may be
// nil. It reads hosts.toml and the certificates that this names, and does not
// touch the network.
func (c *Client) Repository(_ context.Context, ref refs.Ref, auth *Auth) (*Repository, error) {
	// A Ref made by hand must not smuggle path elements into files or URLs.
	if again, err := refs.Parse(ref.String(), ""); err != nil {
		return nil, err
	} else if again.Name() != ref.Name() {
		return nil, errkind.New(errkind.InvalidArgument, "cannot use reference %q: it is not normalised", ref)
	}
	creds, err := newCredentials(auth)
	if err != nil {
		return nil, err
	}
	hosts, err := loadHosts(c.cfg.CertsDirs, ref.Host)
	if err != nil {
		return nil, err
	}
	r := &Repository{ref: ref, retries: c.cfg.Retries}
	for _, h := range hosts {
		e, err := c.newEndpoint(h, ref, creds)
		if err != nil {
			return nil, err
		}
		r.endpoints = append(r.endpoints, e)
	}
	return r, nil
}
