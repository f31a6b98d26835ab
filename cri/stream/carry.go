package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	utilexec "k8s.io/utils/exec"

	"github.com/berth-runtime/berth/runtime/pod"
)

// streams are the client's side of a session.
type streams struct {
	in       io.Reader
	out, err io.WriteCloser
	resize   io.Reader // of terminal sizes, in JSON
}

// only drops the streams that were not asked for: a client may make all.
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

// carry copies between a session and its client until one of them is gone, and
// closes the session. What reads from the client ends with the connection,
// which is the caller's to close.
func carry(ctx context.Context, s pod.Session, st streams) (code int32, err error) {
	defer s.Close()
	if st.in != nil {
		go sendInput(s.Stdin(), st.in)
	}
	if st.resize != nil {
		go resize(s, st.resize)
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

// maxResize bounds what a client sends of one terminal size, in bytes.
const maxResize = 1 << 10

// resize follows the client's terminal until the client breaks the form. Each
// size is set before the next is read, so any number of them takes no memory.
func resize(s pod.Session, client io.Reader) {
	bounded := &io.LimitedReader{R: client}
	sizes := json.NewDecoder(bounded)
	for {
		bounded.N = maxResize
		var size struct{ Width, Height uint16 }
		if sizes.Decode(&size) != nil {
			break
		}
		_ = s.Resize(size.Width, size.Height) // of a process that may have ended
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

// exitError tells of a code that is not zero.
func exitError(code int32, err error) error {
	if err != nil || code == 0 {
		return err
	}
	return utilexec.CodeExitError{Err: fmt.Errorf("exit status %d", code), Code: int(code)}
}
