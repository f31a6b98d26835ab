package tarsplit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/crc64"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/inroot"
)

// Write writes to w the tar whose journal is in file and whose files are below
// one of roots; a file is taken from the first that has its path. A file that
// is missing or has changed is DataLoss.
func Write(ctx context.Context, w io.Writer, file string, roots ...string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(bufio.NewReaderSize(f, chunkSize))
	if err != nil {
		return errkind.New(errkind.DataLoss, "cannot read %s: %w", file, err)
	}
	a := assembler{w: w, buf: make([]byte, chunkSize)}
	defer a.close()
	for _, root := range roots {
		dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		a.roots = append(a.roots, dir)
	}
	for dec := json.NewDecoder(z); ; {
		var e storage.Entry
		err := dec.Decode(&e)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errkind.New(errkind.DataLoss, "cannot read %s: %w", file, err)
		}
		if err := errors.Join(ctx.Err(), a.entry(e)); err != nil {
			return err
		}
	}
}

// assembler is the state of one Write.
type assembler struct {
	w     io.Writer
	roots []*os.File
	buf   []byte
}

func (a *assembler) close() {
	for _, dir := range a.roots {
		_ = dir.Close()
	}
}

func (a *assembler) entry(e storage.Entry) error {
	if e.Type == storage.SegmentType {
		_, err := a.w.Write(e.Payload)
		return err
	}
	if e.Size == 0 {
		return nil
	}
	f, err := a.open(e.GetName())
	if err != nil {
		return errkind.New(errkind.DataLoss, "cannot find the content of %q: %w", e.GetName(), err)
	}
	defer func() { _ = f.Close() }()
	sum := crc64.New(storage.CRCTable)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(a.w, sum)}, io.LimitReader(f, e.Size), a.buf)
	if err != nil {
		return err
	}
	if n != e.Size || !bytes.Equal(sum.Sum(nil), e.Payload) {
		return errkind.New(errkind.DataLoss, "cannot use the content of %q: it is not what was unpacked", e.GetName())
	}
	return nil
}

func (a *assembler) open(name string) (f *os.File, err error) {
	for _, dir := range a.roots {
		// Nonblocking, as the path may have become a fifo.
		if f, err = inroot.OpenAt(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
			fi, err := f.Stat()
			if err == nil && fi.Mode().IsRegular() {
				return f, nil
			}
			_ = f.Close()
			return nil, errors.Join(err, errors.New("it is no regular file"))
		}
	}
	return nil, err
}
