package ahead

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 7)
	}
	return b
}

// Bytes come in order, whatever the sizes of reads on both sides.
func TestReaderGivesTheBytesInOrder(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, pieceSize - 1, pieceSize, pieceSize + 1, 7*pieceSize + 3} {
		want := noise(size)
		for name, source := range map[string]io.Reader{
			"whole":        bytes.NewReader(want),
			"halves":       iotest.HalfReader(bytes.NewReader(want)),
			"last and EOF": iotest.DataErrReader(bytes.NewReader(want)),
		} {
			a := NewReader(source, always)
			got, err := io.ReadAll(iotest.HalfReader(a))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %s: got %d bytes, %v", size, name, len(got), err)
			}
			if n, err := a.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("%d bytes, %s: after the end came %d bytes, %v", size, name, n, err)
			}
			_ = a.Close()
		}
	}
}

// A failure comes after the bytes before it, and again.
func TestReaderGivesTheErrorAfterTheBytes(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	want := noise(2*pieceSize + 5)
	a := NewReader(io.MultiReader(bytes.NewReader(want), iotest.ErrReader(broken)), always)
	defer func() { _ = a.Close() }()
	got, err := io.ReadAll(a)
	if !errors.Is(err, broken) || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes of %d, %v", len(got), len(want), err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, broken) {
		t.Errorf("the second time: %v", err)
	}
}

// endless counts the bytes that are taken from it.
type endless struct{ taken atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.taken.Add(int64(len(p)))
	return len(p), nil
}

// What nobody takes is not read beyond the pieces there are, and after Close
// the source is not read any more.
func TestReaderIsBoundedAndCloses(t *testing.T) {
	t.Parallel()
	var source endless
	a := NewReader(&source, always)
	const small = 100
	if _, err := io.ReadFull(a, make([]byte, small)); err != nil {
		t.Fatal(err)
	}
	for source.taken.Load() < pieces*pieceSize {
		runtime.Gosched()
	}
	time.Sleep(10 * time.Millisecond) // for it to go on, if nothing bounds it
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	taken := source.taken.Load()
	if taken > pieces*pieceSize {
		t.Errorf("%d bytes were read ahead of the %d that were taken", taken, small)
	}
	if n, err := a.Read(make([]byte, small)); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after Close came %d bytes, %v", n, err)
	}
	if _, err := source.Read(make([]byte, 1)); err != nil || source.taken.Load() != taken+1 {
		t.Errorf("the source was read after Close")
	}
	if err := a.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// always has a CPU to spare.
func always() bool { return true }

// never has one.
func never() bool { return false }

// Without a CPU to spare the source is read by who wants the bytes, and no
// further; the first Read for which there is one goes on ahead from there.
func TestReaderReadsAheadOnlyWithACPUToSpare(t *testing.T) {
	t.Parallel()
	want := noise(5*pieceSize + 7)
	source := &counted{r: bytes.NewReader(want)}
	spare := false
	a := NewReader(source, func() bool { return spare })
	got := make([]byte, pieceSize+3)
	if _, err := io.ReadFull(a, got); err != nil || source.n != len(got) {
		t.Errorf("%d bytes were read of which %d were wanted (%v)", source.n, len(got), err)
	}
	spare = true
	rest, err := io.ReadAll(a)
	if err != nil || !bytes.Equal(append(got, rest...), want) {
		t.Errorf("%d and %d bytes of %d, %v", len(got), len(rest), len(want), err)
	}
	_ = a.Close()

	broken := errors.New("broken")
	a = NewReader(io.MultiReader(bytes.NewReader(want[:3]), iotest.ErrReader(broken)), never)
	for range 2 {
		if _, err := io.ReadAll(a); !errors.Is(err, broken) {
			t.Errorf("the source broke, and the reader says %v", err)
		}
	}
	_ = a.Close()
	if n, err := a.Read(got); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after Close came %d bytes, %v", n, err)
	}
}

type counted struct {
	r io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}
