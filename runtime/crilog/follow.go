package crilog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Options says which entries Follow emits.
type Options struct {
	Follow bool      // go on at the end of the file until the container is done
	Tail   int       // at most so many of the last entries of the file; negative: all
	Since  time.Time // none older; zero: all
}

// pollEvery is how long a follower sleeps at the end of the file.
const pollEvery = 100 * time.Millisecond

// maxEntry bounds the bytes of an entry that is read. Longer ones are skipped,
// for a Writer writes none.
const maxEntry = MaxContent + 1<<10

// Follow calls emit for the entries of the log at path; the line's content is
// valid during the call only. With o.Follow it goes on, over rotations, until
// done tells that nothing more will be written (done may be nil: never), ctx
// ends, or emit returns an error, which Follow returns. Text that is no entry
// is skipped.
func Follow(ctx context.Context, path string, o Options, emit func(Line) error, done func() bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot read log: %w", err)
	}
	defer func() { _ = f.Close() }()
	if o.Tail >= 0 {
		if err := seekTail(f, o.Tail); err != nil {
			return fmt.Errorf("cannot read log %s: %w", path, err)
		}
	}
	r := reader{o: o, emit: emit}
	for {
		// Asked before reading: what was written until then is read below.
		ended := !o.Follow || done != nil && done()
		next := rotated(f, path)
		if err := r.read(ctx, f); err != nil {
			if next != nil {
				_ = next.Close()
			}
			return err
		}
		switch {
		case next != nil:
			_ = f.Close()
			f, r.rest = next, nil
			continue
		case ended:
			return nil
		}
		t := time.NewTimer(pollEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// rotated opens the file at path if it is another than f, else returns nil.
// The new file exists only when its writer has left the old one, so all of
// the old one can be read after this.
func rotated(f *os.File, path string) *os.File {
	have, err := f.Stat()
	if err != nil {
		return nil
	}
	now, err := os.Stat(path)
	if err != nil || os.SameFile(have, now) {
		return nil
	}
	next, err := os.Open(path)
	if err != nil {
		return nil
	}
	return next
}

type reader struct {
	o    Options
	emit func(Line) error
	rest []byte // a torn entry at the end of the file
	skip bool   // within an entry that is too long
}

// read emits what stands between f's offset and its end.
func (r *reader) read(ctx context.Context, f *os.File) error {
	br := bufio.NewReaderSize(f, 32<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := br.ReadSlice('\n')
		whole := err == nil
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("cannot read log: %w", err)
		}
		if len(r.rest)+len(b) > maxEntry {
			r.rest, r.skip = nil, true
		}
		switch {
		case !r.skip && !whole:
			r.rest = append(r.rest, b...)
		case !r.skip:
			if len(r.rest) > 0 {
				b = append(r.rest, b...)
			}
			if err := r.line(b); err != nil {
				return err
			}
			r.rest = nil
		case whole:
			r.skip = false
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
	}
}

func (r *reader) line(b []byte) error {
	l, err := Parse(b)
	if err != nil || l.Time.Before(r.o.Since) {
		return nil
	}
	return r.emit(l)
}

// seekTail sets f's offset to where its last n entries begin.
func seekTail(f *os.File, n int) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	buf := make([]byte, 32<<10)
	for at := end; at > 0; {
		b := buf[:min(at, int64(len(buf)))]
		at -= int64(len(b))
		if _, err := f.ReadAt(b, at); err != nil {
			return err
		}
		for i := len(b); i > 0; {
			i = bytes.LastIndexByte(b[:i], '\n')
			if i < 0 {
				break
			}
			start := at + int64(i) + 1
			if start == end {
				continue // the newline of the last entry
			}
			if n--; n == 0 {
				_, err := f.Seek(start, io.SeekStart)
				return err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
