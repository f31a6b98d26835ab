// Package stream serves what exec, attach and port-forward carry: bytes, both
// ways, for as long as somebody wants them.
//
// The model: a CRI call asks for a session here and gets a URL with a token;
// whoever connects to that URL within a minute, once, gets the session. The
// kubelet connects on behalf of its clients, crictl for itself. On the wire
// are SPDY (v1 to v4) and WebSocket (v4), which k8s.io/cri-streaming speaks;
// here are tokens, connections and the copying between streams and the
// descriptors of package pod.
//
// The law. A session ends with either side: when its process has ended and the
// client has all it wrote, or when the client is gone. Then nothing of it is
// left here. A command whose client is gone is not killed: it meets the end of
// its stdin, a broken pipe or a hung up terminal, as it would anywhere.
//
// A token is all that a client needs, and the connection is not encrypted. So
// the server listens on loopback only.
package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/berth-runtime/berth/runtime/pod"
)

const (
	// idleTimeout ends a connection on which nothing was said.
	idleTimeout = 4 * time.Hour
	// creationTimeout is how long a client may take to make its streams.
	creationTimeout = remotecommand.DefaultStreamCreationTimeout
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

// Server hands out URLs and serves what is behind them. Listen comes before
// all other methods.
type Server struct {
	pods   Pods
	http   *http.Server
	ln     net.Listener
	tokens tokens

	mu       sync.Mutex
	closed   bool           // guarded by mu
	taken    map[*conn]bool // guarded by mu: connections that are net/http's no more
	sessions sync.WaitGroup // Add is guarded by mu and !closed
}

// New makes a Server.
func New(pods Pods) *Server {
	s := &Server{pods: pods, taken: map[*conn]bool{}}
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

// Listen binds the address, such as 127.0.0.1:0.
func (s *Server) Listen(ctx context.Context, address string) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("cannot listen for streams on %s: %w", address, err)
	}
	s.ln = listener{ln}
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
// done: one whose streams have not all come yet ends at its own time.
func (s *Server) Close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	taken := s.taken
	s.taken = map[*conn]bool{}
	s.mu.Unlock()
	_ = s.http.Close()
	if s.ln != nil {
		_ = s.ln.Close() // in case that it was never served
	}
	for c := range taken {
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
	run := executor(func(ctx context.Context, st streams) error {
		session, err := s.pods.ExecStream(ctx, pod.ViewAll, id, args, want)
		if err != nil {
			return err
		}
		return exitError(carry(ctx, session, st.only(want)))
	})
	return s.url("exec", func(w http.ResponseWriter, r *http.Request) {
		remotecommand.ServeExec(w, r, run, "", "", id, args, options(want),
			idleTimeout, creationTimeout, remotecommand.SupportedStreamingProtocols)
	})
}

// Attach gives the URL of a running container's first process.
func (s *Server) Attach(id string, want pod.Stdio) (string, error) {
	run := executor(func(ctx context.Context, st streams) error {
		session, err := s.pods.AttachStream(ctx, pod.ViewAll, id, want)
		if err != nil {
			return err
		}
		_, err = carry(ctx, session, st.only(want))
		return err
	})
	return s.url("attach", func(w http.ResponseWriter, r *http.Request) {
		remotecommand.ServeAttach(w, r, run, "", "", id, options(want),
			idleTimeout, creationTimeout, remotecommand.SupportedStreamingProtocols)
	})
}

// PortForward gives the URL of a pod's ports. A WebSocket client is given
// those named here, a SPDY client names them itself.
func (s *Server) PortForward(podID string, ports []int32) (string, error) {
	return s.url("portforward", func(w http.ResponseWriter, r *http.Request) {
		forward := forwarder(func(port uint16, client duplex) error {
			// The library's context is nobody's; the connection's ends with it.
			conn, err := s.pods.PortForward(r.Context(), pod.ViewAll, podID, port)
			if err != nil {
				return err
			}
			return splice(r.Context(), conn, client)
		})
		portforward.ServePortForward(w, r, forward, podID, "", &portforward.V4Options{Ports: ports},
			idleTimeout, creationTimeout, portforward.SupportedProtocols)
	})
}

func options(want pod.Stdio) *remotecommand.Options {
	return &remotecommand.Options{Stdin: want.Stdin, Stdout: want.Stdout, Stderr: want.Stderr, TTY: want.TTY}
}

// url keeps a session for whoever comes with its token.
func (s *Server) url(verb string, serve http.HandlerFunc) (string, error) {
	path, err := s.tokens.put("/"+verb+"/", serve)
	if err != nil {
		return "", fmt.Errorf("cannot offer a stream to %s: %w", verb, err)
	}
	return "http://" + s.ln.Addr().String() + path, nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	session := s.tokens.take(r.URL.Path)
	if session == nil {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		http.Error(w, "the server is stopping", http.StatusServiceUnavailable)
		return
	}
	s.sessions.Add(1)
	s.mu.Unlock()
	defer s.sessions.Done()
	session(w, r)
	s.release(r)
}
