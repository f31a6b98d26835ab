package crilog

import (
	"bytes"
	"sync"
)

// Sink splits the bytes of one stream into entries.
type Sink struct {
	w    *Writer
	name Stream
	rest []byte // the begun line, at most MaxContent bytes; nil if there is none
}

// Stream makes the sink of one output of the container. A sink is for one
// goroutine; the sinks of a Writer may be used concurrently.
func (w *Writer) Stream(name Stream) *Sink { return &Sink{w: w, name: name} }

// scratch lends the buffer in which a write is composed, so that the logs of
// many quiet containers hold none.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// Write logs the whole lines in p, by one write(2), and keeps the begun one
// for later. It always consumes all of p. The error is of the Writer's
// losses, which it tells of once when one begins and once when it is over.
//
// The entries are copied together instead of handed to writev(2): a vector of
// three parts for every line of 80 bytes costs more than the copy.
func (s *Sink) Write(p []byte) (int, error) {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	var room [stampLen]byte
	stamp := w.stamp(room[:0])
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	out, n := (*buf)[:0], len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		line := p[:i]
		if len(s.rest) > 0 {
			line = append(s.rest, line...)
			s.rest = nil
		}
		out, line = s.pieces(out, stamp, bytes.TrimSuffix(line, []byte{'\r'}))
		out = appendEntry(out, stamp, s.name, false, line)
		p = p[i+1:]
	}
	if len(p) > 0 {
		s.rest = append(s.rest, p...)
	}
	if len(s.rest) > MaxContent {
		var left []byte
		out, left = s.pieces(out, stamp, s.rest)
		s.rest = bytes.Clone(left) // lets the larger array go
	}
	*buf = out
	return n, w.write(out)
}

// pieces appends the leading entries of a line that is too long for one, and
// returns what is left of the line.
func (s *Sink) pieces(out, stamp, line []byte) ([]byte, []byte) {
	for len(line) > MaxContent {
		out = appendEntry(out, stamp, s.name, true, line[:MaxContent])
		line = line[MaxContent:]
	}
	return out, line
}

// Flush writes what is left of a line without a newline, as partial. It is for
// the end of the stream.
func (s *Sink) Flush() error {
	if len(s.rest) == 0 {
		return nil
	}
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	var room [stampLen]byte
	out := appendEntry(nil, w.stamp(room[:0]), s.name, true, s.rest)
	s.rest = nil
	return w.write(out)
}
