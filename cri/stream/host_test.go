package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/berth-runtime/berth/runtime/pod"
)

// host is a pods domain whose one container and one pod are this machine.
type host struct {
	mu   sync.Mutex
	size string // guarded by mu: the last that a terminal was given
}

func (h *host) ExecStream(_ context.Context, _ pod.View, _ string, args []string, want pod.Stdio) (pod.Session, error) {
	p := &process{host: h, cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})}
	var theirs []*os.File
	pipe := func(wanted bool) (r, w *os.File) {
		if wanted {
			r, w, _ = os.Pipe()
		}
		return r, w
	}
	if r, w := pipe(want.Stdin); r != nil {
		p.in, p.cmd.Stdin, theirs = w, r, append(theirs, r)
	}
	if r, w := pipe(want.Stdout); r != nil {
		p.out, p.cmd.Stdout, theirs = r, w, append(theirs, w)
	}
	if r, w := pipe(want.Stderr); r != nil {
		p.err, p.cmd.Stderr, theirs = r, w, append(theirs, w)
	}
	err := p.cmd.Start()
	for _, f := range theirs {
		_ = f.Close()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // the state tells
		close(p.ended)
	}()
	return p, nil
}

func (h *host) AttachStream(ctx context.Context, v pod.View, id string, want pod.Stdio) (pod.Session, error) {
	return h.ExecStream(ctx, v, id, []string{"cat"}, want)
}

func (h *host) PortForward(ctx context.Context, _ pod.View, _ string, port uint16) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// process is a session over a process of this machine.
type process struct {
	host     *host
	cmd      *exec.Cmd
	in       io.WriteCloser
	out, err io.ReadCloser
	ended    chan struct{}
}

func (p *process) Stdin() io.WriteCloser { return p.in }
func (p *process) Stdout() io.ReadCloser { return p.out }
func (p *process) Stderr() io.ReadCloser { return p.err }

func (p *process) Resize(columns, rows uint16) error {
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	p.host.size = fmt.Sprintf("%dx%d", columns, rows)
	return nil
}

func (p *process) Wait(ctx context.Context) (int32, error) {
	select {
	case <-p.ended:
		return int32(p.cmd.ProcessState.ExitCode()), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Close ends the process too, unlike a container's: so what is left after a
// client tells whether its session was closed.
func (p *process) Close() {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
	}
	for _, c := range []io.Closer{p.in, p.out, p.err} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// start serves host until the test ends, and proves then that no goroutine and
// no descriptor is left.
func start(t *testing.T) (*Server, *host) {
	t.Helper()
	return startWith(t, Config{})
}

func startWith(t *testing.T, cfg Config) (*Server, *host) {
	t.Helper()
	cfg.Address = "127.0.0.1:0"
	goroutines, descriptors := runtime.NumGoroutine(), openFiles(t)
	h := &host{}
	s := New(h, cfg)
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		s.Close(ctx)
		if err := errors.Join(<-served, ctx.Err()); err != nil {
			t.Error(err)
		}
		settled(t, goroutines, descriptors)
	})
	return s, h
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// settled waits until there are no more goroutines and descriptors than that.
func settled(t *testing.T, goroutines, descriptors int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		g, d := runtime.NumGoroutine(), openFiles(t)
		if g <= goroutines && d <= descriptors {
			return
		}
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines and %d descriptors, not %d and %d\n%s", g, d, goroutines, descriptors, stacks[:runtime.Stack(stacks, true)])
			return
		}
	}
}

// client is a SPDY connection and the socket below it.
type client struct {
	httpstream.Connection
	socket   net.Conn
	protocol string
}

// die ends the client without a word.
func (c *client) die() {
	_ = c.socket.Close()
	_ = c.Close()
}

// upgrade visits url and speaks SPDY from then on.
func upgrade(t *testing.T, url, protocol string) *client {
	t.Helper()
	socket, resp := visit(t, url, "POST", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: "+protocol+"\r\n")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s: %s", url, resp.Status)
	}
	conn, err := spdy.NewClientConnection(socket)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{conn, socket, resp.Header.Get("X-Stream-Protocol-Version")}
	t.Cleanup(c.die)
	return c
}

// visit sends one request and returns the connection as it is after the answer.
func visit(t *testing.T, url, method, headers string) (net.Conn, *http.Response) {
	t.Helper()
	address, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	socket, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	if _, err := fmt.Fprintf(socket, "%s /%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", method, path, address, headers); err != nil {
		t.Fatal(err)
	}
	// No further than the answer: what follows is not HTTP.
	resp, err := http.ReadResponse(bufio.NewReaderSize(oneByOne{socket}, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	return socket, resp
}

// oneByOne never reads ahead.
type oneByOne struct{ io.Reader }

func (r oneByOne) Read(p []byte) (int, error) { return r.Reader.Read(p[:1]) }

// stream opens a stream of that type.
func (c *client) stream(t *testing.T, kind string) httpstream.Stream {
	t.Helper()
	return c.streamOf(t, http.Header{"Streamtype": {kind}})
}

func (c *client) streamOf(t *testing.T, h http.Header) httpstream.Stream {
	t.Helper()
	s, err := c.CreateStream(h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
