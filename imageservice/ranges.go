package imageservice

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/berth-runtime/berth/imageservice/content"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Ranges says how large blobs are fetched: over several connections, since
// many registries and their storage hosts bound the speed of one.
type Ranges struct {
	Parallel int   // connections for one blob; 0 means 4, 1 that each blob comes over one
	Size     int64 // bytes that one of them asks for at a time; 0 means 16 MiB
	From     int64 // bytes from which a blob is large; 0 means 64 MiB
}

func (r Ranges) orDefault() Ranges {
	if r.Parallel == 0 {
		r.Parallel = 4
	}
	if r.Size == 0 {
		r.Size = 16 << 20
	}
	if r.From == 0 {
		r.From = 64 << 20
	}
	return r
}

// rangeBuffer is what one connection holds in memory.
const rangeBuffer = 128 << 10

// ranges is a download by several connections. Each brings ranges into the
// part, in the order of the blob but side by side; who reads takes from the
// part what has come without a gap. A host that does not honour ranges turns
// it into a download by one connection.
type ranges struct {
	src  source
	part *content.Ingest
	step int64
	ctx  context.Context //nolint:containedctx // ends the connections, which end with the one reader
	end  context.CancelFunc
	wait sync.WaitGroup

	pos int64 // of the reader

	mu      sync.Mutex
	came    *sync.Cond       // more has come, or err is set
	todo    []content.Extent // what no connection is asked for, in order; guarded by mu
	running int              // connections; guarded by mu
	spare   int              // connections that may be made once ranges are known to work; guarded by mu
	serial  bool             // they do not; guarded by mu
	err     error            // of the first that failed; guarded by mu
}

// fetchRanges starts to fetch what part lacks of src.
func fetchRanges(ctx context.Context, src source, part *content.Ingest, how Ranges) *ranges {
	d := &ranges{src: src, part: part, step: how.Size, todo: part.Missing(src.size), spare: how.Parallel - 1, running: 1}
	d.came = sync.NewCond(&d.mu)
	d.ctx, d.end = context.WithCancel(ctx)
	d.wait.Go(d.connection)
	return d
}

func (d *ranges) Read(p []byte) (int, error) {
	if d.pos == d.src.size {
		return 0, io.EOF
	}
	d.mu.Lock()
	for d.part.Reached(d.pos) == d.pos && d.err == nil {
		d.came.Wait()
	}
	there, err := d.part.Reached(d.pos)-d.pos, d.err
	d.mu.Unlock()
	if there == 0 {
		return 0, err
	}
	n, err := d.part.ReadAt(p[:min(int64(len(p)), there)], d.pos)
	d.pos += int64(n)
	return n, err
}

// Close ends the connections and keeps the part.
func (d *ranges) Close() error {
	d.end()
	d.wait.Wait()
	return d.part.Close()
}

// connection fetches range after range until none is left, or another
// connection has failed.
func (d *ranges) connection() {
	buf := make([]byte, rangeBuffer)
	for {
		want, ok := d.next()
		if !ok {
			return
		}
		if err := d.fetch(want, buf); err != nil {
			d.fail(err)
			return
		}
	}
}

// next takes a range from todo. If ranges do not work, one connection goes on
// and takes all that is missing in one piece.
func (d *ranges) next() (want content.Extent, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.todo) == 0 || d.err != nil || d.serial && d.running > 1 {
		d.running--
		return want, false
	}
	want = d.todo[0]
	if !d.serial {
		want.End = min(want.End, want.Begin+d.step)
	}
	if d.todo[0].Begin = want.End; d.todo[0].Begin == d.todo[0].End {
		d.todo = d.todo[1:]
	}
	return want, true
}

func (d *ranges) fetch(want content.Extent, buf []byte) error {
	d.mu.Lock()
	serial := d.serial
	d.mu.Unlock()
	var body io.ReadCloser
	var err error
	end := want.End
	if serial {
		body, err = d.src.open(d.ctx, want.Begin)
	} else {
		body, end, err = d.src.openRange(d.ctx, want.Begin, want.End)
	}
	if !serial && errkind.Is(err, errkind.FailedPrecondition) {
		d.giveBack(want)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if !serial {
		d.answered(end > want.End)
	}
	return d.receive(body, content.Extent{Begin: want.Begin, End: end}, buf)
}

// giveBack puts a range first again, to be fetched by one connection.
func (d *ranges) giveBack(want content.Extent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serial = true
	if len(d.todo) > 0 && d.todo[0].Begin == want.End {
		d.todo[0].Begin = want.Begin
		return
	}
	d.todo = append([]content.Extent{want}, d.todo...)
}

// answered starts the other connections after the first answer, unless that
// brings the whole blob.
func (d *ranges) answered(whole bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if whole {
		d.todo, d.spare = nil, 0
	}
	for ; d.spare > 0 && len(d.todo) > 0; d.spare-- {
		d.running++
		d.wait.Go(d.connection)
	}
}

// receive brings a range into the part.
func (d *ranges) receive(body io.Reader, want content.Extent, buf []byte) error {
	for at := want.Begin; at < want.End; {
		n, err := body.Read(buf[:min(int64(len(buf)), want.End-at)])
		if n > 0 {
			writeErr := verbPull.step("receive", func() error {
				_, err := d.part.WriteAt(buf[:n], at)
				return err
			})
			if writeErr != nil {
				return writeErr
			}
			at += int64(n)
			d.mu.Lock()
			d.came.Broadcast()
			d.mu.Unlock()
		}
		if err == io.EOF && at < want.End {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

func (d *ranges) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running--
	if d.err == nil || errors.Is(d.err, context.Canceled) {
		d.err = err
	}
	d.end() // the others' work is kept, but is of no use now
	d.came.Broadcast()
}
