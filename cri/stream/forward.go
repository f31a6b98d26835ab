package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/moby/spdystream"
)

// The headers of the two streams of a forwarded connection.
const (
	spdyForward   = "portforward.k8s.io"
	headerPort    = "Port"
	headerRequest = "Requestid"
	kindData      = "data"
)

// maxForwards bounds the connections that one client has forwarded at a time.
const maxForwards = 512

// maxRequestID bounds the name of a forwarded connection, in bytes.
const maxRequestID = 64

// dialer connects to a port of the pod.
type dialer func(ctx context.Context, port uint16) (net.Conn, error)

// duplex is the client's side of a forwarded connection.
type duplex interface {
	io.Reader
	io.WriteCloser // Close ends this half alone
	Reset() error  // ends both, and every Read
}

// forward serves one connection to a port, and says on fail what went wrong.
func (dial dialer) forward(ctx context.Context, port uint16, client duplex, fail io.Writer) error {
	server, err := dial(ctx, port)
	if err == nil {
		err = splice(ctx, server, client)
	}
	if err != nil && ctx.Err() == nil {
		_, _ = io.WriteString(fail, err.Error())
	}
	return err
}

// servePorts answers a request for a port-forward. The ports are those that
// the CRI call named: only clients that use channels of a WebSocket need them,
// the others name a port with each connection.
func servePorts(w http.ResponseWriter, r *http.Request, dial dialer, ports []int32) error {
	if !websocket.IsWebSocketUpgrade(r) {
		nc, _, err := upgradeSPDY(w, r, []string{spdyForward})
		if err != nil {
			return err
		}
		return serveForwards(r.Context(), nc, dial)
	}
	ws, err := upgradeWebSocket(w, r, []string{wsTunnel, wsV4, wsV4Base64})
	if err != nil {
		return err
	}
	if ws.Subprotocol() == wsTunnel {
		return serveForwards(r.Context(), &tunnel{Conn: ws}, dial)
	}
	servePortChannels(r.Context(), ws, dial, ports)
	return nil
}

// serveForwards forwards what a client asks for on a SPDY connection until it
// leaves.
func serveForwards(ctx context.Context, nc net.Conn, dial dialer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &forwards{ctx: ctx, dial: dial, pairs: map[string]*pair{}}
	// The first frames may come before newMux has returned.
	f.mu.Lock()
	m, err := newMux(nc, f)
	f.mux = m
	f.mu.Unlock()
	if err != nil {
		return errors.Join(err, nc.Close())
	}
	select {
	case <-m.conn.CloseChan():
	case <-ctx.Done():
	}
	cancel()
	m.close()
	f.close()
	return nil
}

// forwards are the connections that one client has forwarded.
type forwards struct {
	ctx  context.Context // of the client
	dial dialer

	mu      sync.Mutex
	mux     *mux             // guarded by mu
	pairs   map[string]*pair // guarded by mu: by request, until they have ended
	closed  bool             // guarded by mu
	running sync.WaitGroup   // Add is guarded by mu and !closed
}

// pair are the two streams of a forwarded connection.
type pair struct {
	port       uint16
	data, fail *spdystream.Stream // guarded by forwards.mu; nil until admitted
	usable     int                // guarded by forwards.mu: how many of them
	late       *time.Timer
}

