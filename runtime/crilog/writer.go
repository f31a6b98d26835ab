package crilog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Writer appends to the log of one container. It is safe for concurrent use.
type Writer struct {
	path string

	mu sync.Mutex
	f  *os.File // guarded by mu; nil after Close
}

// scratch lends the buffer in which a write is composed, so that the logs of
// many quiet containers hold none.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// Open opens the log at path for appending and creates it, with its missing
// parent directories, where it is absent.
func Open(path string) (*Writer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("cannot open log: %w", err)
	}
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	return &Writer{path: path, f: f}, nil
}

func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("cannot open log: %w", err)
	}
	return f, nil
}

// Reopen opens the log by its path again, after somebody has renamed it. An
// entry goes to the old file or to the new one, never to both. On failure the
// old file stays in use.
func (w *Writer) Reopen() error {
	f, err := open(w.path)
	if err != nil {
		return err
	}
	w.mu.Lock()
	old := w.f
	if old != nil {
		w.f = f
	}
	w.mu.Unlock()
	if old == nil {
		_ = f.Close()
		return fmt.Errorf("cannot reopen log %s: it is closed", w.path)
	}
	return old.Close()
}

// Close closes the file. Later entries are lost.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	return err
}

// Stream makes the sink of one output of the container. A sink is for one
// goroutine; the sinks of a Writer may be used concurrently.
func (w *Writer) Stream(name Stream) *Sink { return &Sink{w: w, name: name} }

// Sink splits the bytes of one stream into entries.
type Sink struct {
	w    *Writer
	name Stream
	rest []byte // the begun line, at most MaxContent bytes; nil if there is none
}

// Write logs the whole lines in p and keeps the begun one for later. It always
// consumes all of p: what could not be written is lost, as the error tells.
func (s *Sink) Write(p []byte) (int, error) {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	var room [len(time.RFC3339Nano)]byte
	stamp := time.Now().UTC().AppendFormat(room[:0], time.RFC3339Nano)
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
			s.rest = append(s.rest, line...)
			line = s.rest
		}
		line = bytes.TrimSuffix(line, []byte{'\r'})
		out, line = s.pieces(out, stamp, line)
		out = appendEntry(out, stamp, s.name, false, line)
		s.rest = nil
		p = p[i+1:]
	}
	if len(p) > 0 {
		if len(s.rest) > 0 {
			s.rest = append(s.rest, p...)
			p = s.rest
		}
		out, p = s.pieces(out, stamp, p)
		// A copy: what p is a part of may be a large buffer, or another's.
		s.rest = append([]byte(nil), p...)
	}
	*buf = out
	return n, w.flush(out)
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
	stamp := time.Now().UTC().AppendFormat(nil, time.RFC3339Nano)
	out := appendEntry(nil, stamp, s.name, true, s.rest)
	s.rest = nil
	return w.flush(out)
}

// flush writes out, which ends at the end of an entry. Where the disk takes
// only a part, the torn entry at its end is taken back. The caller holds mu.
func (w *Writer) flush(out []byte) error {
	if len(out) == 0 {
		return nil
	}
	if w.f == nil {
		return fmt.Errorf("cannot write log %s: it is closed", w.path)
	}
	n, err := w.f.Write(out)
	if err == nil {
		return nil
	}
	if torn := n - (bytes.LastIndexByte(out[:n], '\n') + 1); torn > 0 {
		if st, serr := w.f.Stat(); serr == nil && st.Size() >= int64(torn) {
			_ = w.f.Truncate(st.Size() - int64(torn))
		}
	}
	return fmt.Errorf("cannot write log: %w", err)
}
