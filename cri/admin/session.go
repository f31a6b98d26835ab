package admin

import (
	"context"
	"io"
	"sync"

	"google.golang.org/grpc"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// wire is a session's stream of frames.
type wire = grpc.BidiStreamingServer[api.Frame, api.Frame]

// Exec starts a process in a container and carries its stdio.
//
// The command line does not take CRI's way, whose request has no variables, no
// directory and no user, and whose URL with a token on loopback is one more
// door: what may use this socket is root already.
func (s *Server) Exec(stream wire) error {
	var r api.ExecRequest
	if err := firstFrame(stream, &r); err != nil {
		return err
	}
	cmd := pod.Command{Args: r.Args, Env: r.Env, Dir: r.Dir, User: r.User}
	want := pod.Stdio{TTY: r.TTY, Stdin: r.Stdin, Stdout: true, Stderr: !r.TTY}
	session, err := s.cfg.Pods.ExecCommand(stream.Context(), pod.ViewAll, r.Container, cmd, want)
	if err != nil {
		return err
	}
	return carry(stream, session, api.Opened{TTY: r.TTY, Stdin: r.Stdin}, kept)
}

// Attach joins the first process of a container.
func (s *Server) Attach(stream wire) error {
	var r api.AttachRequest
	if err := firstFrame(stream, &r); err != nil {
		return err
	}
	c, err := s.cfg.Pods.Container(pod.ViewAll, r.Container)
	if err != nil {
		return err
	}
	session, err := s.cfg.Pods.AttachStream(stream.Context(), pod.ViewAll, c.ID, pod.Stdio{Stdin: r.Stdin, Stdout: true, Stderr: !c.Config.TTY})
	if err != nil {
		return err
	}
	return carry(stream, session, api.Opened{TTY: c.Config.TTY, Stdin: r.Stdin && session.Stdin() != nil}, closed)
}

func firstFrame(stream wire, request any) error {
	f, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := f.Decode(api.FrameOpen, request); err != nil {
		return errkind.New(errkind.InvalidArgument, "%v", err)
	}
	return nil
}

// afterwards is what becomes of a session whose client leaves the process.
type afterwards int

const (
	closed afterwards = iota // the process is the container's and needs nobody
	kept                     // until the process ends, whose stdio would end with it
)

// carry copies between a process and its client until one of them is gone, or
// the client leaves.
func carry(stream wire, session pod.Session, opened api.Opened, then afterwards) error {
	first, err := api.Message(api.FrameOpened, opened)
	if err == nil {
		err = stream.Send(first)
	}
	if err != nil {
		session.Close()
		return err
	}
	t := &talk{stream: stream}
	left := make(chan struct{})
	go func() { // ends with the stream, which ends with the method
		if t.listen(session) == api.FrameDetach {
			close(left)
		}
	}()
	var outputs sync.WaitGroup
	outputs.Go(func() { t.tell(api.FrameStdout, session.Stdout()) })
	outputs.Go(func() { t.tell(api.FrameStderr, session.Stderr()) })
	waiting, stop := context.WithCancel(context.WithoutCancel(stream.Context()))
	type end struct {
		code int32
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := session.Wait(waiting)
		ended <- end{code, err}
	}()
	finish := func() {
		stop()
		session.Close()
		outputs.Wait()
	}
	select {
	case e := <-ended:
		outputs.Wait()
		finish()
		return t.end(e.code, e.err)
	case <-left:
		t.leave()
		if then == closed {
			finish()
			return nil
		}
		go func() {
			<-ended
			finish()
		}()
		return nil
	case <-stream.Context().Done():
		finish() // there is nobody to tell
		return stream.Context().Err()
	}
}

// talk is what passes on a session's stream.
type talk struct {
	stream wire

	mu   sync.Mutex // a stream takes one message at a time
	left bool       // guarded by mu; nothing is sent any more
}

// listen hands on what the client sends, until it is gone or leaves; the kind
// of the last frame tells which.
func (t *talk) listen(session pod.Session) api.FrameKind {
	in := session.Stdin()
	for {
		f, err := t.stream.Recv()
		if err != nil {
			return 0
		}
		switch f.Kind {
		case api.FrameStdin:
			if in != nil {
				_, _ = in.Write(f.Data) // what has ended reads no more
			}
		case api.FrameStdinEnd:
			if in != nil {
				_ = in.Close()
			}
		case api.FrameResize:
			var size api.Size
			if f.Decode(api.FrameResize, &size) == nil {
				_ = session.Resize(size.Columns, size.Rows) // of a process that may have ended
			}
		case api.FrameDetach:
			return f.Kind
		}
	}
}

// tell sends what the process writes, to the end of it. When the client takes
// no more, the process hears of it.
func (t *talk) tell(kind api.FrameKind, out io.ReadCloser) {
	if out == nil {
		return
	}
	buf := make([]byte, api.MaxChunk/4)
	for {
		n, err := out.Read(buf)
		if n > 0 {
			if serr := t.send(&api.Frame{Kind: kind, Data: buf[:n]}); serr != nil {
				_ = out.Close()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// send throws away what is for a client that has left.
func (t *talk) send(f *api.Frame) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left {
		return nil
	}
	return t.stream.Send(f)
}

// end tells how the process ended, as the last word.
func (t *talk) end(code int32, err error) error {
	if err != nil {
		return err
	}
	last, err := api.Message(api.FrameExit, api.Exit{Code: code})
	if err != nil {
		return err
	}
	return t.send(last)
}

func (t *talk) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left = true
}
