package crilog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Writer appends to the log of one container. It is safe for concurrent use.
//
// What the disk does not take is lost, for a container must not stop for it:
// the first such write tells that output is being lost, and the first one that
// succeeds, or Close, how much was. An entry is lost whole or not at all.
type Writer struct {
	path string

	mu   sync.Mutex
	f    *os.File  // guarded by mu, as all below; nil after Close
	torn bool      // f does not end at the end of an entry
	last time.Time // of the youngest entry
	left leftFile
	lost loss
}

// leftFile is the file that the last reopening left.
type leftFile struct {
	id   fileID
	path string // its name at that moment, after it had been renamed; "": none
}

// loss is the output that could not be written since the last success.
type loss struct {
	why     error // of the first; nil if nothing is lost
	since   time.Time
	bytes   int // of content, without newlines
	entries int
}

// Open opens the log at path for appending and creates it, with its missing
// parent directories, where it is absent.
func Open(path string) (*Writer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("cannot open log: %w", err)
	}
	w := &Writer{path: path}
	var err error
	if w.f, w.torn, err = open(path, os.O_CREATE); err != nil {
		return nil, err
	}
	if w.last, err = lastTime(w.f); err != nil {
		_ = w.f.Close()
		return nil, fmt.Errorf("cannot open log %s: %w", path, err)
	}
	return w, nil
}

// open opens a log and tells whether it ends within an entry, as a writer that
// was killed may have left it. A pod that mounts the directory of logs may have
// put anything in the place of one: a link to a file of the host, or a FIFO
// that nobody reads. create is os.O_CREATE or 0.
func open(path string, create int) (f *os.File, torn bool, err error) {
	const flags = os.O_RDWR | os.O_APPEND | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err = os.OpenFile(path, flags|create, 0o640)
	if errors.Is(err, unix.ELOOP) {
		err = errkind.New(errkind.FailedPrecondition, "%s is a symbolic link", path)
	}
	if err != nil {
		return nil, false, fmt.Errorf("cannot open log: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errkind.New(errkind.FailedPrecondition, "%s is not a regular file", path)
	}
	if err == nil && st.Size() > 0 {
		var end [1]byte
		_, err = f.ReadAt(end[:], st.Size()-1)
		torn = end[0] != '\n'
	}
	if err != nil {
		_ = f.Close()
		return nil, false, fmt.Errorf("cannot open log: %w", err)
	}
	return f, torn, nil
}

// Reopen opens the log by its path again, after somebody has renamed it. An
// entry goes to the old file or to the new one, never to both, and none to the
// old one once the new one exists. On failure the old file stays in use.
func (w *Writer) Reopen() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return errkind.New(errkind.FailedPrecondition, "cannot reopen log %s: it is closed", w.path)
	}
	w.recall(rotatedNames(w.path)...)
	f, torn, err := open(w.path, os.O_CREATE)
	if err != nil {
		return err
	}
	w.left = leave(w.f)
	old := w.f
	w.f, w.torn = f, torn
	return old.Close()
}

// leave describes a file that will not be written any more.
func leave(f *os.File) leftFile {
	id, linked, err := identify(f)
	if err != nil || !linked {
		return leftFile{}
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return leftFile{}
	}
	return leftFile{id, path}
}

// recall finds out that a rotation was taken back, and goes on with the file
// that the reopening had left. A kubelet that has no answer to
// ReopenContainerLog, because the daemon was killed meanwhile, renames the old
// file back over the new one, whose entries then belong to its end. The sign
// is that the new file has no name any more and the old one has the log's, or
// that of the next rotation, if one is among names.
func (w *Writer) recall(names ...string) {
	if w.left.path == "" {
		return
	}
	if _, linked, err := identify(w.f); err != nil || linked {
		return
	}
	for _, name := range append(names, w.path) {
		if name == w.left.path {
			continue
		}
		old, torn, err := open(name, 0)
		if err != nil {
			continue
		}
		id, _, err := identify(old)
		if err == nil && id != w.left.id {
			err = errors.New("another file")
		}
		if err == nil && torn {
			_, err = old.Write([]byte{'\n'})
		}
		if err == nil {
			err = appendFile(old, w.f)
		}
		if err != nil {
			_ = old.Close()
			continue
		}
		_ = w.f.Close()
		w.f, w.left = old, leftFile{}
		return
	}
}

// appendFile appends all of src to dst, or nothing.
func appendFile(dst, src *os.File) error {
	st, err := dst.Stat()
	if err != nil {
		return err
	}
	if _, err = io.Copy(dst, io.NewSectionReader(src, 0, math.MaxInt64)); err != nil {
		return errors.Join(err, dst.Truncate(st.Size()))
	}
	return nil
}

// Close closes the file. Later entries are lost. The error tells how much was
// lost at the end.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	w.recall(rotatedNames(w.path)...)
	err := w.f.Close()
	w.f = nil
	return errors.Join(w.told(), err)
}

// stamp is the time of the entries of one write. By it readers tell an entry
// from another, so it grows with each, also after the clock was set back.
func (w *Writer) stamp(dst []byte) []byte {
	now := time.Now().Round(0) // by the clock of the wall alone, as readers do
	if !now.After(w.last) {
		now = w.last.Add(1)
	}
	w.last = now
	return now.UTC().AppendFormat(dst, stampLayout)
}

// write writes out, which ends at the end of an entry. The caller holds mu.
// The error tells that a loss begins, or of one that is over.
func (w *Writer) write(out []byte) error {
	if len(out) == 0 {
		return nil
	}
	if w.f == nil {
		return fmt.Errorf("cannot write log %s: it is closed", w.path)
	}
	w.recall()
	n, err := w.put(out)
	if err == nil {
		return w.told()
	}
	rest := out[n:]
	first := w.lost.why == nil
	if first {
		w.lost.why, w.lost.since = err, time.Now()
	}
	entries := bytes.Count(rest, []byte{'\n'})
	w.lost.entries += entries
	w.lost.bytes += len(rest) - entries*(headerLen+1)
	if !first {
		return nil
	}
	return fmt.Errorf("cannot write log; output is lost until it can be written: %w", err)
}

// put writes out and returns how many bytes of whole entries of it stand in
// the file. Where the disk takes only a part, it takes back the torn entry.
func (w *Writer) put(out []byte) (int, error) {
	if w.torn {
		if _, err := w.f.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		w.torn = false
	}
	n, err := w.f.Write(out)
	if err == nil {
		return n, nil
	}
	whole := bytes.LastIndexByte(out[:n], '\n') + 1
	if torn := int64(n - whole); torn > 0 {
		st, serr := w.f.Stat()
		w.torn = serr != nil || st.Size() < torn || w.f.Truncate(st.Size()-torn) != nil
	}
	return whole, err
}

// told is the error that tells of a loss that is over; nil if there was none.
func (w *Writer) told() error {
	l := w.lost
	if l.why == nil {
		return nil
	}
	w.lost = loss{}
	return fmt.Errorf("%d bytes of output in %d entries since %s are lost: %w", l.bytes, l.entries, l.since.UTC().Format(time.RFC3339), l.why)
}
