// Package stream serves what exec, attach and port-forward carry: bytes, both
// ways, for as long as somebody wants them.
//
// The model: a CRI call asks for a session here and gets a URL with a token;
// whoever connects to that URL within a minute, once, gets the session. The
// kubelet connects on behalf of its clients, crictl for itself. On the wire
// are SPDY (v1 to v4 of Kubernetes' protocols, and port-forward), WebSocket (v1,
// v4 and v5, each message of a channel) and, for port-forward, SPDY inside of
// WebSocket. What they have in common is remote: streams, and a last word.
//
// The law. A session ends with either side: when its process has ended and the
// client has all it wrote, or when the client is gone. Then nothing of it is
// left here. A command whose client is gone is not killed: it meets the end of
// its stdin, a broken pipe or a hung up terminal, as it would anywhere.
//
// Bounds. Whatever a client sends, a session holds a few MiB at most: SPDY's
// frames are cut, WebSocket's messages are passed on as they come, sizes of
// terminals are set one by one, and a process that does not read, or a client
// that does not, makes the other side wait. There are as many sessions as the
// configuration says, and a thousand tokens.
//
// k8s.io/cri-streaming is not used: its handlers wait for receivers that may
// have left, so that a client which ends in the wrong moment, or makes one
// stream too many, leaves goroutines behind for good.
//
// A token is all that a client needs. So without TLS the server is for
// addresses of this machine only.
package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// What a Config means that says nothing.
const (
	DefaultMaxSessions = 1000
	DefaultIdleTimeout = 4 * time.Hour
)

const (
	// creationTimeout is how long a client may take to make its streams.
	creationTimeout = 30 * time.Second
	// headerTimeout is how long a client may take to say what it wants.
	headerTimeout = 10 * time.Second
	// maxHeader bounds a request's header in bytes.
	maxHeader = 64 << 10
)

// Pods is what sessions need of the pods domain; *pod.Table has it.
type Pods interface {
	ExecStream(ctx context.Context, v pod.View, id string, args []string, want pod.Stdio) (pod.Session, error)
	AttachStream(ctx context.Context, v pod.View, id string, want pod.Stdio) (pod.Session, error)
	// PortForward connects to a port inside the pod.
	PortForward(ctx context.Context, v pod.View, podID string, port uint16) (net.Conn, error)
}

// Config is what a Server is made from.
type Config struct {
	Address string // such as 127.0.0.1:0

	// Cert and Key are files in PEM that TLS uses, and reads again when they
	// change; both empty: no TLS.
	Cert, Key string

	MaxSessions int           // 0: DefaultMaxSessions
	IdleTimeout time.Duration // ends a connection on which nothing is said; 0: DefaultIdleTimeout
}

// Server hands out URLs and serves what is behind them. Listen comes before
// all other methods.
type Server struct {
	cfg    Config
	pods   Pods
	http   *http.Server
	ln     net.Listener
	scheme string // of the URLs
	tokens tokens

	mu       sync.Mutex
	closed   bool           // guarded by mu
	conns    map[*conn]bool // guarded by mu: all that are open
	open     int            // guarded by mu: sessions
	sessions sync.WaitGroup // Add is guarded by mu and !closed
}

// New makes a Server.
func New(pods Pods, cfg Config) *Server {
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = DefaultMaxSessions
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = DefaultIdleTimeout
	}
	s := &Server{cfg: cfg, pods: pods, scheme: "http", conns: map[*conn]bool{}}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       headerTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       s.connContext,
		ConnState:         s.connState,
	}
	return s
}

// Listen binds the address.
func (s *Server) Listen(ctx context.Context) error {
	var secure *tls.Config
	if s.cfg.Cert != "" {
		pair, err := newCertificate(s.cfg.Cert, s.cfg.Key)
		if err != nil {
			return err
		}
		secure, s.scheme = pair.config(), "https"
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Address)
	if err != nil {
		return fmt.Errorf("cannot listen for streams on %s: %w", s.cfg.Address, err)
	}
	s.ln = listener{ln, s}
	if secure != nil {
		s.ln = tls.NewListener(s.ln, secure)
	}
	return nil
}

// Serve serves until Close, and then returns nil.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve streams: %w", err)
	}
	return nil
}

// Close ends the listener and every session, and waits for them until ctx is
// done.
func (s *Server) Close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	conns := s.conns
	s.conns = map[*conn]bool{}
	s.mu.Unlock()
	_ = s.http.Close()
	if s.ln != nil {
		_ = s.ln.Close() // in case that it was never served
	}
	for c := range conns {
		_ = c.Close()
	}
	ended := make(chan struct{})
	go func() {
		s.sessions.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// Exec gives the URL of a command in a container. The ids given here and below
// are whole, and whoever asks has been found to see the object.
func (s *Server) Exec(id string, args []string, want pod.Stdio) (string, error) {
	return s.command("exec", want, func(ctx context.Context, st streams) error {
		session, err := s.pods.ExecStream(ctx, pod.ViewAll, id, args, want)
		if err != nil {
			return err
		}
		return exitError(carry(ctx, session, st.only(want)))
	})
}

// Attach gives the URL of a running container's first process.
func (s *Server) Attach(id string, want pod.Stdio) (string, error) {
	return s.command("attach", want, func(ctx context.Context, st streams) error {
		session, err := s.pods.AttachStream(ctx, pod.ViewAll, id, want)
		if err != nil {
			return err
		}
		_, err = carry(ctx, session, st.only(want))
		return err
	})
}

func (s *Server) command(verb string, want pod.Stdio, run func(context.Context, streams) error) (string, error) {
	return s.url(verb, func(w http.ResponseWriter, r *http.Request) error {
		client, err := connect(w, r, want)
		if err != nil {
			return err
		}
		client.serve(run)
		return nil
	})
}

// PortForward gives the URL of a pod's ports. A client that uses channels of a
// WebSocket is given those named here, all others name them themselves.
func (s *Server) PortForward(podID string, ports []int32) (string, error) {
	dial := func(ctx context.Context, port uint16) (net.Conn, error) {
		return s.pods.PortForward(ctx, pod.ViewAll, podID, port)
	}
	return s.url("portforward", func(w http.ResponseWriter, r *http.Request) error {
		return servePorts(w, r, dial, ports)
	})
}

// handler serves one session. Its error says why none began, and the client
// has been told or is gone.
type handler func(http.ResponseWriter, *http.Request) error

// url keeps a session for whoever comes with its token.
func (s *Server) url(verb string, serve handler) (string, error) {
	path, err := "", s.room()
	if err == nil {
		path, err = s.tokens.put("/"+verb+"/", serve)
	}
	if err != nil {
		return "", fmt.Errorf("cannot offer a stream to %s: %w", verb, err)
	}
	return s.scheme + "://" + s.ln.Addr().String() + path, nil
}

// room tells whether another session may begin.
func (s *Server) room() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roomLocked()
}

func (s *Server) roomLocked() error {
	if s.open >= s.cfg.MaxSessions {
		return errkind.New(errkind.ResourceExhausted, "%d sessions are open, as many as stream.max_sessions allows", s.open)
	}
	return nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	session := s.tokens.take(r.URL.Path)
	if session == nil {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	err := s.roomLocked()
	if s.closed {
		err = errors.New("the server is stopping")
	}
	if err != nil {
		s.mu.Unlock()
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	s.open++
	s.sessions.Add(1)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.open--
		s.mu.Unlock()
		s.sessions.Done()
	}()
	defer s.release(r)
	if err := session(w, r); err != nil {
		klog.FromContext(r.Context()).V(4).Info("No stream began", "why", err)
	}
}
