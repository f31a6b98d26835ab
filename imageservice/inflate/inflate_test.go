package inflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func gz(t testing.TB, parts ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, part := range parts {
		w := stdgzip.NewWriter(&b)
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func zst(t testing.TB, parts ...string) (all []byte) {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		all = w.EncodeAll([]byte(part), all)
	}
	return all
}

// skippable is a frame of zstd that says nothing.
func skippable(n int) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{0x5a, 0x2a, 0x4d, 0x18}, uint32(n)), make([]byte, n)...)
}

func inflated(b []byte) (string, error) {
	r, err := Reader(bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	plain, err := io.ReadAll(io.LimitReader(r, 1<<20))
	return string(plain), err
}

func TestWhatBlobsAre(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long ", 50_000)
	for name, c := range map[string]struct {
		blob []byte
		want string
	}{
		"nothing":               {nil, ""},
		"plain":                 {[]byte("plain"), "plain"},
		"shorter than a magic":  {[]byte("\x1f"), "\x1f"},
		"gzip":                  {gz(t, long), long},
		"gzip members":          {gz(t, "a", "", "b", long), "ab" + long},
		"zstd":                  {zst(t, long), long},
		"zstd frames":           {zst(t, "a", "", "b", long), "ab" + long},
		"zstd skippable first":  {append(skippable(100), zst(t, long)...), long},
		"zstd skippable last":   {append(zst(t, long), skippable(0)...), long},
		"zstd skippable amidst": {append(append(zst(t, "a"), skippable(7)...), zst(t, "b")...), "ab"},
		"only skippable":        {skippable(3), ""},
	} {
		if got, err := inflated(c.blob); err != nil || got != c.want {
			t.Errorf("%s: %d bytes instead of %d (%v)", name, len(got), len(c.want), err)
		}
	}
}

func TestBrokenBlobsAreRefused(t *testing.T) {
	t.Parallel()
	flipped := gz(t, "some content that is long enough")
	flipped[len(flipped)-6] ^= 1 // in its checksum
	for name, blob := range map[string][]byte{
		"gzip that ends early":       gz(t, "abc")[:20],
		"gzip of a header only":      gz(t, "abc")[:5],
		"gzip with a wrong checksum": flipped,
		"gzip and garbage":           append(gz(t, "abc"), "garbage"...),
		"gzip, then half a member":   append(gz(t, "abc"), gz(t, "abc")[:15]...),
		"zstd that ends early":       zst(t, strings.Repeat("abcdefg", 1000))[:15],
		"zstd and garbage":           append(zst(t, "abc"), "garbage"...),
		"zstd, then half a skip":     append(zst(t, "abc"), skippable(100)[:50]...),
		// A frame of one segment says by its content size what window it needs.
		"zstd that asks for 4 GiB": append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000, 0, 0, 0, 0xf0}, make([]byte, 64)...),
		// Of the exponent and mantissa of its header: 2^10 times 2 to the exponent.
		"zstd that asks for 64 MiB": append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 16 << 3}, make([]byte, 64)...),
		"zstd that asks for 2 GiB":  append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3}, make([]byte, 64)...),
	} {
		if got, err := inflated(blob); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	broken := errors.New("the connection broke")
	for _, blob := range [][]byte{gz(t, strings.Repeat("x", 100_000)), zst(t, strings.Repeat("x", 100_000)), []byte("plain text")} {
		r, err := Reader(io.MultiReader(bytes.NewReader(blob[:len(blob)-5]), iotest.ErrReader(broken)))
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		if !errors.Is(err, broken) {
			t.Errorf("a broken connection gives %v", err)
		}
	}
}

// CVE-2022-30631: a member for each 20 bytes must cost no stack. Neither may
// what a header asks for be allocated before it is used.
func TestTARManyMembers(t *testing.T) {
	for name, blob := range map[string][]byte{
		"gzip": bytes.Repeat(gz(t, ""), 500_000),
		"zstd": bytes.Repeat(zst(t, "a"), 200_000),
		"skip": append(bytes.Repeat(skippable(0), 1_000_000), zst(t, "a")...),
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		r, err := Reader(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, r)
		runtime.ReadMemStats(&after)
		if grown := int64(after.Sys - before.Sys); err != nil || grown > 64<<20 {
			t.Errorf("%s: memory grew by %d MiB (%v)", name, grown>>20, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// FuzzReader compares gzip with the standard library's and a stream of zstd
// with its frames decoded at once.
func FuzzReader(f *testing.F) {
	long := strings.Repeat("0123456789", 1000)
	for _, b := range [][]byte{
		nil, []byte("plain"), gz(f, "a", "", long), gz(f, long)[:30], append(gz(f, "a"), 0, 0, 0),
		zst(f, "a", "", long), append(skippable(5), zst(f, long)...), zst(f, long)[:15], append(zst(f, "a"), skippable(9)[:10]...),
	} {
		f.Add(b)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(1<<20), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := inflated(b)
		if err != nil && !errkind.Is(err, errkind.InvalidArgument) {
			t.Fatalf("%v", err)
		}
		switch {
		case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
			var want []byte
			r, wantErr := stdgzip.NewReader(bytes.NewReader(b))
			if wantErr == nil {
				want, wantErr = io.ReadAll(io.LimitReader(r, 1<<20))
			}
			// Of a second member whose header is cut klauspost's says nothing; what
			// came before is right, and a blob has its digest.
			cut := err == nil && errors.Is(wantErr, io.ErrUnexpectedEOF)
			if (err == nil) != (wantErr == nil) && !cut || err == nil && got != string(want) {
				t.Fatalf("%d bytes, %v; the standard library: %d, %v", len(got), err, len(want), wantErr)
			}
		case isZstd(b[:min(4, len(b))]):
			want, wantErr := d.DecodeAll(b, nil)
			tooMuch := errors.Is(wantErr, zstd.ErrWindowSizeExceeded) || errors.Is(wantErr, zstd.ErrDecoderSizeExceeded)
			if err == nil && !tooMuch && len(got) < 1<<20 && (wantErr != nil || got != string(want)) {
				t.Fatalf("%d bytes; at once %d, %v", len(got), len(want), wantErr)
			}
		case err != nil || got != string(b):
			t.Fatalf("plain bytes are changed (%v)", err)
		}
	})
}

// A decoder that is used again gives the bytes of its next stream, also where
// the one before was broken or not read to its end.
func TestDecodersAreUsedAgain(t *testing.T) {
	t.Parallel()
	pack := func(plain []byte) []byte {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	first, second := bytes.Repeat([]byte("first"), 1<<20), bytes.Repeat([]byte("second "), 1<<20)
	broken := pack(first)
	broken = broken[:len(broken)/2]
	var d Decoders
	for name, before := range map[string]io.Reader{
		"cut":      bytes.NewReader(broken),
		"whole":    bytes.NewReader(pack(first)),
		"not read": bytes.NewReader(pack(first)),
	} {
		r, err := d.Reader(before)
		if err != nil {
			t.Fatal(err)
		}
		n := int64(len(first))
		if name == "not read" {
			n = 1000
		}
		if _, err := io.CopyN(io.Discard, r, n); (err != nil) != (name == "cut") {
			t.Errorf("%s: %v", name, err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("%s: closed with %v", name, err)
		}
		r, err = d.Reader(bytes.NewReader(pack(second)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, second) {
			t.Errorf("after %s: %d bytes of %d, %v", name, len(got), len(second), err)
		}
		_ = r.Close()
	}
}
