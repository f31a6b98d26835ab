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
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/vbatts/tar-split/tar/storage"

	"github.com/berth-runtime/berth/imageservice/unpack"
)

const (
	chunkSize  = 64 << 10
	maxSegment = 1 << 20 // of padding, in one entry
)

// Recorder writes the journal of one tar, as the unpacker tells it (it is an
// unpack.Journal). A nil Recorder records nothing.
type Recorder struct {
	file *os.File
	z    *gzip.Writer
	j    *journal
	raw  []byte // not journaled yet
}

// Record makes the journal file and starts to record. The caller calls Finish
// or Abort.
func Record(file string) (*Recorder, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Recorder{file: f, z: z, j: &journal{w: z}}, nil
}

// Raw records bytes of the tar that are in no file.
func (r *Recorder) Raw(b []byte) {
	if r == nil {
		return
	}
	if r.raw = append(r.raw, b...); len(r.raw) >= chunkSize {
		r.flush()
	}
}

// File records that the tar goes on with the content of a file.
func (r *Recorder) File(name string, size int64) {
	if r != nil {
		r.flush()
		r.j.file(name, size)
	}
}

func (r *Recorder) flush() {
	r.j.segment(r.raw)
	r.raw = r.raw[:0]
}

// Finish ends the journal, when the whole tar has passed. If the tar could not
// be recorded, no journal is left.
func (r *Recorder) Finish() error {
	if r == nil {
		return nil
	}
	r.flush()
	if err := errors.Join(r.j.err, r.z.Close(), r.file.Close()); err != nil {
		return errors.Join(fmt.Errorf("cannot record tar: %w", err), os.Remove(r.file.Name()))
	}
	return nil
}

// Abort ends the recording of a tar that was not unpacked. The journal is left
// to whoever removes its directory.
func (r *Recorder) Abort() {
	if r != nil {
		_ = r.file.Close()
	}
}

// record writes the journal of the tar in src to w. contents puts there what
// the content of a file needs; it may leave of it what it does not read.
func record(src io.Reader, w io.Writer, contents func(*journal, *tar.Header, io.Reader) error) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	j := &journal{w: z}
	raw := &rawReader{r: src, kept: true}
	tr := tar.NewReader(raw)
	for {
		h, err := tr.Next()
		j.segment(raw.take())
		if err == io.EOF { //nolint:errorlint // a wrapped EOF is a failure, not the end
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
	j.file(h.Name, h.Size)
	return nil
}

// inline journals what raw keeps while tr is read.
func inline(j *journal, raw *rawReader, tr io.Reader) error {
	for buf := make([]byte, chunkSize); ; {
		_, err := tr.Read(buf)
		j.segment(raw.take())
		if err == io.EOF { //nolint:errorlint // a wrapped EOF is a failure, not the end
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
	w    io.Writer
	line []byte
	n    int
	err  error
}

func (j *journal) segment(b []byte) {
	if len(b) > 0 {
		j.begin(storage.SegmentType)
		j.line = append(base64.StdEncoding.AppendEncode(append(j.line, `,"payload":"`...), b), '"')
		j.end()
	}
}

func (j *journal) file(name string, size int64) {
	j.begin(storage.FileType)
	if utf8.ValidString(name) {
		quoted, _ := json.Marshal(name) // a string always can be
		j.line = append(append(j.line, `,"name":`...), quoted...)
	} else {
		j.line = append(base64.StdEncoding.AppendEncode(append(j.line, `,"name_raw":"`...), []byte(name)), '"')
	}
	j.line = strconv.AppendInt(append(j.line, `,"size":`...), size, 10)
	j.line = append(j.line, `,"payload":null`...)
	j.end()
}

// begin and end make the line of one storage.Entry, as package json would but
// without its time: there are two for each file of each layer.
func (j *journal) begin(t storage.Type) {
	j.line = strconv.AppendInt(append(j.line[:0], `{"type":`...), int64(t), 10)
}

func (j *journal) end() {
	j.line = strconv.AppendInt(append(j.line, `,"position":`...), int64(j.n), 10)
	j.line = append(j.line, "}\n"...)
	j.n++
	if j.err == nil {
		_, j.err = j.w.Write(j.line)
	}
}
