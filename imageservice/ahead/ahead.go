// Package ahead lets the stages of a stream run side by side: what one stage
// gives is read by a goroutine of its own while the next stage works, as soon
// as there is a CPU to spare for it. Until then handing over would only cost.
//
// The law: bytes and the error after them come in order and unchanged, memory
// is bounded, and after Close nothing reads the source any more.
package ahead

import (
	"io"
	"sync"
)

// As few large pieces as keep both sides busy: each one wakes a goroutine, and
// four layers of a pull have two such readers each.
const (
	pieces    = 3
	pieceSize = 64 << 10
)

// Reader gives the bytes of a source, which it reads ahead.
type Reader struct {
	src   io.Reader
	spare func() bool // nil once the goroutine runs

	full chan piece  // in order; closed after the last
	free chan []byte // what full's pieces were, to be filled again
	now  []byte      // what Read gives next
	buf  []byte      // the piece that now is of
	err  error       // what comes after now; nil as long as more may come

	once sync.Once
	quit chan struct{} // closed by Close
}

// piece is what the source gave, and the error that followed.
type piece struct {
	buf []byte
	err error
}

// NewReader gives what r gives, and reads ahead from the first Read on at which
// spare reports that there is a CPU for it. The caller closes the Reader.
func NewReader(r io.Reader, spare func() bool) *Reader {
	return &Reader{src: r, spare: spare, quit: make(chan struct{})}
}

// start starts to read ahead.
func (a *Reader) start() {
	a.spare = nil
	a.full, a.free = make(chan piece, pieces), make(chan []byte, pieces)
	for range pieces {
		a.free <- nil // made when it is wanted, as most sources are short
	}
	go a.run()
}

func (a *Reader) run() {
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.quit:
			return
		}
		if buf == nil {
			buf = make([]byte, pieceSize)
		}
		n, err := fill(a.src, buf[:pieceSize])
		a.full <- piece{buf[:n], err} // has room for all pieces there are
		if err != nil {
			return
		}
	}
}

// fill reads until buf is full or the source ends, with the source's own error.
// io.ReadFull would call an end in the middle ErrUnexpectedEOF, which is what a
// torn source says.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}

// Read gives what was read, and waits for it if need be.
func (a *Reader) Read(p []byte) (int, error) {
	if a.spare != nil {
		if a.err != nil {
			return 0, a.err
		}
		if !a.spare() {
			return a.direct(p)
		}
		a.start()
	}
	for len(a.now) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		if a.buf != nil {
			a.free <- a.buf
			a.buf = nil
		}
		next, ok := <-a.full
		if !ok {
			a.err = io.ErrClosedPipe
			continue
		}
		a.now, a.buf, a.err = next.buf, next.buf, next.err
	}
	n := copy(p, a.now)
	a.now = a.now[n:]
	return n, nil
}

// direct is Read without another goroutine.
func (a *Reader) direct(p []byte) (n int, err error) {
	n, err = a.src.Read(p)
	a.err = err
	return n, err
}

// Close ends the reading and waits for it, be it in the middle of a Read of the
// source. It does not close the source, which can be used again afterwards.
func (a *Reader) Close() error {
	a.once.Do(func() { close(a.quit) })
	if a.spare != nil {
		a.err = io.ErrClosedPipe
		return nil
	}
	for range a.full { // what was read ahead is of no use
	}
	a.now, a.buf, a.err = nil, nil, io.ErrClosedPipe
	return nil
}
