package shim

import (
	"errors"
	"log"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/crilog"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

const (
	// drainFor bounds the reading of a dead container's output: something
	// else may still write to it.
	drainFor = time.Second
	// stallFor is how long an attached reader may hold the container up.
	stallFor = 10 * time.Second
	// readSize is the capacity of a FIFO; a terminal holds no more either.
	readSize = 64 << 10
)

// buffers lends a buffer to a stream while it has something to read, so that
// a quiet container has none.
var buffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// stream carries one output of a container to its log and to whoever is
// attached. Its goroutine blocks on the log's disk without holding up others.
type stream struct {
	name crilog.Stream
	f    *os.File     // non-blocking, in the poller
	sink *crilog.Sink // nil: no log
	over atomic.Bool  // set when the container has ended
	done chan struct{}

	mu   sync.Mutex
	taps []*tap // guarded by mu
	shut bool   // guarded by mu; no more taps
}

// tap is one attached reader's end.
type tap struct {
	f    *os.File
	gone chan struct{} // closed with f
}

func newStream(name crilog.Stream, f *os.File, w *crilog.Writer) *stream {
	st := &stream{name: name, f: f, done: make(chan struct{})}
	if w != nil {
		st.sink = w.Stream(name)
	}
	return st
}

// run carries bytes until finish, and then what is left.
func (st *stream) run(id string, l *log.Logger) {
	defer close(st.done)
	defer st.closeTaps()
	emit := func(b []byte) {
		if st.sink != nil {
			// A loss is told once when it begins and once when it is over.
			if _, err := st.sink.Write(b); err != nil {
				l.Printf("log of container %s: %v", id, err)
			}
		}
		st.copyOut(b)
	}
	rc, err := st.f.SyscallConn()
	if err != nil {
		l.Printf("cannot read output of container %s: %v", id, err)
		return
	}
	for !st.over.Load() {
		err := rc.Read(func(fd uintptr) bool {
			_ = st.readAll(int(fd), emit, st.over.Load)
			return st.over.Load()
		})
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	end, left := time.Now().Add(drainFor), readSize
	drain := func(b []byte) {
		left -= len(b)
		emit(b)
	}
	_ = rc.Control(func(fd uintptr) {
		// So much is the container's own, however long the disk takes for it.
		_ = st.readAll(int(fd), drain, func() bool { return left <= 0 && time.Now().After(end) })
	})
	if st.sink != nil {
		if err := st.sink.Flush(); err != nil {
			l.Printf("log of container %s: %v", id, err)
		}
	}
}

// readAll emits what can be read now, unless stop tells to end earlier. EIO is
// a pty that no process has open at the moment.
func (st *stream) readAll(fd int, emit func([]byte), stop func() bool) error {
	buf := buffers.Get().(*[readSize]byte)
	defer buffers.Put(buf)
	for !stop() {
		n, err := unix.Read(fd, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || n <= 0:
			return err
		default:
			emit(buf[:n])
		}
	}
	return nil
}

// finish makes run read what is there and return, and waits for that.
func (st *stream) finish() {
	st.over.Store(true)
	_ = st.f.SetReadDeadline(time.Unix(1, 0))
	<-st.done
}

// copyOut writes b to every tap; one that takes nothing for too long is cut.
func (st *stream) copyOut(b []byte) {
	st.mu.Lock()
	taps := slices.Clone(st.taps)
	st.mu.Unlock()
	wait := stallFor
	if st.over.Load() {
		wait = drainFor
	}
	for _, t := range taps {
		_ = t.f.SetWriteDeadline(time.Now().Add(wait))
		if _, err := t.f.Write(b); err != nil {
			st.drop(t)
		}
	}
}

// tap adds f, which the stream closes when it ends. The channel is closed then.
func (st *stream) tap(f *os.File) *tap {
	t := &tap{f: f, gone: make(chan struct{})}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.taps = append(st.taps, t)
	if st.shut {
		st.dropLocked(t)
	}
	return t
}

func (st *stream) drop(t *tap) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.dropLocked(t)
}

func (st *stream) dropLocked(t *tap) {
	i := slices.Index(st.taps, t)
	if i < 0 {
		return
	}
	st.taps = slices.Delete(st.taps, i, i+1)
	_ = t.f.Close()
	close(t.gone)
}

func (st *stream) closeTaps() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.shut = true
	for len(st.taps) > 0 {
		st.dropLocked(st.taps[0])
	}
}

// readable tells without waiting whether f has something to read, or is a
// pidfd whose process has ended.
func readable(f *os.File) (ready bool, err error) {
	cerr := control(f, func(fd int) { ready, err = pollIn(fd) })
	return ready, errors.Join(cerr, err)
}

// awaitReadable sleeps in the runtime's poller until f is readable.
func awaitReadable(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	err = rc.Read(func(fd uintptr) bool {
		var ready bool
		ready, perr = pollIn(int(fd))
		return ready || perr != nil
	})
	return errors.Join(err, perr)
}

// awaitEnd sleeps until the process p, which f is of, has ended. Before Linux
// 6.15 a pidfd is also ready for a moment when a thread other than the first
// calls execve, so readiness is only a reason to look.
func awaitEnd(f *os.File, p pidfd.Process) error {
	for {
		if err := awaitReadable(f); err != nil {
			return err
		}
		if !p.Alive() {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

func pollIn(fd int) (bool, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}
