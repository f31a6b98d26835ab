package inflate

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func TestWindowIsWhatAStreamAsksFor(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("some text "), 1<<20)
	packed := func(window int, whole bool) []byte {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b, zstd.WithWindowSize(window), zstd.WithSingleSegment(whole))
		if err != nil {
			t.Fatal(err)
		}
		if whole {
			return z.EncodeAll(content[:1000], nil)
		}
		if _, err := z.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, _ = w.Write(content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b    []byte
		want int64
	}{
		"small window":   {packed(1<<20, false), 1 << 20},
		"large window":   {packed(8<<20, false), 8 << 20},
		"beyond bearing": {packed(2*maxWindow, false), maxWindow},
		"one segment":    {packed(8<<20, true), 1000},
		"gzip":           {gz.Bytes(), 0},
		"plain":          {content, 0},
		"three bytes":    {[]byte{0x28, 0xb5, 0x2f}, 0},
		"nothing":        {nil, 0},
	} {
		r := bufio.NewReader(bytes.NewReader(c.b))
		if got := Window(r); got != c.want {
			t.Errorf("%s: %d, not %d", name, got, c.want)
		}
		if rest, err := io.ReadAll(r); err != nil || !bytes.Equal(rest, c.b) {
			t.Errorf("%s: %d bytes of %d are left (%v)", name, len(rest), len(c.b), err)
		}
	}
}
