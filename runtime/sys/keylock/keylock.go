// Package keylock gives one mutex a key, for keys that come and go.
package keylock

import "sync"

// Locks is a set of mutexes by key. The zero value is ready to use. A key's
// mutex exists only while somebody holds or awaits it.
type Locks struct {
	mu   sync.Mutex
	keys map[string]*entry // guarded by mu
}

type entry struct {
	mu   sync.Mutex
	refs int // holders and waiters; guarded by Locks.mu
}

// Lock locks key and returns the function that unlocks it.
func (l *Locks) Lock(key string) (unlock func()) {
	l.mu.Lock()
	if l.keys == nil {
		l.keys = make(map[string]*entry)
	}
	e := l.keys[key]
	if e == nil {
		e = &entry{}
		l.keys[key] = e
	}
	e.refs++
	l.mu.Unlock()

	e.mu.Lock()
	return func() {
		e.mu.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if e.refs--; e.refs == 0 {
			delete(l.keys, key)
		}
	}
}
