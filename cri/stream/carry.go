package stream

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/berth-runtime/berth/runtime/pod"
)

// streams are the client's side of a session.
type streams struct {
	in       io.Reader
	out, err io.WriteCloser
	sizes    <-chan remotecommand.TerminalSize
}

// only drops the streams that were not asked for: a WebSocket has all of them.
func (s streams) only(want pod.Stdio) streams {
	if !want.Stdin {
		s.in = nil
	}
	if !want.Stdout {
		s.out = nil
	}
	if !want.Stderr {
		s.err = nil
	}
	return s
}

// executor is the session behind a URL, as the library calls it. It knows its
// container and command already.
type executor func(context.Context, streams) error

// ExecInContainer implements remotecommand.Executor.
func (f executor) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, err io.WriteCloser, _ bool, sizes <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return f(ctx, streams{in, out, err, sizes})
}

// AttachContainer implements remotecommand.Attacher.
func (f executor) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, err io.WriteCloser, _ bool, sizes <-chan remotecommand.TerminalSize) error {
	return f(ctx, streams{in, out, err, sizes})
}

// carry copies between a session and its client until one of them is gone, and
// closes the session. What reads from the client ends with the connection,
// which is the caller's to close.
func carry(ctx context.Context, s pod.Session, st streams) (code int32, err error) {
	defer s.Close()
	if st.in != nil {
		go sendInput(s.Stdin(), st.in)
	}
	if st.sizes != nil {
		go func() {
			for size := range st.sizes {
				_ = s.Resize(size.Width, size.Height) // of a process that may have ended
			}
		}()
	}
	var outputs sync.WaitGroup
	outputs.Go(func() { sendOutput(st.out, s.Stdout()) })
	outputs.Go(func() { sendOutput(st.err, s.Stderr()) })
	code, err = s.Wait(ctx)
	sent := make(chan struct{})
	go func() {
		outputs.Wait()
		close(sent)
	}()
	select {
	case <-sent:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return 0, nil // the client is gone: there is nobody to tell
	}
	return code, err
}

// sendInput copies what the client sends; without anyone who wants it, it is
// read all the same, so that the connection does not fill up.
func sendInput(process io.WriteCloser, client io.Reader) {
	if process != nil {
		_, _ = io.Copy(process, client) // either side may end it
		_ = process.Close()
	}
	_, _ = io.Copy(io.Discard, client)
}

// sendOutput copies what the process writes. When the client takes no more the
// process hears of it; without a client its words are lost, as it must not
// stop at a full terminal.
func sendOutput(client io.WriteCloser, process io.ReadCloser) {
	switch {
	case process == nil:
	case client == nil:
		_, _ = io.Copy(io.Discard, process)
	default:
		_, _ = io.Copy(client, process)
		_ = process.Close()
	}
}

// exitError is how the library wants to hear of a code that is not zero.
func exitError(code int32, err error) error {
	if err != nil || code == 0 {
		return err
	}
	return utilexec.CodeExitError{Err: fmt.Errorf("exit status %d", code), Code: int(code)}
}

// duplex is the client's side of a forwarded connection.
type duplex = io.ReadWriteCloser

// forwarder is the port-forward behind a URL, as the library calls it.
type forwarder func(port uint16, client duplex) error

// PortForward implements portforward.PortForwarder.
func (f forwarder) PortForward(_ context.Context, _, _ string, port int32, client duplex) error {
	if port < 1 || port > math.MaxUint16 {
		return fmt.Errorf("port %d does not exist", port)
	}
	return f(uint16(port), client)
}

// lingerTime is how long a client may go on sending to a server that has ended
// its own side. Few have more to say, and none is told that it could stop.
const lingerTime = time.Second

// splice copies both ways until both sides have ended theirs, or ctx is done.
// It closes server.
func splice(ctx context.Context, server net.Conn, client duplex) error {
	defer func() { _ = server.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(server, client) // what fails here fails below too
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
	select {
	case <-sent:
	case <-ctx.Done():
	case <-linger.C:
		// A read of the stream ends no other way while the connection lives.
		if r, ok := client.(interface{ Reset() error }); ok {
			_ = r.Reset()
		}
	}
	return err
}
