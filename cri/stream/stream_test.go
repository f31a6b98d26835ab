package stream

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/websocket"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

var all = pod.Stdio{Stdin: true, Stdout: true, Stderr: true}

func url(t *testing.T) func(string, error) string {
	return func(url string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return url
	}
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestExecOverSPDY(t *testing.T) {
	for _, protocol := range []string{"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"} {
		t.Run(protocol, func(t *testing.T) {
			s, _ := start(t)
			c := upgrade(t, url(t)(s.Exec("id", []string{"sh", "-c", "cat; echo oops >&2; exit 3"}, all)), protocol)
			fail, in, out, err := c.stream(t, "error"), c.stream(t, "stdin"), c.stream(t, "stdout"), c.stream(t, "stderr")
			if _, err := io.WriteString(in, "typed\n"); err != nil {
				t.Fatal(err)
			}
			_ = in.Close()
			if got := readAll(t, out); got != "typed\n" {
				t.Errorf("stdout: %q", got)
			}
			if got := readAll(t, err); got != "oops\n" {
				t.Errorf("stderr: %q", got)
			}
			status := readAll(t, fail)
			if !strings.HasPrefix(protocol, "v4") {
				if !strings.Contains(status, "exit status 3") {
					t.Errorf("status: %q", status)
				}
				return
			}
			var v4 struct {
				Reason  string
				Details struct {
					Causes []struct{ Reason, Message string }
				}
			}
			if err := json.Unmarshal([]byte(status), &v4); err != nil || v4.Reason != "NonZeroExitCode" ||
				len(v4.Details.Causes) != 1 || v4.Details.Causes[0].Message != "3" {
				t.Errorf("status: %q, %v", status, err)
			}
		})
	}
}

func TestTerminalIsResized(t *testing.T) {
	s, h := start(t)
	c := upgrade(t, url(t)(s.Exec("id", []string{"cat"}, pod.Stdio{TTY: true, Stdin: true, Stdout: true})), "v4.channel.k8s.io")
	c.stream(t, "error")
	in, out, size := c.stream(t, "stdin"), c.stream(t, "stdout"), c.stream(t, "resize")
	if _, err := io.WriteString(size, `{"Width":111,"Height":33}`); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		got := h.size
		h.mu.Unlock()
		if got == "111x33" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("size: %q", got)
		}
	}
	_ = in.Close()
	_ = readAll(t, out)
}

// A WebSocket has every channel, asked for or not.
func TestExecOverWebSocket(t *testing.T) {
	s, _ := start(t)
	at := url(t)(s.Exec("id", []string{"sh", "-c", "cat; exit 3"}, pod.Stdio{Stdin: true, Stdout: true}))
	ws, err := websocket.Dial("ws"+strings.TrimPrefix(at, "http"), "v4.channel.k8s.io", "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	_ = ws.SetDeadline(time.Now().Add(20 * time.Second))
	if err := websocket.Message.Send(ws, append([]byte{0}, "typed\n"...)); err != nil {
		t.Fatal(err)
	}
	for {
		var frame []byte
		if err := websocket.Message.Receive(ws, &frame); err != nil {
			t.Fatal(err)
		}
		if string(frame) == "\x01typed\n" {
			break
		}
	}
	// Before v5 a client cannot end stdin but by leaving.
}

func TestATokenIsGoodOnce(t *testing.T) {
	s, _ := start(t)
	at := url(t)(s.Exec("id", []string{"true"}, all))
	if _, resp := visit(t, strings.Replace(at, "/exec/", "/attach/", 1), "GET", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("for another verb: %s", resp.Status)
	}
	if _, resp := visit(t, at, "GET", ""); resp.StatusCode == http.StatusNotFound {
		t.Errorf("the first visit, which is not to stream: %s", resp.Status)
	}
	if _, resp := visit(t, at, "GET", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("the second visit: %s", resp.Status)
	}
}

func TestTokensExpireAndAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ts tokens
		serve := func(http.ResponseWriter, *http.Request) error { return nil }
		var last string
		for range maxTokens {
			var err error
			if last, err = ts.put("/x/", serve); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ts.put("/x/", serve); errkind.Of(err) != errkind.ResourceExhausted {
			t.Errorf("one too many: %v", err)
		}
		time.Sleep(tokenTime + time.Second)
		if ts.take(last) != nil {
			t.Error("an old token is good")
		}
		if _, err := ts.put("/x/", serve); err != nil || len(ts.open) != 1 {
			t.Errorf("after a minute: %v, %d tokens", err, len(ts.open))
		}
	})
}

