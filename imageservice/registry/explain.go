package registry

import (
	"context"
	"maps"
	"slices"

	"github.com/berth-runtime/berth/imageservice/refs"
)

// Endpoint is one place where a reference is looked for, and how. It holds no
// secret: of headers the names, of keys and certificates the files.
type Endpoint struct {
	URL          string      // up to the repository's name, as a person would try it
	Server       bool        // the authority itself; otherwise a mirror
	Capabilities []string    // of pull, resolve, push
	Source       string      // file or directory that says so; empty: no file does
	Auth         string      // where its credentials come from, or why it gets none
	CA           []string    // files
	Client       [][2]string // files of certificate and key
	SkipVerify   bool
	Headers      []string // names
	Proxy        string   // empty for none
}

// Explain lists the endpoints for ref in the order in which they are tried,
// from the files as they are now. It does not touch the network. auth is what
// a request would bring, nil for nothing.
func (c *Client) Explain(_ context.Context, ref refs.Ref, auth *Auth) ([]Endpoint, error) {
	creds, err := newCredentials(auth)
	if err != nil {
		return nil, err
	}
	hosts, err := loadHosts(c.cfg.CertsDirs, ref.Host)
	if err != nil {
		return nil, err
	}
	var all []Endpoint
	for i, h := range hosts {
		proxy, _ := c.proxyFor(h.base)
		all = append(all, Endpoint{
			URL:          h.base.String() + "/" + ref.Path,
			Server:       i == len(hosts)-1,
			Capabilities: h.can.names(),
			Source:       h.source,
			Auth:         explainAuth(h, creds, ref.Host),
			CA:           h.ca,
			Client:       h.client,
			SkipVerify:   h.skipVerify,
			Headers:      slices.Sorted(maps.Keys(h.header)),
			Proxy:        visibleProxy(proxy, h.base),
		})
	}
	return all, nil
}

func (c capability) names() []string {
	names := []string{}
	for _, one := range []struct {
		bit  capability
		name string
	}{{canPull, "pull"}, {canResolve, "resolve"}, {canPush, "push"}} {
		if c&one.bit != 0 {
			names = append(names, one.name)
		}
	}
	return names
}

func explainAuth(h host, creds *credentials, refHost string) string {
	const header = "Authorization"
	switch {
	case h.header.Get(header) != "" && creds == nil:
		return "the header of " + h.source
	case creds == nil:
		return "none: the request brings no credentials"
	case creds.mayGoTo(h.base, refHost):
		return "the request's credentials"
	case creds.server != "" && !samePlace(h.base.Host, creds.server):
		return "none: the request's credentials are for " + creds.server
	}
	return "none: credentials do not go to a mirror over http"
}
