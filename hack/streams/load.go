// Package streams loads the streaming server of a lab with clients that leave
// at every stage of a session, and counts what daemon and shim hold.
//
// A client is the bytes of one: SPDY or WebSocket on a socket of its own, which
// it closes in order, without a word, or with a reset.
package streams

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// Counts are numbers of sessions.
type Counts struct{ Exec, Attach, Forward int }

// parallel is how many clients there are at a time.
const parallel = 8

// patience bounds every wait of a client.
const patience = time.Minute

// page is what the pod's server answers.
const page = "hello from the pod\n"

// Load is a pod with what clients reach into.
type Load struct {
	lab    *lab.Lab
	pod    string
	shell  string // a container that runs until it is stopped
	echo   string // one that says what it is told
	client criv1.RuntimeServiceClient
}

// Prepare runs the pod. The lab has been started, with a registry.
func Prepare(ctx context.Context, l *lab.Lab) (*Load, error) {
	shell, err := testimage.Shell()
	if err != nil {
		return nil, err
	}
	web, err := testimage.Web(page)
	if err != nil {
		return nil, err
	}
	shellRef, webRef := l.Registry+"/streams-shell:1", l.Registry+"/streams-web:1"
	if _, err := testimage.Push(ctx, shellRef, shell); err != nil {
		return nil, err
	}
	if _, err := testimage.Push(ctx, webRef, web); err != nil {
		return nil, err
	}
	for _, ref := range []string{shellRef, webRef} {
		if _, err := l.Pull(ctx, ref); err != nil {
			return nil, err
		}
	}
	s := &Load{lab: l, client: criv1.NewRuntimeServiceClient(l.Conn())}
	config := l.PodConfig("streams")
	if s.pod, s.shell, err = l.RunPod(ctx, config, lab.ContainerConfig("shell", shellRef, "sleep", "100000")); err != nil {
		return nil, err
	}
	echo := lab.ContainerConfig("echo", shellRef, "sh", "-c", "while read line; do echo got $line; done")
	echo.Stdin = true
	for _, c := range []*criv1.ContainerConfig{echo, lab.ContainerConfig("web", webRef)} {
		created, err := s.client.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: s.pod, Config: c, SandboxConfig: config})
		if err != nil {
			return nil, err
		}
		if _, err := s.client.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
			return nil, err
		}
		if c == echo {
			s.echo = created.ContainerId
		}
	}
	// The web server may be a moment away.
	return s, lab.Eventually(ctx, patience, func() error { return s.visit(ctx, forward, visit{stage: ended}) })
}

// stage is where a client leaves.
type stage int

const (
	ended     stage = iota // when it has all that there is
	connected              // with half a request
	asked                  // without hearing the answer
	upgraded               // before its streams
	begun                  // with one stream of several
	silent                 // with all streams
	talking                // with data under way in both directions
	broken                 // in the middle of a frame
	stages
)

// kind is what a session is for.
type kind string

const (
	exec    kind = "exec"
	attach  kind = "attach"
	forward kind = "port-forward"
)

// visit is how a client behaves.
type visit struct {
	stage     stage
	websocket bool
	reset     bool // it leaves with a RST
	tty       bool // of an exec
}

// nth makes every combination come as often as any other.
func nth(n int) visit {
	return visit{stage: stage(n % int(stages)), websocket: n/int(stages)%2 == 1, reset: n/int(stages)/2%2 == 1, tty: n/int(stages)/4%4 == 3}
}

// Run makes that many sessions. An error is of a session that was to be whole,
// or was refused; each says which it was.
func (s *Load) Run(ctx context.Context, c Counts) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, of := range []struct {
		kind  kind
		count int
	}{{exec, c.Exec}, {attach, c.Attach}, {forward, c.Forward}} {
		var next atomic.Int64
		for range parallel {
			g.Go(func() error {
				for ctx.Err() == nil {
					n := int(next.Add(1)) - 1
					if n >= of.count {
						return nil
					}
					if err := s.visit(ctx, of.kind, nth(n)); err != nil {
						return fmt.Errorf("%s %d (%+v): %w", of.kind, n, nth(n), err)
					}
				}
				return ctx.Err()
			})
		}
	}
	return g.Wait()
}

// visit makes one session.
func (s *Load) visit(ctx context.Context, k kind, v visit) error {
	v.tty = v.tty && k == exec
	at, err := s.offer(ctx, k, v)
	if err != nil {
		return err
	}
	if v.stage == connected {
		// A token that nobody uses counts for a minute: this one stays to the end.
		if err := knock(ctx, at, v); err != nil {
			return err
		}
		v.stage = ended
	}
	nc, err := dial(ctx, at)
	if err != nil {
		return err
	}
	defer leave(nc, v.reset && v.stage != ended)
	if v.websocket {
		return overWebSocket(ctx, nc, at, k, v)
	}
	return overSPDY(nc, at, k, v)
}

// offer asks for a session's address.
func (s *Load) offer(ctx context.Context, k kind, v visit) (*url.URL, error) {
	var at string
	switch k {
	case exec:
		r, err := s.client.Exec(ctx, &criv1.ExecRequest{ContainerId: s.shell, Cmd: []string{"cat"}, Tty: v.tty, Stdin: true, Stdout: true})
		if err != nil {
			return nil, err
		}
		at = r.Url
	case attach:
		r, err := s.client.Attach(ctx, &criv1.AttachRequest{ContainerId: s.echo, Stdin: true, Stdout: true})
		if err != nil {
			return nil, err
		}
		at = r.Url
	case forward:
		r, err := s.client.PortForward(ctx, &criv1.PortForwardRequest{PodSandboxId: s.pod, Port: []int32{80}})
		if err != nil {
			return nil, err
		}
		at = r.Url
	}
	return url.Parse(at)
}

// knock sends half a request without a token.
func knock(ctx context.Context, at *url.URL, v visit) error {
	nc, err := dial(ctx, at)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(nc, "POST /exec/none HTTP/1.1\r\nHost: %s\r\nConn", at.Host)
	leave(nc, v.reset)
	return err
}

func dial(ctx context.Context, at *url.URL) (net.Conn, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", at.Host)
	if err != nil {
		return nil, err
	}
	return nc, nc.SetDeadline(time.Now().Add(patience))
}

// leave ends a client, with a RST or with a FIN.
func leave(nc net.Conn, reset bool) {
	if t, ok := nc.(*tunnel); ok {
		nc = t.nc
	}
	if tcp, ok := nc.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	_ = nc.Close()
}

// answered collects what has come on a stream, for whoever waits for a text.
type answered struct {
	mu   sync.Mutex
	cond *sync.Cond
	text []byte
	over bool
}

func newAnswered() *answered {
	a := &answered{}
	a.cond = sync.NewCond(&a.mu)
	return a
}

func (a *answered) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.text = append(a.text, p...)
	a.cond.Broadcast()
	return len(p), nil
}

// end says that nothing more will come.
func (a *answered) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	a.cond.Broadcast()
}

// await returns when enough says so of what has come; errShort if that cannot be.
func (a *answered) await(enough func(text string, over bool) bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !enough(string(a.text), a.over) {
		if a.over {
			return fmt.Errorf("%w: %q", errShort, a.text)
		}
		a.cond.Wait()
	}
	return nil
}

var errShort = errors.New("the answer ended early")
