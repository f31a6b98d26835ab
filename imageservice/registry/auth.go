package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// credentials is an Auth made ready for use. A nil one is anonymous.
type credentials struct {
	username, password string
	identityToken      string
	registryToken      string
	server             string // host that alone may have them; empty for any endpoint
}

func newCredentials(a *Auth) (*credentials, error) {
	if a == nil {
		return nil, nil
	}
	c := &credentials{
		username:      a.Username,
		password:      a.Password,
		identityToken: a.IdentityToken,
		registryToken: a.RegistryToken,
		server:        serverHost(a.ServerAddress),
	}
	if c.username == "" && a.Auth != "" {
		// Secrets written by hand often end in a line feed, and docker once
		// padded with NUL.
		plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(a.Auth))
		user, password, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok {
			return nil, errkind.New(errkind.InvalidArgument, "cannot use registry credentials: auth is not base64 of user:password")
		}
		c.username, c.password = user, strings.TrimRight(password, "\x00\r\n")
	}
	// docker login writes an identity token as the password of this user.
	if c.username == "<token>" {
		c.identityToken, c.username, c.password = c.password, "", ""
	}
	if c.username == "" && c.identityToken == "" && c.registryToken == "" {
		return nil, nil
	}
	return c, nil
}

// serverHost reads ServerAddress, a host or, as docker writes it, an URL
// ("https://index.docker.io/v1/").
func serverHost(address string) string {
	if _, after, ok := strings.Cut(address, "://"); ok {
		address = after
	}
	host, _, _ := strings.Cut(address, "/")
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry.hub.docker.com", hubServer:
		return refs.DockerHub
	}
	return host
}

// mayGoTo decides whether the endpoint at base may have the credentials. A
// mirror may, being named by the administrator, but not in the clear.
func (c *credentials) mayGoTo(base *url.URL, refHost string) bool {
	switch {
	case c == nil:
		return false
	case c.server != "" && !samePlace(base.Host, c.server):
		return false
	}
	return base.Scheme == "https" || samePlace(base.Host, refHost) || refs.IsLoopback(base.Host)
}

func (c *credentials) secrets() []string {
	if c == nil {
		return nil
	}
	return []string{c.password, c.identityToken, c.registryToken, basic(c.username, c.password)}
}

func basic(username, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(username + ":" + password))
}

// authorizer knows the Authorization header for one repository at one
// endpoint. It learns it from the first challenge and again when a token has
// expired in the middle of a pull.
type authorizer struct {
	base    *url.URL
	path    string   // of the repository
	actions []string // that a token is asked for
	creds   *credentials
	tokens  *tokens // of the client
	send    func(*http.Request) (*http.Response, error)

	asking chan struct{} // holds one element while a token is asked for

	mu     sync.Mutex
	header string // guarded by mu
}

func newAuthorizer(base *url.URL, path string, creds *credentials, kept *tokens, send func(*http.Request) (*http.Response, error)) *authorizer {
	a := &authorizer{
		base:    base,
		path:    path,
		actions: []string{"pull"},
		creds:   creds,
		tokens:  kept,
		send:    send,
		asking:  make(chan struct{}, 1),
	}
	if creds != nil && creds.registryToken != "" {
		a.header = "Bearer " + creds.registryToken
	}
	return a
}

// allowPush makes the authorizer ask for leave to push too. It is called before
// the first request.
func (a *authorizer) allowPush() { a.actions = []string{"pull", "push"} }

// authorization is the header to send now; empty for none.
func (a *authorizer) authorization() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.header
}

// answer gives the header that answers the challenges of a request that was
// sent with the header used, or "" if there is none to give. It is fresh unless
// it was kept from an earlier pull; then it may be refused, and another one be
// asked for. Of requests that are challenged together one asks, the others
// take its token.
func (a *authorizer) answer(ctx context.Context, challenges []string, used string) (header string, fresh bool, err error) {
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
	if now := a.authorization(); now != used {
		return now, true, nil
	}
	if a.creds != nil && a.creds.registryToken != "" {
		return "", false, nil
	}
	header, fresh, err = a.ask(ctx, challenges, used)
	if err != nil || header == "" || header == used {
		return "", false, err
	}
	a.mu.Lock()
	a.header = header
	a.mu.Unlock()
	return header, fresh, nil
}

func (a *authorizer) ask(ctx context.Context, challenges []string, used string) (header string, fresh bool, err error) {
	for _, c := range parseChallenges(challenges) {
		switch {
		case c.scheme == "bearer":
			return a.bearer(ctx, c, used)
		case c.scheme == "basic" && a.creds != nil && a.creds.username != "":
			return "Basic " + basic(a.creds.username, a.creds.password), true, nil
		}
	}
	return "", false, nil
}

