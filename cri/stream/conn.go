package stream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
)

// conn tells when its other side is gone. net/http promises to watch a
// connection only until SPDY or WebSocket takes it over; from then on their
// read loops, which run all the time, are how anyone could know. A session
// that waits for a silent process would otherwise wait for nobody.
type conn struct {
	net.Conn
	server *Server
	gone   context.CancelFunc // ends the context of the connection's requests
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.gone()
	}
	return n, err
}

func (c *conn) Close() error {
	c.gone()
	c.server.mu.Lock()
	delete(c.server.taken, c)
	c.server.mu.Unlock()
	return c.Conn.Close()
}

// listener makes conns.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

// connKey finds the *conn in a request's context.
type connKey struct{}

// connContext gives every request of a connection a context that ends with it.
// It runs before anything is read.
func (s *Server) connContext(ctx context.Context, nc net.Conn) context.Context {
	c := nc.(*conn)
	c.server = s
	ctx, c.gone = context.WithCancel(context.WithValue(ctx, connKey{}, c))
	return ctx
}

// connState notes the connections that net/http will not close any more.
func (s *Server) connState(nc net.Conn, state http.ConnState) {
	if state != http.StateHijacked {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = nc.(*conn).Conn.Close() // its reader hears of it
		return
	}
	s.taken[nc.(*conn)] = true
}

// release closes a connection that was taken over: the library does so for a
// session that began, but not for one whose streams never came.
func (s *Server) release(r *http.Request) {
	c := r.Context().Value(connKey{}).(*conn)
	s.mu.Lock()
	taken := s.taken[c]
	s.mu.Unlock()
	if taken {
		_ = c.Close()
	}
}
