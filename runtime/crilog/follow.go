package crilog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"time"
)

// Options says which entries Follow emits.
type Options struct {
	Follow bool      // go on at the end of the log until the container is done, or Until has passed
	Tail   int       // at most so many of the last entries; negative: all
	Since  time.Time // none older; zero: all
	Until  time.Time // none younger; zero: all

	// Idle, if set, is called when everything that there is was emitted: before
	// Follow waits, and before it returns nil. Follow returns its error.
	Idle func() error
}

// pollEvery is how long a follower sleeps at the end of the log.
const pollEvery = 100 * time.Millisecond

// maxEntry bounds the bytes of an entry that is read. Longer ones are skipped,
// for a Writer writes none.
const maxEntry = 4 * MaxContent

// Follow calls emit for the entries of the log at path, those in its rotated
// files first, compressed or not; the line's content is valid during the call
// only. With o.Follow it goes on, over rotations, until done tells that
// nothing more will be written (done may be nil: never), ctx ends, or emit
// returns an error, which Follow returns. Text that is no entry is skipped.
func Follow(ctx context.Context, path string, o Options, emit func(Line) error, done func() bool) error {
	f := follower{path: path, o: o, emit: emit}
	defer f.close()
	if err := f.begin(); err != nil {
		return fmt.Errorf("cannot read log: %w", err)
	}
	for {
		// Asked before reading: what was written until then is read below.
		ended := !o.Follow || done != nil && done() || !o.Until.IsZero() && time.Now().After(o.Until)
		// Before reading, too: a new file exists only when its writer has left
		// the one before, all of which can be read then.
		f.lookAhead()
		err := f.read(ctx)
		if errors.Is(err, errUntil) {
			ended, err = true, nil
		} else if err == nil && f.advance() {
			continue
		}
		if err == nil && o.Idle != nil {
			err = o.Idle()
		}
		if err != nil || ended {
			return err
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

// errUntil is that an entry is younger than those that are asked for.
var errUntil = errors.New("no more entries are asked for")

// follower is where a reader of a log is.
type follower struct {
	path string
	o    Options
	emit func(Line) error

	cur     *segment
	next    []*segment // to be read after cur, the oldest first
	tooLong bool       // within an entry of cur that is too long

	// last is the time of the youngest entry that was read, count how many of
	// that time were. Together they are a position in the log, whatever files
	// it stands in by now.
	last  time.Time
	count int
	// again is set at the beginning of a file that may hold what was read
	// elsewhere; seen counts its entries of the time last.
	again bool
	seen  int
}

func (f *follower) close() {
	if f.cur != nil {
		_ = f.cur.f.Close()
	}
	closeSegments(f.next)
}

// begin opens what there is, from the first entry on that is asked for.
func (f *follower) begin() error {
	for {
		// The current file first: rotated meanwhile, it is known by its id.
		head, err := openSegment(f.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f.next = rotated(f.path, func(s *segment) bool {
			return (head == nil || before(s, head)) && !s.mtime.Before(f.o.Since)
		})
		switch {
		case head != nil && head.isStale(f.path):
			closeSegments(append(f.next, head))
			continue
		case head != nil:
			f.next = append(f.next, head)
		case len(f.next) == 0:
			return err
		}
		break // without a head: renamed, and not opened anew yet
	}
	if f.o.Tail >= 0 {
		if err := f.tail(); err != nil {
			return err
		}
	}
	f.cur, f.next = f.next[0], f.next[1:]
	return nil
}

// before tells whether old comes before head in the log. Of a head without
// entries it is presumed, see begin.
func before(old, head *segment) bool {
	return old.id != head.id && (head.first.IsZero() || old.first.Before(head.first))
}

// tail leaves of what is to be read the last entries.
func (f *follower) tail() error {
	left := f.o.Tail
	if left == 0 {
		if err := f.toEnd(); err != nil {
			return err
		}
	}
	for i := len(f.next) - 1; i >= 0; i-- {
		have, err := f.next[i].tail(left)
		if err != nil {
			return err
		}
		if left -= have; left == 0 {
			closeSegments(f.next[:i])
			f.next = f.next[i:]
			return nil
		}
	}
	return nil
}

// toEnd makes the last entry that there is the position. Otherwise it is known
// by the entries that are read.
func (f *follower) toEnd() (err error) {
	f.count = math.MaxInt
	for i := len(f.next) - 1; i >= 0 && f.last.IsZero() && err == nil; i-- {
		f.last, err = lastTime(f.next[i].f)
	}
	return err
}

// lookAhead finds what comes after cur if path names another file by now: the
// new one of a rotation, with those between if there were several, or an old
// one, if a rotation was taken back (see Writer.recall).
func (f *follower) lookAhead() {
	if len(f.next) > 0 || f.cur.isAt(f.path) {
		return
	}
	head, err := openSegment(f.path)
	if err != nil {
		return
	}
	f.next = f.upTo(head)
}

// upTo gives the files that come after cur, head the last of them; none if
// that cannot be told.
func (f *follower) upTo(head *segment) []*segment {
	next := append(rotated(f.path, func(s *segment) bool {
		return s.id != f.cur.id && s.first.After(f.last) && before(s, head)
	}), head)
	if head.isStale(f.path) {
		closeSegments(next)
		return nil
	}
	return next
}

// advance goes on to the next file, if there is one.
func (f *follower) advance() bool {
	if len(f.next) == 0 {
		return false
	}
	_ = f.cur.f.Close()
	f.cur, f.next = f.next[0], f.next[1:]
	f.tooLong, f.again, f.seen = false, true, 0
	return true
}

// read emits what stands between the current file's offset and its end, and
// leaves the offset at the end of an entry.
func (f *follower) read(ctx context.Context) error {
	r, err := f.cur.reader()
	if err != nil {
		return fmt.Errorf("cannot read log: %w", err)
	}
	br := bufio.NewReaderSize(r, maxEntry)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			f.tooLong = true
		case errors.Is(err, io.EOF):
			if f.cur.gz || f.tooLong {
				return nil
			}
			// The torn entry is read again, if its writer does not take it back.
			_, err = f.cur.f.Seek(-int64(len(b)), io.SeekCurrent)
			return err
		case err != nil:
			return fmt.Errorf("cannot read log %s: %w", f.cur.f.Name(), err)
		case f.tooLong:
			f.tooLong = false
		default:
			if err := f.line(b); err != nil {
				return err
			}
		}
	}
}

func (f *follower) line(b []byte) error {
	if f.cur.skip > 0 {
		f.cur.skip--
		return nil
	}
	l, err := Parse(b)
	if err != nil || f.isKnown(l.Time) {
		return nil
	}
	if l.Time.Equal(f.last) {
		f.count++
	} else {
		f.last, f.count = l.Time, 1
	}
	if l.Time.Before(f.o.Since) {
		return nil
	}
	if !f.o.Until.IsZero() && l.Time.After(f.o.Until) {
		return errUntil
	}
	return f.emit(l)
}

// isKnown tells whether an entry at the beginning of a file was read in
// another one.
func (f *follower) isKnown(t time.Time) bool {
	switch {
	case !f.again:
	case t.Before(f.last):
		return true
	case t.Equal(f.last) && f.seen < f.count:
		f.seen++
		return true
	}
	f.again = false
	return false
}
