package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/spdystream/spdy"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// T-LIM, for clients of streams. A few MiB is what a session may hold.
const mostHeld = 24 << 20

// held watches by how much the heap grows; the returned function ends that and
// fails the test for too much.
func held(t *testing.T) func() {
	t.Helper()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, most := m.HeapAlloc, uint64(0)
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	return func() {
		t.Helper()
		close(stop)
		watch.Wait()
		if most > before+mostHeld {
			t.Errorf("%d KiB were held", (most-before)>>10)
		}
	}
}

// TestMoreSessionsThanAllowed asks ten thousand times when there is a session
// already, of which one is allowed; comes with all tokens that were given out
// before it began, and with more connections than there may be.
func TestMoreSessionsThanAllowed(t *testing.T) {
	s, _ := startWith(t, Config{MaxSessions: 1})
	var early []string
	for range maxTokens {
		early = append(early, url(t)(s.Exec("id", []string{"cat"}, all)))
	}
	c := upgrade(t, early[0], "v4.channel.k8s.io")
	c.stream(t, "error")
	enough := held(t)
	for range 10_000 {
		if _, err := s.Exec("id", []string{"cat"}, all); errkind.Of(err) != errkind.ResourceExhausted {
			t.Fatalf("one too many: %v", err)
		}
	}
	for _, at := range early[1:] {
		socket, resp := visit(t, at, "POST", "Connection: close\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n")
		_ = socket.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("one too many: %s", resp.Status)
		}
	}
	var idle []net.Conn
	for range 10 * spareConns {
		socket, err := net.Dial("tcp", s.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, socket)
	}
	// The last one is closed at once, not when it has said nothing for long.
	_ = idle[len(idle)-1].SetReadDeadline(time.Now().Add(headerTimeout / 2))
	if _, err := idle[len(idle)-1].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection too many stands: %v", err)
	}
	for _, socket := range idle {
		_ = socket.Close()
	}
	enough()
	// The one there is works, and makes room when it ends.
	in, out := c.stream(t, "stdin"), c.stream(t, "stdout")
	c.stream(t, "stderr")
	_, _ = io.WriteString(in, "still here")
	_ = in.Close()
	if got := readAll(t, out); got != "still here" {
		t.Errorf("the first session: %q", got)
	}
	c.die()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := s.Exec("id", []string{"true"}, all)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after its end: %v", err)
		}
	}
}

// zeros are what the longest frame of SPDY holds: made before a test watches the
// heap, which would count them.
var zeros = make([]byte, 1<<24-1)

// TestFramesBeyondBounds sends what a SPDY client must not, to a process that
// reads nothing.
func TestFramesBeyondBounds(t *testing.T) {
	for name, send := range map[string]func(t *testing.T, c *client, stdin uint32) error{
		"data without end": func(_ *testing.T, c *client, stdin uint32) error {
			longest := len(zeros)
			head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, stdin), uint32(longest))
			_ = c.socket.SetWriteDeadline(time.Now().Add(time.Second))
			for range 10_000 * maxDataFrame / longest {
				_, err := c.socket.Write(head)
				if err == nil {
					_, err = c.socket.Write(zeros)
				}
				if err != nil {
					if errors.Is(err, os.ErrDeadlineExceeded) {
						return nil // it waits, as it must
					}
					return err
				}
			}
			return errors.New("the process took 300 MB that it never read")
		},
		"a control frame that never ends": func(_ *testing.T, c *client, _ uint32) error {
			frame := []byte{0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff}
			return flood(c.socket, append(frame, make([]byte, 1<<20)...))
		},
		"headers out of a bomb": func(t *testing.T, c *client, _ uint32) error {
			var bomb bytes.Buffer
			framer, err := spdy.NewFramer(&bomb, &bomb)
			if err != nil {
				t.Fatal(err)
			}
			if err := framer.WriteFrame(&spdy.SynStreamFrame{StreamId: 101, Headers: http.Header{"Streamtype": {strings.Repeat("x", 10_000*maxHeaderField)}}}); err != nil {
				t.Fatal(err)
			}
			return flood(c.socket, bomb.Bytes())
		},
		"streams that nobody wants": func(t *testing.T, c *client, _ uint32) error {
			var many bytes.Buffer
			framer, err := spdy.NewFramer(&many, &many)
			if err != nil {
				t.Fatal(err)
			}
			for n := range 10_000 {
				if err := framer.WriteFrame(&spdy.SynStreamFrame{StreamId: spdy.StreamId(101 + 2*n), Headers: http.Header{"Streamtype": {"unknown"}}}); err != nil {
					t.Fatal(err)
				}
			}
			_ = c.socket.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.socket.Write(many.Bytes()) // it may be cut off meanwhile
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := start(t)
			c := upgrade(t, url(t)(s.Exec("id", []string{"sleep", "1000"}, all)), "v4.channel.k8s.io")
			c.stream(t, "error")
			in := c.stream(t, "stdin")
			c.stream(t, "stdout")
			c.stream(t, "stderr")
			enough := held(t)
			if err := send(t, c, in.Identifier()); err != nil {
				t.Error(err)
			}
			enough()
		})
	}
}

