package stream

import (
	"crypto/rand"
	"sync"
	"time"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const (
	// tokenTime is how long a token is good for.
	tokenTime = time.Minute
	// maxTokens bounds those that nobody has come with yet.
	maxTokens = 1000
)

// tokens are the paths that are good for one visit each. The zero value is
// empty and ready.
type tokens struct {
	mu   sync.Mutex
	open map[string]offer // guarded by mu
}

// offer is what a visitor gets.
type offer struct {
	serve handler
	until time.Time
}

// put returns a path below prefix that nobody can guess.
func (t *tokens) put(prefix string, serve handler) (path string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.open == nil {
		t.open = map[string]offer{}
	}
	for path, o := range t.open {
		if now.After(o.until) {
			delete(t.open, path)
		}
	}
	if len(t.open) >= maxTokens {
		return "", errkind.New(errkind.ResourceExhausted, "%d others wait for their clients", maxTokens)
	}
	path = prefix + rand.Text()
	t.open[path] = offer{serve: serve, until: now.Add(tokenTime)}
	return path, nil
}

// take returns what is at path and forgets it; nil if there is nothing.
func (t *tokens) take(path string) handler {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.open[path]
	delete(t.open, path)
	if !ok || time.Now().After(o.until) {
		return nil
	}
	return o.serve
}
