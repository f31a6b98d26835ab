package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// issuer is a token server, and registries that want the token it gave last
// for their repository, one for each name.
type issuer struct {
	realm *httptest.Server

	mu      sync.Mutex
	given   int             // tokens
	revoked map[string]bool // by header
	seen    map[string]bool // headers that any registry was sent
}

func newIssuer(t *testing.T, expiresIn string) *issuer {
	t.Helper()
	i := &issuer{revoked: map[string]bool{}, seen: map[string]bool{}}
	i.realm = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.given++
		_, _ = fmt.Fprintf(w, `{"token":"t%d"%s}`, i.given, expiresIn)
	}))
	t.Cleanup(i.realm.Close)
	return i
}

func (i *issuer) registry(t *testing.T) (host string) {
	t.Helper()
	reg := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		header := r.Header.Get("Authorization")
		i.seen[header] = true
		if !strings.HasPrefix(header, "Bearer t") || i.revoked[header] {
			w.Header().Set("Www-Authenticate", fmt.Sprintf("Bearer realm=%q,service=\"same\"", i.realm.URL))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"config":{},"layers":[]}`))
	}))
	t.Cleanup(reg.Close)
	return strings.TrimPrefix(reg.URL, "http://")
}

// fetch gets a manifest in a pull of its own.
func fetch(t *testing.T, c *Client, ref string, auth *Auth) {
	t.Helper()
	r, err := refs.Parse(ref, "")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := c.Repository(t.Context(), r, auth)
	if err == nil {
		_, err = repo.Manifest(t.Context(), "")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A token serves the pulls that come next, but only those for which the same
// would have been asked: of one registry, one repository, one caller.
func TestCREDTokensAreKeptForTheSameQuestion(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, `,"expires_in":300`)
	one, other := i.registry(t), i.registry(t)
	c := New(Config{})
	joe := &Auth{Username: "joe", Password: "x"}
	for n, step := range []struct {
		ref   string
		auth  *Auth
		given int // so far
	}{
		{one + "/a", nil, 1},
		{one + "/a:v2", nil, 1},
		{one + "/b", nil, 2},
		{one + "/a", joe, 3},
		{one + "/a", &Auth{Username: "joe", Password: "y"}, 4},
		{one + "/a", &Auth{IdentityToken: "x"}, 5},
		{other + "/a", joe, 6},
		{one + "/a", joe, 6},
	} {
		fetch(t, c, step.ref, step.auth)
		if i.given != step.given {
			t.Fatalf("step %d: %d tokens were asked for, want %d", n, i.given, step.given)
		}
	}
	fetch(t, New(Config{}), one+"/a", joe)
	if i.given != 7 {
		t.Error("another client had the token")
	}
}

func TestKeptTokenThatIsRefusedIsReplaced(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, `,"expires_in":300`)
	host := i.registry(t)
	c := New(Config{Retries: -1})
	fetch(t, c, host+"/a", nil)
	i.mu.Lock()
	i.revoked["Bearer t1"] = true
	i.mu.Unlock()
	fetch(t, c, host+"/a", nil)
	fetch(t, c, host+"/a", nil)
	if i.given != 2 {
		t.Errorf("%d tokens were asked for, want 2", i.given)
	}
	// Who refuses every token is asked with a fresh one once.
	i.mu.Lock()
	i.revoked["Bearer t2"], i.revoked["Bearer t3"], i.revoked["Bearer t4"] = true, true, true
	i.mu.Unlock()
	r, err := refs.Parse(host+"/a", "")
	if err != nil {
		t.Fatal(err)
	}
	repo, err := c.Repository(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Manifest(t.Context(), ""); !errkind.Is(err, errkind.PermissionDenied) || i.given != 3 {
		t.Errorf("got %v after %d tokens, want a refusal after 3", err, i.given)
	}
}

func TestTokensExpire(t *testing.T) {
	t.Parallel()
	for says, lasts := range map[string]time.Duration{
		``: 54 * time.Second, `,"expires_in":0`: 54 * time.Second, `,"expires_in":-5`: 54 * time.Second,
		`,"expires_in":300`: 270 * time.Second, `,"expires_in":"300"`: 270 * time.Second,
		`,"expires_in":1e99`: 54 * time.Second, `,"expires_in":99999999999999`: 54 * time.Minute,
	} {
		i := newIssuer(t, says)
		host := i.registry(t)
		c := New(Config{})
		now := time.Now()
		c.tokens.now = func() time.Time { return now }
		fetch(t, c, host+"/a", nil)
		now = now.Add(lasts - time.Second)
		fetch(t, c, host+"/a", nil)
		if i.given != 1 {
			t.Errorf("%q: not kept for %v", says, lasts)
		}
		now = now.Add(time.Second)
		fetch(t, c, host+"/a", nil)
		if i.given != 2 {
			t.Errorf("%q: kept for longer than %v", says, lasts)
		}
	}
}

func TestLIMTokens(t *testing.T) {
	t.Parallel()
	kept, now := newTokens(), time.Now()
	realm := &url.URL{Scheme: "https", Host: "a"}
	key := func(n int) tokenKey { return kept.key(realm, realm, fmt.Sprint(n), nil, nil) }
	for n := range 10000 {
		kept.put(key(n), fmt.Sprint(n), now, time.Minute+time.Duration(n))
	}
	if len(kept.kept) != maxTokens {
		t.Errorf("%d are kept", len(kept.kept))
	}
	if header, ok := kept.get(key(9999), ""); !ok || header != "9999" {
		t.Errorf("the newest is %q, %v", header, ok)
	}
	if _, ok := kept.get(key(0), ""); ok {
		t.Error("the oldest is kept")
	}
}
