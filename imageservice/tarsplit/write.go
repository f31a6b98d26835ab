package tarsplit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/inroot"
)

// Write writes to w the tar whose journal is in file and whose files are below
// root. A file that is missing where the tar has it may be where locate says,
// which may be nil. One that is nowhere, or has another size, is DataLoss.
func Write(ctx context.Context, w io.Writer, file, root string, locate func(name string) (string, error)) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(bufio.NewReaderSize(f, chunkSize))
	if err != nil {
		return errkind.New(errkind.DataLoss, "cannot read %s: %w", file, err)
	}
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	a := assembler{w: w, root: dir, locate: locate, buf: make([]byte, chunkSize)}
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

// Check reads the journal in file to its end, and so compares it with its
// checksum. One that is cut or damaged is DataLoss.
func Check(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(bufio.NewReaderSize(f, chunkSize))
	if err == nil {
		_, err = io.Copy(io.Discard, z)
	}
	if err != nil {
		return errkind.New(errkind.DataLoss, "cannot read %s: %w", file, err)
	}
	return nil
}

// assembler is the state of one Write.
type assembler struct {
	w      io.Writer
	root   *os.File
	locate func(string) (string, error)
	buf    []byte
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
	n, err := io.CopyBuffer(struct{ io.Writer }{a.w}, io.LimitReader(f, e.Size+1), a.buf)
	if err == nil && n != e.Size {
		return errkind.New(errkind.DataLoss, "cannot use the content of %q: it has not the %d bytes that were unpacked", e.GetName(), e.Size)
	}
	return err
}

func (a *assembler) open(name string) (*os.File, error) {
	// Nonblocking, as the path may have become a fifo.
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := inroot.OpenAt(a.root, name, flags, 0)
	if errors.Is(err, fs.ErrNotExist) && a.locate != nil {
		var at string
		if at, err = a.locate(name); err == nil {
			f, err = inroot.OpenAt(a.root, at, flags, 0)
		}
	}
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		_ = f.Close()
		return nil, errors.Join(err, errors.New("it is no regular file"))
	}
	return f, nil
}
