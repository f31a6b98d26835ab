package content_test

import (
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/imageservice/content"
)

func wantMissing(t *testing.T, in *content.Ingest, size int64, want ...content.Extent) {
	t.Helper()
	if got := in.Missing(size); !slices.Equal(got, want) {
		t.Errorf("of %d bytes %v are missing, not %v", size, got, want)
	}
}

func writeAt(t *testing.T, in *content.Ingest, text string, at int64) {
	t.Helper()
	if _, err := in.WriteAt([]byte(text), at); err != nil {
		t.Fatal(err)
	}
}

func TestGapsSurviveARestart(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, root)
	d := digest.FromString("hello wide world")
	in := ingest(t, s, d)
	wantMissing(t, in, 16, content.Extent{Begin: 0, End: 16})
	writeAt(t, in, "hel", 0)
	writeAt(t, in, "wide", 6)
	writeAt(t, in, "rld", 13)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}

	in = ingest(t, open(t, root), d)
	wantMissing(t, in, 16, content.Extent{Begin: 3, End: 6}, content.Extent{Begin: 10, End: 13})
	if in.Offset() != 3 || in.Reached(7) != 10 || in.Reached(11) != 11 || in.End() != 16 {
		t.Errorf("offset %d, reached %d and %d, end %d", in.Offset(), in.Reached(7), in.Reached(11), in.End())
	}
	if got, err := io.ReadAll(in.Received()); err != nil || string(got) != "hel" {
		t.Errorf("Received = %q, %v", got, err)
	}
	writeAt(t, in, " wo", 10)
	wantMissing(t, in, 16, content.Extent{Begin: 3, End: 6})
	// One stream goes on over what is there already.
	if _, err := io.WriteString(in, "lo wi"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "de"); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, in, 16)
	if err := in.Commit(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.ReadFile(d, 100); err != nil || string(got) != "hello wide world" {
		t.Errorf("ReadFile = %q, %v", got, err)
	}
	if n, err := unix.Listxattr(s.Path(d), nil); err != nil || n != 0 {
		t.Errorf("the blob has attributes of %d bytes, %v", n, err)
	}
}

func TestDamagedExtentsAreNone(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, root)
	d := digest.FromString("x")
	in := ingest(t, s, d)
	writeAt(t, in, "x", 10)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(root, "ingest", d.Encoded()+".part")
	if err := os.Truncate(part, 5); err != nil {
		t.Fatal(err)
	}
	in = ingest(t, s, d)
	wantMissing(t, in, 11, content.Extent{Begin: 0, End: 11})
}

// Whatever is written in whatever order, what is missing is what was not.
func TestExtentsAreThoseWritten(t *testing.T) {
	t.Parallel()
	const size = 64
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		root := t.TempDir()
		d := digest.FromString("x")
		in := ingest(t, open(t, root), d)
		var have [size]bool
		for range 1 + random.IntN(12) {
			begin := random.IntN(size)
			n := 1 + random.IntN(min(12, size-begin))
			writeAt(t, in, string(make([]byte, n)), int64(begin))
			for i := range n {
				have[begin+i] = true
			}
			if random.IntN(4) == 0 { // a kill and a restart
				if err := in.Close(); err != nil {
					t.Fatal(err)
				}
				in = ingest(t, open(t, root), d)
			}
		}
		lacks := [size]bool{}
		for _, x := range in.Missing(size) {
			for i := x.Begin; i < x.End; i++ {
				lacks[i] = true
			}
		}
		for i := range size {
			if have[i] == lacks[i] {
				t.Fatalf("seed %d: byte %d was written: %v, is missing: %v", seed, i, have[i], lacks[i])
			}
		}
	}
}
