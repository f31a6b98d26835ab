package registry

import (
	"crypto/sha256"
	"encoding/json"
	"net/url"
	"sync"
	"time"
)

const (
	maxTokens       = 256              // kept at a time
	defaultLifetime = 60 * time.Second // of a token that does not say; so the distribution specification
	maxLifetime     = time.Hour        // whatever a token says
)

// tokens keeps what token servers gave until it expires, so that the pulls of
// a node that starts its pods do not ask for each anew. A token is found by all
// that it was asked for with: what one caller's credentials got, or one
// registry, no other is given.
type tokens struct {
	now func() time.Time // time.Now but in tests

	mu   sync.Mutex
	kept map[tokenKey]token // guarded by mu
}

type tokenKey [sha256.Size]byte

type token struct {
	header  string
	expires time.Time
}

func newTokens() *tokens { return &tokens{now: time.Now, kept: map[tokenKey]token{}} }

// key is that of a token for the endpoint at base. It is a sum so that the map
// holds no credentials.
func (*tokens) key(base, realm *url.URL, service string, scopes []string, c *credentials) tokenKey {
	asked := struct {
		Endpoint, Realm, Service string
		Scopes                   []string
		Username, Password, ID   string
	}{origin(base), realm.String(), service, scopes, "", "", ""}
	if c != nil {
		asked.Username, asked.Password, asked.ID = c.username, c.password, c.identityToken
	}
	// It is strings only, which cannot fail.
	text, _ := json.Marshal(asked)
	return sha256.Sum256(text)
}

// get gives the header with the token of k, if there is one that has not
// expired. One that was refused is dropped.
func (t *tokens) get(k tokenKey, refused string) (header string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	got, ok := t.kept[k]
	if !ok || got.header == refused || !t.now().Before(got.expires) {
		delete(t.kept, k)
		return "", false
	}
	return got.header, true
}

// put keeps a token that was asked for at since. It is not used in the last
// tenth of its life, as the request that has it takes time too.
func (t *tokens) put(k tokenKey, header string, since time.Time, lifetime time.Duration) {
	if lifetime <= 0 {
		lifetime = defaultLifetime
	}
	lifetime = min(lifetime, maxLifetime)
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.kept) >= maxTokens {
		t.dropOldest()
	}
	t.kept[k] = token{header, since.Add(lifetime - lifetime/10)}
}

// dropOldest drops the token that expires first. mu is held.
func (t *tokens) dropOldest() {
	var first tokenKey
	var at time.Time
	for k, got := range t.kept {
		if at.IsZero() || got.expires.Before(at) {
			first, at = k, got.expires
		}
	}
	delete(t.kept, first)
}
