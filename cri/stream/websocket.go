package stream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// The protocols of exec and attach on a WebSocket. From the fourth on the
// error channel carries JSON; the fifth alone can end stdin. Those without a
// name are the first, as is that of a client that asks for none.
const (
	wsV5       = "v5.channel.k8s.io"
	wsV4       = "v4.channel.k8s.io"
	wsV4Base64 = "v4.base64.channel.k8s.io"
	wsV1       = "channel.k8s.io"
	wsV1Base64 = "base64.channel.k8s.io"
	wsTunnel   = "SPDY/3.1+portforward.k8s.io"
)

// The channels of exec and attach.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelError
	channelResize
	channelCount
)

// closeSignal in the place of a channel's number means that the channel named
// by the next byte, which is the last, has ended.
const closeSignal = 255

// upgradeWebSocket answers a request. On an error the client has been told.
func upgradeWebSocket(w http.ResponseWriter, r *http.Request, protocols []string) (*websocket.Conn, error) {
	asked := websocket.Subprotocols(r)
	if len(asked) > 0 && !slices.ContainsFunc(asked, func(p string) bool { return slices.Contains(protocols, p) }) {
		why := fmt.Sprintf("none of the protocols %q is among %q", asked, protocols)
		http.Error(w, why, http.StatusForbidden)
		return nil, errors.New(why)
	}
	up := websocket.Upgrader{
		Subprotocols: protocols,
		// Whoever knows the token may come, from a page of any origin: no
		// credential that a browser keeps is asked for.
		CheckOrigin: func(*http.Request) bool { return true },
	}
	return up.Upgrade(w, r, nil)
}

// channels are the streams of a WebSocket: each message is of the one that its
// first byte names. Messages are passed on as they come, so that one of any
// length takes no more memory than a short one; and there is one reader for
// all, which waits for whoever reads a channel.
type channels struct {
	ws    *websocket.Conn
	coded bool             // numbers are digits, data is base64
	ends  bool             // closeSignal is known
	in    []*io.PipeWriter // by number; nil for those on which the client says nothing
	heard []*io.PipeReader // the other ends of in
	done  chan struct{}    // closed when nothing more can come

	mu  sync.Mutex
	out []byte // guarded by mu: the message being written
}

// newChannels makes as many channels as hear has elements; those that are true
// there can be read. The caller starts run.
func newChannels(ws *websocket.Conn, hear ...bool) *channels {
	protocol := ws.Subprotocol()
	c := &channels{ws: ws, coded: strings.Contains(protocol, "base64."), ends: protocol == wsV5,
		in: make([]*io.PipeWriter, len(hear)), heard: make([]*io.PipeReader, len(hear)), done: make(chan struct{})}
	for i, is := range hear {
		if is {
			c.heard[i], c.in[i] = io.Pipe()
		}
	}
	return c
}

// run reads until the connection ends or breaks the protocol.
func (c *channels) run() {
	defer close(c.done)
	defer func() {
		for _, w := range c.in {
			if w != nil {
				_ = w.Close()
			}
		}
	}()
	var buf [4 << 10]byte
	for {
		_, r, err := c.ws.NextReader()
		if err != nil {
			return
		}
		if err := c.message(r, buf[:]); err != nil {
			c.bye(websocket.CloseProtocolError, err.Error())
			return
		}
	}
}

// message passes one message on. An error is a breach of the protocol; what
// else can fail fails again at the next message.
func (c *channels) message(r io.Reader, buf []byte) error {
	n, _ := io.ReadFull(r, buf[:1])
	if n == 0 {
		return nil // some send empty ones to see whether we live
	}
	number := int(buf[0])
	if c.ends && number == closeSignal {
		n, _ = io.ReadFull(r, buf[:2])
		if n != 1 || int(buf[0]) >= len(c.in) {
			return errors.New("a close signal is followed by the number of a channel, and no more")
		}
		if w := c.in[buf[0]]; w != nil {
			_ = w.Close()
		}
		return nil
	}
	if c.coded {
		number -= '0'
		r = base64.NewDecoder(base64.StdEncoding, r)
	}
	if number < 0 || number >= len(c.in) || c.in[number] == nil {
		return nil // the next message begins after this one
	}
	// Without the types' own ways to copy, which take a buffer of 32 KiB each time.
	_, err := io.CopyBuffer(struct{ io.Writer }{c.in[number]}, struct{ io.Reader }{r}, buf)
	var corrupt base64.CorruptInputError
	if errors.As(err, &corrupt) {
		return fmt.Errorf("channel %d: %w", number, err)
	}
	return nil
}