// The process is silent and lives on, so only the connection tells.
func TestClientsThatVanishLeaveNothing(t *testing.T) {
	silent := []string{"sleep", "1000"}
	for name, leave := range map[string]func(t *testing.T, s *Server){
		"before it comes": func(t *testing.T, s *Server) { url(t)(s.Exec("id", silent, all)) },
		"in silence": func(t *testing.T, s *Server) {
			c := upgrade(t, url(t)(s.Exec("id", silent, all)), "v4.channel.k8s.io")
			for _, kind := range []string{"error", "stdin", "stdout", "stderr"} {
				c.stream(t, kind)
			}
			c.die()
		},
		"while it is told much": func(t *testing.T, s *Server) {
			c := upgrade(t, url(t)(s.Exec("id", []string{"yes"}, pod.Stdio{Stdout: true})), "v4.channel.k8s.io")
			c.stream(t, "error")
			_, _ = io.ReadFull(c.stream(t, "stdout"), make([]byte, 1<<20))
			c.die()
		},
		"attached": func(t *testing.T, s *Server) {
			c := upgrade(t, url(t)(s.Attach("id", pod.Stdio{Stdin: true, Stdout: true})), "v4.channel.k8s.io")
			c.stream(t, "error")
			in, out := c.stream(t, "stdin"), c.stream(t, "stdout")
			_, _ = io.WriteString(in, "x")
			_, _ = io.ReadFull(out, make([]byte, 1))
			c.die()
		},
		"on a WebSocket": func(t *testing.T, s *Server) {
			at := url(t)(s.Exec("id", silent, all))
			ws, err := websocket.Dial("ws"+strings.TrimPrefix(at, "http"), "v4.channel.k8s.io", "http://localhost")
			if err != nil {
				t.Fatal(err)
			}
			_ = ws.Close()
		},
		"without a request": func(t *testing.T, s *Server) {
			socket, err := net.Dial("tcp", s.ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = socket.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := start(t)
			goroutines, descriptors := runtime.NumGoroutine(), openFiles(t)
			for range 20 {
				leave(t, s)
			}
			settled(t, goroutines, descriptors)
		})
	}
}

func TestCloseEndsSessions(t *testing.T) {
	s, _ := start(t)
	c := upgrade(t, url(t)(s.Exec("id", []string{"sleep", "1000"}, pod.Stdio{Stdout: true})), "v4.channel.k8s.io")
	fail, out := c.stream(t, "error"), c.stream(t, "stdout")
	s.Close(t.Context())
	_, _ = io.ReadAll(out)
	_, _ = io.ReadAll(fail)
	<-c.CloseChan()
}

// listen serves each connection with f until the test ends.
func listen(t *testing.T, f func(*net.TCPConn)) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				f(c.(*net.TCPConn))
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

// forward opens the two streams of one forwarded connection.
func (c *client) forward(t *testing.T, request, port int) (data io.ReadWriteCloser, fail io.ReadWriteCloser) {
	t.Helper()
	h := func(kind string) http.Header {
		return http.Header{"Streamtype": {kind}, "Port": {fmt.Sprint(port)}, "Requestid": {fmt.Sprint(request)}}
	}
	fail = c.streamOf(t, h("error"))
	return c.streamOf(t, h("data")), fail
}

func TestPortForward(t *testing.T) {
	// It answers when it has heard all: only a half-closed connection says so.
	port := listen(t, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		_, _ = c.Write([]byte(strings.ToUpper(string(b))))
	})
	// It ends its half first and hears on.
	early := listen(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "welcome")
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	s, _ := start(t)
	c := upgrade(t, url(t)(s.PortForward("pod", nil)), "portforward.k8s.io")
	for i := range 10 {
		data, fail := c.forward(t, i, port)
		_, _ = io.WriteString(data, "hello")
		_ = data.Close()
		if got := readAll(t, data); got != "HELLO" {
			t.Errorf("got %q", got)
		}
		if got := readAll(t, fail); got != "" {
			t.Errorf("error stream: %q", got)
		}
	}
	data, _ := c.forward(t, 100, early)
	if got := readAll(t, data); got != "welcome" {
		t.Errorf("got %q of a server that ends first", got)
	}
	_, fail := c.forward(t, 101, 1)
	if got, _ := io.ReadAll(fail); !strings.Contains(string(got), "refused") {
		t.Errorf("nobody listens: %q", got)
	}
	c.die()
}

func TestForwardedClientsThatVanish(t *testing.T) {
	heard, ended := make(chan struct{}), make(chan struct{})
	silent := listen(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		heard <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
		ended <- struct{}{}
	})
	s, _ := start(t)
	goroutines, descriptors := runtime.NumGoroutine(), openFiles(t)
	for range 20 {
		c := upgrade(t, url(t)(s.PortForward("pod", nil)), "portforward.k8s.io")
		data, _ := c.forward(t, 1, silent)
		_, _ = io.WriteString(data, "x")
		<-heard
		c.die()
		<-ended
	}
	settled(t, goroutines, descriptors)
}
