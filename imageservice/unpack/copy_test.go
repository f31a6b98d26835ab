package unpack

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"
)

// sizes notes how much each write brought.
type sizes []int

func (s *sizes) Write(p []byte) (int, error) {
	*s = append(*s, len(p))
	return len(p), nil
}

// A file is written in full pieces however small those are that come, and a
// stream that breaks is not taken for one that ends.
func TestCopyWritesFullPieces(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("x"), 2500)
	broken := errors.New("it broke")
	for name, c := range map[string]struct {
		r    io.Reader
		want sizes
		err  error
	}{
		"byte by byte":       {iotest.OneByteReader(bytes.NewReader(content)), sizes{1000, 1000, 500}, nil},
		"the end with bytes": {iotest.DataErrReader(bytes.NewReader(content[:2000])), sizes{1000, 1000}, nil},
		"empty":              {bytes.NewReader(nil), nil, nil},
		"broken":             {io.MultiReader(bytes.NewReader(content[:1500]), iotest.ErrReader(broken)), sizes{1000, 500}, broken},
		"cut":                {io.MultiReader(bytes.NewReader(content[:1000]), iotest.ErrReader(io.ErrUnexpectedEOF)), sizes{1000}, io.ErrUnexpectedEOF},
	} {
		u, total := &unpacker{pieces: bufio.NewWriterSize(nil, 1000)}, int64(0)
		for _, n := range c.want {
			total += int64(n)
		}
		var got sizes
		n, err := u.copy(&got, c.r)
		if n != total || !errors.Is(err, c.err) || !slices.Equal(got, c.want) {
			t.Errorf("%s: pieces of %v, %d bytes, %v; want %v, %d, %v", name, got, n, err, c.want, total, c.err)
		}
	}
}