// write sends p on a channel.
func (c *channels) write(number int, p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.coded {
		c.out = append(c.out[:0], byte('0'+number))
		c.out = base64.StdEncoding.AppendEncode(c.out, p)
		return c.ws.WriteMessage(websocket.TextMessage, c.out)
	}
	c.out = append(c.out[:0], byte(number))
	c.out = append(c.out, p...)
	return c.ws.WriteMessage(websocket.BinaryMessage, c.out)
}

func (c *channels) bye(code int, why string) {
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, why), time.Now().Add(goodbyeTime))
}

// deafen makes run throw away whatever comes.
func (c *channels) deafen() {
	for _, r := range c.heard {
		if r != nil {
			_ = r.Close()
		}
	}
}

// end says goodbye and waits for the client to leave.
func (c *channels) end() {
	c.deafen()
	c.bye(websocket.CloseNormalClosure, "")
	leave := time.NewTimer(goodbyeTime)
	defer leave.Stop()
	select {
	case <-c.done:
	case <-leave.C:
	}
}

// channel is the way out on one of channels.
type channel struct {
	c      *channels
	number int
}

func (w channel) Write(p []byte) (int, error) {
	if err := w.c.write(w.number, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close does nothing: no protocol has an end of what the server says.
func (channel) Close() error { return nil }

// overWebSocket makes the client of an exec or attach that speaks WebSocket,
// which has every channel from the start.
func overWebSocket(w http.ResponseWriter, r *http.Request, want sides) (*remote, error) {
	ws, err := upgradeWebSocket(w, r, []string{wsV5, wsV4, wsV4Base64, wsV1, wsV1Base64})
	if err != nil {
		return nil, err
	}
	hear := make([]bool, channelCount)
	hear[channelStdin], hear[channelResize] = want.Stdin, want.TTY
	c := newChannels(ws, hear...)
	ctx, cancel := context.WithCancel(r.Context())
	go func() {
		c.run()
		cancel()
	}()
	var st streams
	if want.Stdin { // a nil pointer in an interface would not be nil
		st.in = c.heard[channelStdin]
	}
	if want.TTY {
		st.resize = c.heard[channelResize]
	}
	first := channelError
	if want.Stderr {
		st.err, first = channel{c, channelStderr}, channelStderr
	}
	if want.Stdout {
		st.out, first = channel{c, channelStdout}, channelStdout
	}
	// Clients wait for an empty message as the sign that they are connected.
	_ = c.write(first, nil)
	tell := tellText
	if p := ws.Subprotocol(); p == wsV5 || p == wsV4 || p == wsV4Base64 {
		tell = tellJSON
	}
	return &remote{ctx: ctx, streams: st, fail: channel{c, channelError}, tell: tell, end: c.end,
		close: func() { cancel(); c.deafen(); _ = ws.Close() }}, nil
}

// tunnel is a WebSocket as the connection that SPDY is spoken on.
type tunnel struct {
	*websocket.Conn
	r  io.Reader // of the message being read; only Read uses it
	mu sync.Mutex
}

func (t *tunnel) Read(p []byte) (n int, err error) {
	for {
		if t.r == nil {
			if _, t.r, err = t.NextReader(); err != nil {
				return 0, err
			}
		}
		n, err = t.r.Read(p)
		if err == io.EOF { //nolint:errorlint // the contract of io.Reader
			t.r, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (t *tunnel) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (t *tunnel) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

// Close says goodbye if there is room for that at once.
func (t *tunnel) Close() error {
	_ = t.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(100*time.Millisecond))
	return t.Conn.Close()
}