func (f *forwards) admit(s *spdystream.Stream) error {
	h := s.Headers()
	port, err := strconv.ParseUint(h.Get(headerPort), 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("%q is not a port", h.Get(headerPort))
	}
	id := h.Get(headerRequest)
	if id == "" || len(id) > maxRequestID {
		return fmt.Errorf("a request needs a name of at most %d bytes", maxRequestID)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pairs[id]
	switch {
	case f.closed:
		return errors.New("the connection is closed")
	case p == nil && len(f.pairs) >= maxForwards:
		return fmt.Errorf("%d connections are forwarded already", maxForwards)
	case p == nil:
		p = &pair{port: uint16(port)}
	case p.port != uint16(port):
		return fmt.Errorf("request %s is for port %d", id, p.port)
	}
	switch kind := h.Get(headerKind); {
	case kind == kindData && p.data == nil:
		p.data = s
	case kind == kindError && p.fail == nil:
		p.fail = s
	default:
		return fmt.Errorf("request %s has no use for a stream of kind %q", id, kind)
	}
	if f.pairs[id] == nil {
		f.pairs[id] = p
		p.late = time.AfterFunc(creationTimeout, func() { f.expire(id, p) })
	}
	return nil
}

func (f *forwards) ready(s *spdystream.Stream) {
	id := s.Headers().Get(headerRequest)
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pairs[id]
	if p == nil || f.closed {
		return // too late; its streams are being dropped
	}
	p.usable++
	if p.usable == 2 {
		p.late.Stop()
		f.running.Go(func() { f.run(id, p) })
	}
}

// run carries one connection.
func (f *forwards) run(id string, p *pair) {
	if err := f.dial.forward(f.ctx, p.port, p.data, p.fail); err != nil {
		_ = p.fail.Close()
		_ = p.data.Reset()
	}
	_ = p.data.Close()
	_ = p.fail.Close()
	f.forget(id, p)
}

// expire gives up a connection of which one stream never came.
func (f *forwards) expire(id string, p *pair) {
	f.mu.Lock()
	begun := p.usable == 2
	f.mu.Unlock()
	if !begun {
		f.forget(id, p)
	}
}

func (f *forwards) forget(id string, p *pair) {
	f.mu.Lock()
	delete(f.pairs, id)
	m, streams := f.mux, []*spdystream.Stream{p.data, p.fail}
	f.mu.Unlock()
	for _, s := range streams {
		if s != nil {
			m.drop(s)
		}
	}
}

// close waits for the connections, which end with the client's.
func (f *forwards) close() {
	f.mu.Lock()
	f.closed = true
	for _, p := range f.pairs {
		p.late.Stop()
	}
	f.mu.Unlock()
	f.running.Wait()
}

// servePortChannels forwards one connection to each port: two channels each,
// for data and for errors, both of which begin with the port's number.
func servePortChannels(ctx context.Context, ws *websocket.Conn, dial dialer, ports []int32) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { _ = ws.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = ws.Close() })
	defer stop()
	c := newChannels(ws, slices.Repeat([]bool{true, false}, len(ports))...)
	defer c.deafen()
	go func() {
		c.run()
		cancel()
	}()
	var all sync.WaitGroup
	for i, port := range ports {
		all.Go(func() {
			data, fail := channel{c, 2 * i}, channel{c, 2*i + 1}
			number := binary.LittleEndian.AppendUint16(nil, uint16(port))
			for _, ch := range []channel{data, fail} {
				if _, err := ch.Write(number); err != nil {
					return
				}
			}
			_ = dial.forward(ctx, uint16(port), both{c.heard[2*i], data}, fail) // the client was told
		})
	}
	all.Wait()
	if ctx.Err() == nil {
		c.end()
	}
}

// both are the two directions of a channel.
type both struct {
	io.ReadCloser
	channel
}

// Close ends the half that has no end on a channel.
func (b both) Close() error { return b.channel.Close() }

// Reset lets what still comes be thrown away.
func (b both) Reset() error { return b.ReadCloser.Close() }

// lingerTime is how long a client may be silent that could go on sending to a
// server which has ended its own side: few have more to say, and none is told
// that it could stop.
const lingerTime = 5 * time.Second

// splice copies both ways until both sides have ended theirs, or ctx is done.
// It closes server.
func splice(ctx context.Context, server net.Conn, client duplex) error {
	defer func() { _ = server.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	sent := make(chan struct{})
	heard := make(chan struct{}, 1)
	go func() {
		defer close(sent)
		_, _ = io.Copy(server, noting{client, heard}) // what fails here fails below too
		if half, ok := server.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err := io.Copy(client, server)
	if ctx.Err() != nil {
		return nil // the client is gone: there is nobody to tell
	}
	_ = client.Close() // its half
	linger := time.NewTimer(lingerTime)
	defer linger.Stop()
	for {
		select {
		case <-sent:
			return err
		case <-ctx.Done():
			return err
		case <-heard:
			linger.Reset(lingerTime)
		case <-linger.C:
			// A read of the stream ends no other way while the connection lives.
			_ = client.Reset()
			return err
		}
	}
}

// noting tells of each read that brought something.
type noting struct {
	io.Reader
	heard chan<- struct{}
}

func (r noting) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	select {
	case r.heard <- struct{}{}:
	default:
	}
	return n, err
}
