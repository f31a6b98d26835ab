package admin_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/pod"
)

// process is a session over a process of this machine.
type process struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	out, err io.ReadCloser
	ended    chan struct{}
}

func startProcess(cmd pod.Command, want pod.Stdio) (pod.Session, error) {
	p := &process{cmd: exec.Command(cmd.Args[0], cmd.Args[1:]...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Dir = cmd.Env, cmd.Dir
	if want.Stdin {
		p.in, _ = p.cmd.StdinPipe()
	}
	// Not StdoutPipe, which Wait closes before it is read.
	var theirs []*os.File
	for _, s := range []struct {
		wanted bool
		near   *io.ReadCloser
		far    *io.Writer
	}{{want.Stdout, &p.out, &p.cmd.Stdout}, {want.Stderr, &p.err, &p.cmd.Stderr}} {
		if s.wanted {
			r, w, err := os.Pipe()
			if err != nil {
				return nil, err
			}
			*s.near, *s.far, theirs = r, w, append(theirs, w)
		}
	}
	err := p.cmd.Start()
	for _, f := range theirs {
		_ = f.Close()
	}
	if err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // the state tells
		close(p.ended)
	}()
	return p, nil
}

func (p *process) Stdin() io.WriteCloser       { return p.in }
func (p *process) Stdout() io.ReadCloser       { return p.out }
func (p *process) Stderr() io.ReadCloser       { return p.err }
func (p *process) Resize(uint16, uint16) error { return nil }

func (p *process) Wait(ctx context.Context) (int32, error) {
	select {
	case <-p.ended:
		return int32(p.cmd.ProcessState.ExitCode()), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (p *process) Close() {
	for _, c := range []io.Closer{p.in, p.out, p.err} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// hear reads a session to its end.
func hear(t *testing.T, s *api.Session) (out, errs string, code int32) {
	t.Helper()
	var o, e strings.Builder
	for {
		f, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return o.String(), e.String(), code
		}
		if err != nil {
			t.Fatal(err)
		}
		switch f.Kind {
		case api.FrameStdout:
			o.Write(f.Data)
		case api.FrameStderr:
			e.Write(f.Data)
		case api.FrameExit:
			var x api.Exit
			if err := f.Decode(api.FrameExit, &x); err != nil {
				t.Fatal(err)
			}
			code = x.Code
		}
	}
}

func TestExecSession(t *testing.T) {
	c, _, _ := start(t)
	s, err := c.Exec(t.Context(), &api.ExecRequest{Container: "c", Args: []string{"sh", "-c", "cat; echo $A >&2; pwd; exit 7"}, Env: []string{"A=b", "PATH=/usr/bin:/bin"}, Dir: "/tmp", Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	typed := bytes.Repeat([]byte("0123456789"), api.MaxChunk/5) // more than a frame
	go func() {
		_, _ = s.Write(typed)
		_ = s.EndStdin()
	}()
	if out, errs, code := hear(t, s); out != string(typed)+"/tmp\n" || errs != "b\n" || code != 7 {
		t.Errorf("%d bytes, %q, %d", len(out), errs, code)
	}
	s, err = c.Attach(t.Context(), &api.AttachRequest{Container: "c", Stdin: true})
	if err != nil || !s.Stdin || s.TTY {
		t.Fatalf("%+v, %v", s, err)
	}
	_, _ = s.Write([]byte("x"))
	_ = s.EndStdin()
	if out, _, code := hear(t, s); out != "x" || code != 0 {
		t.Errorf("attached: %q, %d", out, code)
	}
	if _, err := c.Exec(t.Context(), &api.ExecRequest{Container: "c", Args: []string{"/no/such"}}); err == nil {
		t.Error("a program that does not exist runs")
	}
	if _, err := c.Attach(t.Context(), &api.AttachRequest{Container: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("attached to nothing: %v", err)
	}
}

// A command whose client leaves goes on, whatever it prints; one whose client
// vanishes meets a broken pipe. Nothing of either is kept.
func TestSessionsWithoutTheirClients(t *testing.T) {
	c, _, _ := start(t)
	done := filepath.Join(t.TempDir(), "done")
	if _, err := c.Info(t.Context()); err != nil { // the connection's goroutines are there now
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	s, err := c.Exec(t.Context(), &api.ExecRequest{Container: "c", Args: []string{"sh", "-c", "read x; seq 100000; echo $x >" + done}, Env: []string{"PATH=/usr/bin:/bin"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("word\n")); err != nil {
		t.Fatal(err)
	}
	if err := s.Leave(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command that was left ends", func() bool {
		b, err := os.ReadFile(done)
		return err == nil && string(b) == "word\n"
	})
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.Exec(ctx, &api.ExecRequest{Container: "c", Args: []string{"yes"}, Env: []string{"PATH=/usr/bin:/bin"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	eventually(t, "goroutines are as before", func() bool { return runtime.NumGoroutine() <= before })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("it never came so far that %s\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
