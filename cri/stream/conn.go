package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stallTime is how long nobody may read a connection before it is looked
// whether the other side is still there.
const stallTime = 5 * time.Second

// conn tells when its other side is gone. net/http promises to watch a
// connection only until SPDY or WebSocket takes it over; from then on their
// read loops are how anyone could know. A session that waits for a silent
// process would otherwise wait for nobody. A loop that waits for a process to
// take its stdin does not read: then the kernel is asked from time to time.
type conn struct {
	net.Conn
	server *Server
	ctx    context.Context // ends when the other side is gone
	gone   context.CancelFunc

	taken   atomic.Bool // by a session, and no more net/http's
	closed  atomic.Bool
	reading atomic.Bool
	stalled *time.Timer // while taken and not reading
	idle    *time.Timer // while taken
}

func (c *conn) Read(p []byte) (int, error) {
	taken := c.taken.Load()
	if taken {
		c.reading.Store(true)
		c.stalled.Stop()
	}
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.gone()
	}
	if taken {
		c.reading.Store(false)
		c.rearm(c.stalled, stallTime)
		c.rearm(c.idle, c.server.cfg.IdleTimeout)
	}
	return n, err
}

// Write tells of a client that is gone before its caller can go on: SPDY's
// streams wait forever for an answer that could not be sent.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.gone()
	}
	if c.taken.Load() {
		c.rearm(c.idle, c.server.cfg.IdleTimeout)
	}
	return n, err
}

// rearm starts a timer anew, unless the connection is closed.
func (c *conn) rearm(t *time.Timer, d time.Duration) {
	t.Reset(d)
	if c.closed.Load() {
		t.Stop()
	}
}

func (c *conn) Close() error {
	c.gone()
	c.closed.Store(true)
	if c.taken.Load() {
		c.stalled.Stop()
		c.idle.Stop()
	}
	c.server.forget(c)
	return c.Conn.Close()
}

// take makes the connection a session's.
func (c *conn) take() {
	c.idle = time.AfterFunc(c.server.cfg.IdleTimeout, func() { _ = c.Close() })
	c.stalled = time.AfterFunc(stallTime, c.look)
	c.taken.Store(true)
}

// look ends a connection that nobody reads and whose other side is gone.
func (c *conn) look() {
	switch {
	case c.reading.Load():
	case hungUp(c.Conn):
		_ = c.Close()
	default:
		c.rearm(c.stalled, stallTime)
	}
}

// hungUp tells whether the other side has closed the connection, even with
// bytes before that to be read.
func hungUp(nc net.Conn) (gone bool) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	err = rc.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n > 0
	})
	return gone || err != nil
}

// listener makes conns, as many at a time as there may be.
type listener struct {
	net.Listener
	server *Server
}

func (l listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: nc, server: l.server}
		c.ctx, c.gone = context.WithCancel(context.Background())
		if l.server.remember(c) {
			return c, nil
		}
		_ = c.Close()
	}
}

// inner is the conn that net/http's connection is, or is encrypted on.
func inner(nc net.Conn) *conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	return nc.(*conn)
}

// connKey finds the *conn in a request's context.
type connKey struct{}

// connContext gives every request of a connection a context that ends with it.
// It runs before anything is read.
func (s *Server) connContext(ctx context.Context, nc net.Conn) context.Context {
	c := inner(nc)
	ctx, cancel := context.WithCancel(context.WithValue(ctx, connKey{}, c))
	context.AfterFunc(c.ctx, cancel)
	return ctx
}

// connState notes the connections that net/http will not close any more.
func (s *Server) connState(nc net.Conn, state http.ConnState) {
	if state == http.StateHijacked {
		inner(nc).take()
	}
}

// release closes a connection that was taken over: no path may leave it.
func (s *Server) release(r *http.Request) {
	if c := r.Context().Value(connKey{}).(*conn); c.taken.Load() {
		_ = c.Close()
	}
}

// spareConns is how many connections there may be beyond the sessions: of
// clients whose request is still coming, or being refused.
const spareConns = 64

// remember counts a connection, unless there are too many or the server is
// closed.
func (s *Server) remember(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.cfg.MaxSessions+spareConns {
		return false
	}
	s.conns[c] = true
	return true
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}
