// Package tarsplit keeps of a tar what the files unpacked from it do not hold:
// headers, padding, order. With the files it gives the tar again, to the byte.
//
// # Model
//
// A Recorder watches a tar that is being unpacked and writes a journal beside
// the layer: gzip'ed JSON, an entry a line, in the format of
// github.com/vbatts/tar-split, without its sum of each file, which would cost
// a tenth of a pull. Write reads journal and files and gives the tar.
//
// # Law
//
// The content of a file is left to the file, unless the file is sparse: what
// the tar has of those is in the journal. A tar that overwrites its own files
// is recorded Again when it is unpacked: then the journal has those contents
// that no file has any more.
//
// Recording never fails an unpack: a tar that cannot be recorded is one that
// cannot be written again, and Finish says so. Write checks that each file is
// there in its size; the digest of the whole is the caller's to check. The
// files are the unpacker's tree: they are opened through a handle, and no link
// in them leads out.
package tarsplit

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/vbatts/tar-split/tar/storage"

	"github.com/berth-runtime/berth/imageservice/unpack"
)

const (
	chunkSize   = 64 << 10
	chunksAhead = 16      // what the unpacker may be ahead of the recorder
	maxSegment  = 1 << 20 // of padding, in one entry
)

// Recorder writes the journal of one tar. Its methods are for the goroutine
// that unpacks; a nil Recorder records nothing.
type Recorder struct {
	file   *os.File
	chunks chan []byte // from the unpacker; closed at the end
	free   chan []byte
	cut    bool          // the tar did not end; set before chunks is closed
	done   chan struct{} // closed when err is set
	err    error
}

// Record makes the journal file and starts to record. The caller calls Finish
// or Abort.
func Record(file string) (*Recorder, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	r := &Recorder{
		file:   f,
		chunks: make(chan []byte, chunksAhead),
		free:   make(chan []byte, chunksAhead),
		done:   make(chan struct{}),
	}
	go func() {
		defer close(r.done)
		src := bufio.NewReaderSize(&feed{r: r}, chunkSize)
		r.err = record(src, f, named)
		_, _ = io.Copy(io.Discard, src) // lest the unpacker waits for us
	}()
	return r, nil
}

// Tee gives a reader of src all of whose bytes are recorded too.
func (r *Recorder) Tee(src io.Reader) io.Reader {
	if r == nil {
		return src
	}
	return &tee{src, r}
}

type tee struct {
	src io.Reader
	to  *Recorder
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.src.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		var chunk []byte
		select {
		case chunk = <-t.to.free:
		default:
			chunk = make([]byte, chunkSize)
		}
		k := copy(chunk[:chunkSize], rest)
		t.to.chunks <- chunk[:k]
		rest = rest[k:]
	}
	return n, err
}

// feed is the recorder's end of a tee.
type feed struct {
	r    *Recorder
	all  []byte // to be given back
	rest []byte
}

func (f *feed) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.all != nil {
			select {
			case f.r.free <- f.all:
			default:
			}
			f.all = nil
		}
		chunk, ok := <-f.r.chunks
		if !ok && f.r.cut {
			return 0, io.ErrUnexpectedEOF
		}
		if !ok {
			return 0, io.EOF
		}
		f.all, f.rest = chunk, chunk
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// Finish ends the journal, when the whole tar has passed. If the tar could not
// be recorded, no journal is left.
func (r *Recorder) Finish() error {
	if r == nil {
		return nil
	}
	close(r.chunks)
	<-r.done
	if err := errors.Join(r.err, r.file.Close()); err != nil {
		return errors.Join(fmt.Errorf("cannot record tar: %w", err), os.Remove(r.file.Name()))
	}
	return nil
}

// Abort ends the recording of a tar that was not unpacked. The journal is left
// to whoever removes its directory.
func (r *Recorder) Abort() {
	if r == nil {
		return
	}
	r.cut = true
	close(r.chunks)
	<-r.done
	_ = r.file.Close()
}

// record writes the journal of the tar in src to w. contents puts there what
// the content of a file needs; it may leave of it what it does not read.
func record(src io.Reader, w io.Writer, contents func(*journal, *tar.Header, io.Reader) error) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	j := &journal{json: json.NewEncoder(z)}
	raw := &rawReader{r: src, kept: true}
	tr := tar.NewReader(raw)
	for {
		h, err := tr.Next()
		j.segment(raw.take())
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		// What a sparse file has in the tar is no part of the file itself.
		switch raw.kept = unpack.IsSparse(h); {
		case raw.kept:
			err = inline(j, raw, tr)
		case h.Size > 0 && (h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont):
			err = contents(j, h, tr)
		}
		if err == nil {
			_, err = io.Copy(io.Discard, tr)
		}
		if err = errors.Join(err, j.err); err != nil {
			return err
		}
		raw.kept = true
	}
	// What follows the end of the archive is part of its digest.
	for pad := make([]byte, maxSegment); ; {
		n, err := io.ReadFull(src, pad)
		j.segment(pad[:n])
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.Join(j.err, z.Close())
		}
		if err != nil || j.err != nil {
			return errors.Join(err, j.err)
		}
	}
}

// rawReader keeps what the tar reader reads, which never reads ahead.
type rawReader struct {
	r    io.Reader
	kept bool
	buf  []byte
}

func (r *rawReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.kept {
		r.buf = append(r.buf, p[:n]...)
	}
	return n, err
}

// take gives what was kept since the last call, until the next Read.
func (r *rawReader) take() []byte {
	b := r.buf
	r.buf = r.buf[:0]
	return b
}

// named leaves the content to the file that was unpacked.
func named(j *journal, h *tar.Header, _ io.Reader) error {
	e := storage.Entry{Type: storage.FileType, Size: h.Size}
	e.SetName(h.Name)
	j.add(e)
	return nil
}

// inline journals what raw keeps while tr is read.
func inline(j *journal, raw *rawReader, tr io.Reader) error {
	for buf := make([]byte, chunkSize); ; {
		_, err := tr.Read(buf)
		j.segment(raw.take())
		if err == io.EOF {
			return j.err
		}
		if err = errors.Join(err, j.err); err != nil {
			return err
		}
	}
}

// journal writes entries and remembers the first failure. Unlike the packer
// of tar-split it takes a path twice, as directories often are: whether the
// files still give the tar is checked when it is written.
type journal struct {
	json *json.Encoder
	n    int
	err  error
}

func (j *journal) segment(b []byte) {
	if len(b) > 0 {
		j.add(storage.Entry{Type: storage.SegmentType, Payload: b})
	}
}

func (j *journal) add(e storage.Entry) {
	if j.err != nil {
		return
	}
	e.Position = j.n
	j.n++
	j.err = j.json.Encode(e)
}
