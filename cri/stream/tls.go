package stream

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// certificate serves the newest content of its two files, which are looked at
// with each new connection.
type certificate struct {
	cert, key string

	mu     sync.Mutex
	pair   *tls.Certificate // guarded by mu
	stamps [2]stamp         // guarded by mu: of the files when they were read last
}

// stamp tells one content of a file from the next.
type stamp struct {
	size int64
	at   time.Time
}

// newCertificate reads the files once, so that a mistake shows at the start.
func newCertificate(cert, key string) (*certificate, error) {
	c := &certificate{cert: cert, key: key}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.refreshLocked()
	return c, err
}

// config is how clients are spoken to. HTTP/2 is not offered: it has no
// upgrades.
func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: c.get}
}

func (c *certificate) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changed, err := c.refreshLocked(); changed && err != nil {
		// They are replaced one after the other: the former serves meanwhile.
		klog.FromContext(hello.Context()).Error(err, "The certificate of streams has changed and cannot be used; the former is")
	}
	return c.pair, nil
}

// refreshLocked reads the files if they have changed since it did so last.
func (c *certificate) refreshLocked() (changed bool, err error) {
	var now [2]stamp
	for i, file := range []string{c.cert, c.key} {
		st, err := os.Stat(file)
		if err != nil {
			return true, fmt.Errorf("cannot use TLS for streams: %w", err)
		}
		now[i] = stamp{st.Size(), st.ModTime()}
	}
	if now == c.stamps {
		return false, nil
	}
	c.stamps = now
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return true, fmt.Errorf("cannot use TLS for streams with %s and %s: %w", c.cert, c.key, err)
	}
	c.pair = &pair
	return true, nil
}
