package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/spdystream"
	"github.com/moby/spdystream/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

const (
	// Bounds of a control frame: it makes a stream, and says in three short
	// headers which. Compressed, a byte of it can stand for a thousand.
	maxControlFrame = 4 << 10
	maxHeaders      = 32
	maxHeaderField  = 1 << 10
	// maxDataFrame is what one data frame is cut to: it is held whole, and
	// spdystream queues up to 250 of a connection.
	maxDataFrame = 32 << 10
)

// upgradeSPDY answers a request with the connection below it. On an error the
// client has been told.
func upgradeSPDY(w http.ResponseWriter, r *http.Request, protocols []string) (nc net.Conn, protocol string, err error) {
	if !httpstream.IsUpgradeRequest(r) || !strings.EqualFold(r.Header.Get(httpstream.HeaderUpgrade), "SPDY/3.1") {
		const why = "this address is for SPDY/3.1 and WebSocket"
		http.Error(w, why, http.StatusBadRequest)
		return nil, "", errors.New(why)
	}
	if protocol, err = httpstream.Handshake(r, w, protocols); err != nil {
		return nil, "", err
	}
	w.Header().Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	w.Header().Set(httpstream.HeaderUpgrade, "SPDY/3.1")
	w.WriteHeader(http.StatusSwitchingProtocols)
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, "", err
	}
	return &readAhead{nc, rw.Reader}, protocol, nil
}

// readAhead is a connection of which r has read some already.
type readAhead struct {
	net.Conn
	r io.Reader
}

func (c *readAhead) Read(p []byte) (int, error) { return c.r.Read(p) }

// mux is the server's end of a SPDY connection.
//
// spdystream hands frames to five workers, and each waits for as long as
// nobody takes what it brings. So a mux keeps every stream that was admitted
// until it is dropped, and resets what it has when it is closed: the workers
// end then, and the connection's goroutines with them.
type mux struct {
	conn *spdystream.Connection
	nc   net.Conn
	use  streamUser

	mu     sync.Mutex
	open   map[*spdystream.Stream]bool // guarded by mu
	closed bool                        // guarded by mu
}

// streamUser is told of the streams that a client makes, by several
// goroutines. It must not wait.
type streamUser interface {
	// admit tells why a stream is not wanted, before the client knows of it.
	admit(s *spdystream.Stream) error
	// ready comes after admit, when the stream can be used.
	ready(s *spdystream.Stream)
}

// newMux serves nc, which is closed with the mux.
func newMux(nc net.Conn, use streamUser) (*mux, error) {
	conn, err := spdystream.NewConnectionWithOptions(&cutConn{Conn: nc, cutter: cutter{r: nc, most: maxDataFrame}}, true,
		spdy.WithMaxControlFramePayloadSize(maxControlFrame), spdy.WithMaxHeaderCount(maxHeaders), spdy.WithMaxHeaderFieldSize(maxHeaderField))
	if err != nil {
		return nil, fmt.Errorf("cannot speak SPDY: %w", err)
	}
	m := &mux{conn: conn, nc: nc, use: use, open: map[*spdystream.Stream]bool{}}
	go conn.Serve(m.incoming)
	return m, nil
}

func (m *mux) incoming(s *spdystream.Stream) {
	m.mu.Lock()
	closed := m.closed
	if !closed {
		m.open[s] = true
	}
	m.mu.Unlock()
	if closed || m.use.admit(s) != nil || s.SendReply(http.Header{}, false) != nil {
		m.drop(s)
		return
	}
	m.use.ready(s)
}

// drop resets a stream, unless it has been closed, and forgets it.
func (m *mux) drop(s *spdystream.Stream) {
	_ = s.Reset() // of a connection that may be gone
	m.mu.Lock()
	delete(m.open, s)
	m.mu.Unlock()
}

// end tells the client that nothing more will come, and gives it time to leave
// by itself: what it goes on sending to a closed connection would take the
// last of the output with it.
func (m *mux) end(ctx context.Context) {
	m.mu.Lock()
	open := slices.Collect(maps.Keys(m.open))
	m.mu.Unlock()
	for _, s := range open {
		_ = s.Close()
	}
	leave := time.NewTimer(goodbyeTime)
	defer leave.Stop()
	select {
	case <-m.conn.CloseChan():
	case <-ctx.Done():
	case <-leave.C:
	}
}

