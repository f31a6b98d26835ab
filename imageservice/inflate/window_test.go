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

// A stream of a large window is decoded with room enough beside the window that
// this is seldom moved, and gives what it gave; those of whom nothing is known,
// or whose window is larger than any builder's, are left as they are.
func TestStreamsGetRoomBesideTheirWindow(t *testing.T) {
	t.Parallel()
	plain := make([]byte, 20<<20)
	for i := range plain {
		plain[i] = byte(i >> 9 * i >> 3)
	}
	for window, want := range map[int]int{
		256 << 10: 0, 1 << 20: 1280 << 10, 4 << 20: 5 << 20, 8 << 20: 10 << 20, 16 << 20: 20 << 20, 32 << 20: 0,
	} {
		var packed bytes.Buffer
		z, err := zstd.NewWriter(&packed, zstd.WithWindowSize(window))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		room := roomFor(bufio.NewReader(bytes.NewReader(packed.Bytes())))
		var h zstd.Header
		if room != nil {
			if err := h.Decode(room); err != nil {
				t.Fatal(err)
			}
		}
		if h.WindowSize != uint64(want) {
			t.Errorf("with a window of %d KiB the room is that of one of %d KiB, want %d", window>>10, h.WindowSize>>10, want>>10)
		}
		r, err := Reader(&packed)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("a window of %d KiB: %d bytes of %d, %v", window>>10, len(got), len(plain), err)
		}
		_ = r.Close()
	}
}
