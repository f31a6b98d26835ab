// Package inflate undoes the compressions that image layers and archives
// have, in process. Which one it is is read from the first bytes, since media
// types and file names are wrong about it in practice.
package inflate

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// maxWindow is the memory that a zstd stream may ask for, which each layer of
// a pull has at the same time: that of zstd --ultra -20, four times what any
// builder of images asks for.
const maxWindow = 32 << 20

// Decoders keeps the memory of closed readers for the next ones until it is
// told to forget it: the windows of zstd are most of what a pull takes. (A
// sync.Pool does not do: what one CPU put there another does not find.) The zero
// value is ready; its methods may be called concurrently.
type Decoders struct {
	mu   sync.Mutex
	free []*zstd.Decoder // guarded by mu
}

// Forget lets go of the memory of readers that are closed.
func (d *Decoders) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = nil
}

// take gives a decoder that is free, or nil.
func (d *Decoders) take() *zstd.Decoder {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.free) == 0 {
		return nil
	}
	z := d.free[len(d.free)-1]
	d.free = d.free[:len(d.free)-1]
	return z
}

// zstdOf gives a decoder of room and what follows in r.
func (d *Decoders) zstdOf(r io.Reader, room []byte) (*zstd.Decoder, error) {
	if room != nil {
		r = io.MultiReader(bytes.NewReader(room), r)
	}
	if z := d.take(); z != nil {
		return z, z.Reset(r)
	}
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
}

// putZstd takes back a decoder, which lets go of what it read.
func (d *Decoders) putZstd(z *zstd.Decoder) error {
	if err := z.Reset(nil); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = append(d.free, z)
	return nil
}

// Reader is Decoders.Reader for one stream.
func Reader(r io.Reader) (io.ReadCloser, error) { return new(Decoders).Reader(r) }

// Reader gives the plain bytes of r, which is gzip, zstd or plain already.
// Closing it does not close r. It is to be closed once, and not read afterwards.
func (d *Decoders) Reader(r io.Reader) (io.ReadCloser, error) {
	src := &source{r: r}
	b := bufio.NewReaderSize(src, 64<<10)
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, src.blame("gzip", err)
		}
		return &reader{src: src, name: "gzip", r: z, close: z.Close}, nil
	case isZstd(magic):
		z, err := d.zstdOf(b, roomFor(b))
		if err != nil {
			return nil, src.blame("zstd", err)
		}
		return &reader{src: src, name: "zstd", r: z, close: func() error { return d.putZstd(z) }}, nil
	}
	return io.NopCloser(b), nil
}

// isZstd reports whether a stream begins with a frame of zstd, be it one that
// is skipped: pzstd puts such before each of its frames.
func isZstd(magic []byte) bool {
	skippable := len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18})
	return skippable || bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd})
}

// source remembers how r failed, to tell a broken stream from a broken connection.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *source) blame(name string, err error) error {
	if s.err != nil {
		return s.err
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return errkind.New(errkind.InvalidArgument, "cannot decompress %s: it asks for a window of more than %d MiB; compress it again without --long and with less than --ultra -21", name, maxWindow>>20)
	}
	return errkind.New(errkind.InvalidArgument, "cannot decompress %s: %w", name, err)
}

type reader struct {
	src   *source
	name  string
	r     io.Reader
	close func() error
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.src.blame(r.name, err)
	}
	return n, err
}

func (r *reader) Close() error { return r.close() }