// close ends the connection and every stream of it, as often as it is called.
func (m *mux) close() {
	m.mu.Lock()
	m.closed = true
	open := m.open
	m.open = nil
	m.mu.Unlock()
	_ = m.nc.Close()
	for s := range open {
		_ = s.Reset()
	}
}

// The protocols of exec and attach, the best first. They differ in what the
// error stream carries, and in whether a terminal can be resized.
const (
	spdyV4 = "v4.channel.k8s.io"
	spdyV3 = "v3.channel.k8s.io"
	spdyV2 = "v2.channel.k8s.io"
	spdyV1 = "channel.k8s.io"
)

// The headers of a stream, and the kinds that exec and attach have.
const (
	headerKind = "Streamtype"
	kindError  = "error"
	kindStdin  = "stdin"
	kindStdout = "stdout"
	kindStderr = "stderr"
	kindResize = "resize"
)

// arrivals are the streams of an exec or attach, while they come.
type arrivals struct {
	came chan *spdystream.Stream // has room for one of each kind

	mu    sync.Mutex
	kinds map[string]bool // guarded by mu: true once a stream of it was admitted
}

func newArrivals() *arrivals {
	kinds := map[string]bool{kindError: false, kindStdin: false, kindStdout: false, kindStderr: false, kindResize: false}
	return &arrivals{came: make(chan *spdystream.Stream, len(kinds)), kinds: kinds}
}

func (a *arrivals) admit(s *spdystream.Stream) error {
	kind := s.Headers().Get(headerKind)
	a.mu.Lock()
	defer a.mu.Unlock()
	if taken, known := a.kinds[kind]; taken || !known {
		return errors.New("one of each kind is enough")
	}
	a.kinds[kind] = true
	return nil
}

func (a *arrivals) ready(s *spdystream.Stream) { a.came <- s }

// await returns the streams by kind when all that are wanted have come.
func (a *arrivals) await(ctx context.Context, gone <-chan bool, wanted []string) (map[string]*spdystream.Stream, error) {
	late := time.NewTimer(creationTimeout)
	defer late.Stop()
	got := map[string]*spdystream.Stream{}
	for {
		missing := 0
		for _, kind := range wanted {
			if got[kind] == nil {
				missing++
			}
		}
		if missing == 0 {
			return got, nil
		}
		select {
		case s := <-a.came:
			got[s.Headers().Get(headerKind)] = s
		case <-gone:
			return nil, errors.New("the client left before its streams had come")
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-late.C:
			return nil, fmt.Errorf("the client made %d of %d streams in %s", len(wanted)-missing, len(wanted), creationTimeout)
		}
	}
}

// overSPDY makes the client of an exec or attach that speaks SPDY. On an error
// it has been told, or is not there any more.
func overSPDY(w http.ResponseWriter, r *http.Request, want sides) (*remote, error) {
	nc, protocol, err := upgradeSPDY(w, r, []string{spdyV4, spdyV3, spdyV2, spdyV1})
	if err != nil {
		return nil, err
	}
	coming := newArrivals()
	m, err := newMux(nc, coming)
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	ctx, cancel := context.WithCancel(r.Context())
	// A client that says farewell is not read any more.
	go func() {
		select {
		case <-m.conn.CloseChan():
			cancel()
		case <-ctx.Done():
		}
	}()
	closeAll := func() { cancel(); m.close() }
	wanted := []string{kindError}
	for kind, is := range map[string]bool{kindStdin: want.Stdin, kindStdout: want.Stdout, kindStderr: want.Stderr,
		kindResize: want.TTY && (protocol == spdyV4 || protocol == spdyV3)} {
		if is {
			wanted = append(wanted, kind)
		}
	}
	got, err := coming.await(ctx, m.conn.CloseChan(), wanted)
	if err != nil {
		closeAll()
		return nil, err
	}
	// A nil stream in an interface would not be nil.
	st := streams{}
	if s := got[kindStdin]; s != nil {
		st.in = s
	}
	if s := got[kindStdout]; s != nil {
		st.out = s
	}
	if s := got[kindStderr]; s != nil {
		st.err = s
	}
	if s := got[kindResize]; s != nil {
		st.resize = s
	}
	tell := tellText
	if protocol == spdyV4 {
		tell = tellJSON
	}
	return &remote{ctx: ctx, streams: st, fail: got[kindError], tell: tell, end: func() { m.end(ctx) }, close: closeAll}, nil
}
