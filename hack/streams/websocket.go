package streams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// overWebSocket is one client that speaks WebSocket: channels with their fifth
// protocol, or SPDY inside.
func overWebSocket(ctx context.Context, nc net.Conn, at *url.URL, k kind, v visit) error {
	if v.stage == asked {
		_, err := fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n", at.Path, at.Host)
		return err
	}
	protocol := "v5.channel.k8s.io"
	if k == forward {
		protocol = "SPDY/3.1+portforward.k8s.io"
	}
	dialer := websocket.Dialer{
		Subprotocols:   []string{protocol},
		NetDialContext: func(context.Context, string, string) (net.Conn, error) { return nc, nil },
	}
	ws, resp, err := dialer.DialContext(ctx, "ws://"+at.Host+at.Path, nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	_ = nc.SetDeadline(time.Now().Add(patience)) // the dialer has taken it away
	if ws.Subprotocol() != protocol {
		return fmt.Errorf("the protocol is %q", ws.Subprotocol())
	}
	if v.stage == upgraded || v.stage == begun && k != forward {
		return nil // the channels are there from the start
	}
	if k == forward {
		return speakSPDY(&tunnel{Conn: ws, nc: nc}, k, v)
	}
	if v.stage == silent {
		return nil
	}
	return channels(ws, nc, k, v)
}

// channels talks on the channels of exec and attach.
func channels(ws *websocket.Conn, nc net.Conn, k kind, v visit) error {
	out, fail := newAnswered(), newAnswered()
	go func() {
		defer out.end()
		defer fail.end()
		for {
			_, message, err := ws.ReadMessage()
			switch {
			case err != nil:
				return
			case len(message) > 1 && message[0] == 1:
				_, _ = out.Write(message[1:])
			case len(message) > 1 && message[0] == 3:
				_, _ = fail.Write(message[1:])
			}
		}
	}()
	if v.tty {
		_ = ws.WriteMessage(websocket.BinaryMessage, []byte("\x04"+`{"Width":80,"Height":24}`))
	}
	return talk(k, v, speech{
		out:  out,
		send: func(s string) error { return ws.WriteMessage(websocket.BinaryMessage, []byte("\x00"+s)) },
		end:  func() error { return ws.WriteMessage(websocket.BinaryMessage, []byte{255, 0}) },
		tear: func() error { return tearWebSocket(nc) },
		word: func() (word string, err error) {
			err = fail.await(func(text string, over bool) bool { word = text; return over })
			return word, err
		},
	})
}

// tearWebSocket sends the head of a frame of stdin and little of what it
// announces: 2^20 bytes, with a mask of zeroes.
func tearWebSocket(nc net.Conn) error {
	head := []byte{0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0}
	_, err := nc.Write(append(head, "\x00half"...))
	return err
}

// tunnel is a WebSocket as the connection that SPDY is spoken on.
type tunnel struct {
	*websocket.Conn
	nc   net.Conn
	rest bytes.Reader
	mu   sync.Mutex
}

func (t *tunnel) Read(p []byte) (int, error) {
	for t.rest.Len() == 0 {
		_, message, err := t.ReadMessage()
		if err != nil {
			return 0, io.EOF
		}
		t.rest.Reset(message)
	}
	return t.rest.Read(p)
}

func (t *tunnel) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(p), t.WriteMessage(websocket.BinaryMessage, p)
}

func (t *tunnel) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}
