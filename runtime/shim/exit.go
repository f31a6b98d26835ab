package shim

import (
	"encoding/json"
	"io"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// unknownCode is the exit code where nobody can tell it.
const unknownCode = 255

// exited is how a process ended, as far as it is known.
func exited(code int, known bool) shimrpc.Exited {
	if !known {
		code = unknownCode
	}
	return shimrpc.Exited{Code: int32(code), Known: known}
}

// watch carries the container's output and waits for its end, which it
// publishes. Status tells how init ended, once it has, and when, if it knows. The
// end of an init in whose place a restore has put another is not the container's.
func (s *server) watch(c *container, status func() shimrpc.Exited) {
	exit := exited(0, false)
	defer func() {
		if r := recover(); r != nil {
			s.log.Printf("panic in container %s: %v\n%s", c.ID, r, debug.Stack())
			s.publish(c, exit)
		}
	}()
	for _, st := range c.streams {
		go s.carry(c, st)
	}
	for status != nil {
		if f := c.current(); f.pidfd != nil {
			if err := awaitEnd(f.pidfd, f.init); err != nil {
				s.log.Printf("cannot wait in the poller for container %s: %v", c.ID, err)
			}
		}
		at := time.Now()
		if exit = status(); exit.At.IsZero() {
			exit.At = at
		}
		status = c.succeed()
	}
	if c.sharedPID {
		// The kernel ends what is left of a PID namespace, nobody else does.
		if err := cgroup.Kill(c.cgroup, unix.SIGKILL); err != nil {
			s.log.Printf("cannot kill what container %s left: %v", c.ID, err)
		}
	}
	for _, st := range c.streams {
		st.finish()
	}
	s.publish(c, exit)
}

// carry runs a stream.
func (s *server) carry(c *container, st *stream) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Printf("panic in %s of container %s: %v\n%s", st.name, c.ID, r, debug.Stack())
		}
	}()
	st.run(c.ID, s.log)
}

// publish makes the exit durable and then known.
func (s *server) publish(c *container, exit shimrpc.Exited) {
	exit.ID = c.ID
	if exit.At.IsZero() {
		exit.At = time.Now()
	}
	if err := c.closeStdio(); err != nil {
		s.log.Printf("log of container %s: %v", c.ID, err)
	}
	b, err := json.Marshal(exit)
	if err == nil {
		err = atomicfile.WriteVolatile(filepath.Join(c.Bundle, shimrpc.ExitFile), b, 0o600)
	}
	if err != nil {
		s.log.Printf("cannot record the exit of container %s: %v", c.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.exit = exit
	close(c.ended)
	for w := range s.watchers {
		w.add(exit)
	}
}

// watcher is one caller of Watch: what it has still to be told.
type watcher struct {
	mu    sync.Mutex
	queue []shimrpc.Exited // guarded by mu
	wake  chan struct{}    // has room for one
}

func (w *watcher) add(e shimrpc.Exited) {
	w.mu.Lock()
	w.queue = append(w.queue, e)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []shimrpc.Exited {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue
	w.queue = nil
	return q
}

// tell sends exits to conn until it breaks: first the known ones.
func (s *server) tell(conn *shimrpc.Conn) error {
	w := &watcher{wake: make(chan struct{}, 1)}
	s.mu.Lock()
	for _, c := range s.containers {
		if c.isEnded() {
			w.add(c.exit)
		}
	}
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	}()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			// A watcher says nothing more; this waits for its end.
			files, err := conn.Recv(&shimrpc.Request{})
			shimrpc.CloseAll(files)
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-gone:
			return io.EOF
		case <-w.wake:
		}
		for _, e := range w.take() {
			if err := conn.Send(shimrpc.Response{Exited: &e}); err != nil {
				return err
			}
		}
	}
}
