package registry

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Proxies says, by the host of an endpoint, through which proxy goes all that
// is done for it: its token server and the storage that it sends us to have no
// names that anybody could list. A nil URL is none. Hosts without an entry
// follow HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the daemon's environment.
type Proxies map[string]*url.URL

// ParseProxies reads proxies as the configuration has them: the key is a host,
// with its port if that is not the scheme's own, the value an URL, or empty
// for none.
func ParseProxies(byHost map[string]string) (Proxies, error) {
	proxies := Proxies{}
	for _, host := range slices.Sorted(maps.Keys(byHost)) {
		key := strings.ToLower(host)
		switch key {
		case refs.DockerHub, "index.docker.io":
			key = hubServer
		}
		if key == "" || strings.ContainsAny(key, "/@* ") {
			return nil, errkind.New(errkind.InvalidArgument, "cannot use proxy of %q: the key must be a host, or host:port", host)
		}
		u, err := parseProxy(byHost[host])
		if err != nil {
			return nil, errkind.New(errkind.InvalidArgument, "cannot use proxy of %q: %w", host, err)
		}
		proxies[key] = u
	}
	return proxies, nil
}

// parseProxy reads one URL. Its errors do not quote it, as it may have a
// password.
func parseProxy(s string) (*url.URL, error) {
	if s == "" {
		return nil, nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("its value is not an URL such as http://proxy.example:3128")
	case !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme):
		return nil, fmt.Errorf("its scheme %q is not http, https, socks5 or socks5h", u.Scheme)
	}
	return u, nil
}

// proxyFunc gives the proxy for a request to an URL, nil for none.
type proxyFunc func(*url.URL) (*url.URL, error)

// environmentProxies reads the environment, which net/http would do once in a
// process.
func environmentProxies() proxyFunc { return httpproxy.FromEnvironment().ProxyFunc() }

// proxyFor gives the way out for all that is done for the endpoint at base,
// and whether the configuration has a say in it.
func (c *Client) proxyFor(base *url.URL) (proxy proxyFunc, own bool) {
	u, own := c.cfg.Proxies[strings.ToLower(base.Host)]
	if !own {
		return c.environment, false
	}
	return func(*url.URL) (*url.URL, error) { return u, nil }, true
}

// visibleProxy is the proxy for base without the credentials that it may have.
func visibleProxy(proxy proxyFunc, base *url.URL) string {
	u, err := proxy(base)
	if err != nil || u == nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// proxySecrets are what must not be seen of the proxy for base.
func proxySecrets(proxy proxyFunc, base *url.URL) []string {
	u, err := proxy(base)
	if err != nil || u == nil || u.User == nil {
		return nil
	}
	password, _ := u.User.Password()
	return []string{password, u.User.String(), basic(u.User.Username(), password)}
}