// flood sends what must end the connection.
func flood(nc net.Conn, frame []byte) error {
	_ = nc.SetWriteDeadline(time.Now().Add(20 * time.Second))
	for {
		if _, err := nc.Write(frame); errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("the connection stands")
		} else if err != nil {
			return nil
		}
	}
}

// TestSizesBeyondBounds sends ten thousand sizes of a terminal, and one of ten
// thousand times the length.
func TestSizesBeyondBounds(t *testing.T) {
	s, h := start(t)
	c := upgrade(t, url(t)(s.Exec("id", []string{"cat"}, pod.Stdio{TTY: true, Stdin: true, Stdout: true})), "v4.channel.k8s.io")
	c.stream(t, "error")
	in, out, size := c.stream(t, "stdin"), c.stream(t, "stdout"), c.stream(t, "resize")
	enough := held(t)
	for n := range 10_000 {
		if _, err := fmt.Fprintf(size, `{"Width":%d,"Height":33}`, n); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		got := h.size
		h.mu.Unlock()
		if got == "9999x33" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("size: %q", got)
		}
	}
	long := append([]byte(`{"Width":`), bytes.Repeat([]byte(" "), 1<<20)...)
	for range 10_000 * maxResize >> 20 {
		if _, err := size.Write(long); err != nil {
			break
		}
	}
	_, _ = io.WriteString(in, "still here")
	_ = in.Close()
	if got := readAll(t, out); got != "still here" {
		t.Errorf("after a size that never ends: %q", got)
	}
	enough()
}

// TestMessageBeyondBounds sends one message of WebSocket that announces a
// terabyte, and goes on for ten thousand times what is read at once.
func TestMessageBeyondBounds(t *testing.T) {
	s, _ := start(t)
	const sent = 10_000 * 32 << 10
	at := url(t)(s.Exec("id", []string{"sh", "-c", fmt.Sprintf("head -c %d | wc -c", sent)}, pod.Stdio{Stdin: true, Stdout: true}))
	nc, resp := visit(t, at, "GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+
		"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\nOrigin: http://localhost\r\n")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	enough := held(t)
	frame := binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, 1<<40)
	frame = append(frame, 0, 0, 0, 0, 0) // no mask, and stdin's channel
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	if _, err := nc.Write(frame); err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, 1<<20)
	for n := 0; n < sent; n += len(piece) {
		if _, err := nc.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	var got []byte
	for buf := make([]byte, 1<<10); !bytes.Contains(got, fmt.Append(nil, sent)); {
		n, err := nc.Read(buf)
		if err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		got = append(got, buf[:n]...)
	}
	enough()
}