// bearer gives a token that is kept, or asks the token server that c names for
// leave to do the actions.
func (a *authorizer) bearer(ctx context.Context, c challenge, used string) (header string, fresh bool, err error) {
	realm, err := a.checkRealm(c.params["realm"])
	if err != nil {
		return "", false, err
	}
	service, scopes := c.params["service"], a.scopes(c.params["scope"])
	if len(service) > maxRealm {
		return "", false, refuse(errkind.PermissionDenied, "token server of the challenge is not usable")
	}
	key := a.tokens.key(a.base, realm, service, scopes, a.creds)
	if header, ok := a.tokens.get(key, used); ok {
		return header, false, nil
	}
	since := a.tokens.now()
	req, err := a.tokenRequest(ctx, realm, service, scopes)
	if err != nil {
		return "", false, refuse(errkind.PermissionDenied, "token server of the challenge is not usable")
	}
	header, lifetime, err := a.fetchToken(req)
	if err == nil {
		a.tokens.put(key, header, since, lifetime)
	}
	return header, true, err
}

// fetchToken gives the header with the token that req gets, and how long it
// is good for; 0 if it does not say.
func (a *authorizer) fetchToken(req *http.Request) (header string, lifetime time.Duration, err error) {
	from := "token server " + req.URL.Host
	resp, err := a.send(req)
	if err != nil {
		return "", 0, transportFailure(from+": ", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", 0, statusFailure(from+": ", resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil {
		return "", 0, transportFailure(from+": ", err)
	}
	text, lifetime, ok := parseToken(body)
	if !ok {
		return "", 0, refuse(errkind.PermissionDenied, "%s gave no token", from)
	}
	return "Bearer " + text, lifetime, nil
}

// parseToken reads the answer of a token server. Why it is none is not told,
// as that might quote it.
func parseToken(body []byte) (text string, lifetime time.Duration, ok bool) {
	var got struct {
		Token       string          `json:"token"`
		AccessToken string          `json:"access_token"` // OAuth2's name for it
		ExpiresIn   json.RawMessage `json:"expires_in"`   // seconds, by some servers in quotes
	}
	if len(body) > maxToken || json.Unmarshal(body, &got) != nil {
		return "", 0, false
	}
	text = cmp.Or(got.Token, got.AccessToken)
	// What is no token by its characters would not make a header.
	outside := func(r rune) bool { return r <= ' ' || r > '~' }
	if text == "" || strings.ContainsFunc(text, outside) {
		return "", 0, false
	}
	seconds, err := strconv.ParseUint(strings.Trim(string(got.ExpiresIn), `"`), 10, 64)
	if err != nil {
		seconds = 0
	}
	return text, time.Duration(min(seconds, uint64(maxLifetime/time.Second))) * time.Second, true
}

// checkRealm refuses a token server that would get credentials in the clear,
// or that makes us call services of this machine.
func (a *authorizer) checkRealm(realm string) (*url.URL, error) {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" || u.User != nil || len(realm) > maxRealm {
		return nil, refuse(errkind.PermissionDenied, "token server of the challenge is not usable")
	}
	home := origin(u) == origin(a.base)
	literal, _ := netip.ParseAddr(u.Hostname())
	local := refs.IsLoopback(u.Host) || literal.IsValid() && isLocal(literal)
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
	case home:
		return u, nil
	case local && !refs.IsLoopback(a.base.Host):
	case local || u.Scheme == "https":
		return u, nil
	}
	return nil, refuse(errkind.PermissionDenied, "token server %s://%s refused: it is neither https nor the registry itself", u.Scheme, u.Host)
}

func (a *authorizer) tokenRequest(ctx context.Context, realm *url.URL, service string, scopes []string) (*http.Request, error) {
	if a.creds != nil && a.creds.identityToken != "" {
		form := url.Values{
			"grant_type":    {"refresh_token"},
			"refresh_token": {a.creds.identityToken},
			"service":       {service},
			"scope":         {strings.Join(scopes, " ")},
			"client_id":     {"berth"},
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return req, nil
	}
	u := *realm
	q := u.Query()
	if service != "" {
		q.Set("service", service)
	}
	for _, s := range scopes {
		q.Add("scope", s)
	}
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if a.creds != nil && a.creds.username != "" {
		req.SetBasicAuth(a.creds.username, a.creds.password)
	}
	return req, nil
}

// scopes cuts what a challenge asks for down to what we are about to do. Its
// names are kept, as a mirror may keep the repository under another name; but
// an endpoint must not have us fetch it a token to push while we pull.
func (a *authorizer) scopes(asked string) []string {
	var scopes []string
	for _, s := range strings.Fields(asked) {
		name, ok := strings.CutPrefix(s, "repository:")
		i := strings.LastIndexByte(name, ':')
		if !ok || i <= 0 {
			continue
		}
		var actions []string
		for action := range strings.SplitSeq(name[i+1:], ",") {
			if slices.Contains(a.actions, action) && !slices.Contains(actions, action) {
				actions = append(actions, action)
			}
		}
		if len(actions) > 0 && len(scopes) < maxScopes && len(name) <= maxRealm {
			scopes = append(scopes, "repository:"+name[:i]+":"+strings.Join(actions, ","))
		}
	}
	if len(scopes) == 0 {
		return []string{"repository:" + a.path + ":" + strings.Join(a.actions, ",")}
	}
	return scopes
}
