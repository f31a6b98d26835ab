package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func makeTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestLimits(t *testing.T) {
	t.Parallel()
	needRoot(t)
	many := make([]tar.Header, 100)
	for i := range many {
		many[i] = tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg, Size: 10}
	}
	for _, limits := range []Limits{{Entries: 99, Bytes: 1 << 20}, {Entries: 100, Bytes: 999}} {
		_, err := Layer(context.Background(), bytes.NewReader(makeTar(t, many...)), t.TempDir(), limits, nil)
		if !errkind.Is(err, errkind.ResourceExhausted) {
			t.Errorf("%+v: got %v", limits, err)
		}
	}
	r, err := Layer(context.Background(), bytes.NewReader(makeTar(t, many...)), t.TempDir(), Limits{Entries: 100, Bytes: 1000}, nil)
	if err != nil || r.Inodes != 101 || r.Bytes != 101*blockSize || !r.Alone() || r.Root {
		t.Errorf("got %+v, %v", r, err)
	}
}

// What is counted is what is there, however often the tar changes its mind.
func TestAccounting(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	r, err := Layer(context.Background(), bytes.NewReader(makeTar(t,
		tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "d/e/f", Typeflag: tar.TypeReg, Size: 10000},
		tar.Header{Name: "d/g", Typeflag: tar.TypeLink, Linkname: "d/e/f"},
		tar.Header{Name: "d", Typeflag: tar.TypeReg, Size: 1},
		tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "d/h", Typeflag: tar.TypeReg, Size: 5000},
		tar.Header{Name: "d/h", Typeflag: tar.TypeReg, Size: 1},
		tar.Header{Name: "d/i", Typeflag: tar.TypeLink, Linkname: "d/h"},
		tar.Header{Name: "d/i", Typeflag: tar.TypeSymlink, Linkname: "h"},
		tar.Header{Name: ".wh.gone", Typeflag: tar.TypeReg},
	)), dir, DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var inodes, bytes uint64
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		inodes++
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFDIR:
			bytes += OnDisk(st.Size)
		}
		return err
	})
	if err != nil || r.Inodes != inodes || r.Bytes != bytes || !r.Alone() {
		t.Errorf("counted %+v, there are %d inodes and %d bytes (%v)", r, inodes, bytes, err)
	}
}

func TestCutAnywhereItIsRefused(t *testing.T) {
	t.Parallel()
	needRoot(t)
	whole := makeTar(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 3000}, tar.Header{Name: "b", Typeflag: tar.TypeReg, Size: 3000})
	for _, n := range []int{1, 511, 700, 3500, 5000} {
		_, err := Layer(context.Background(), bytes.NewReader(whole[:n]), t.TempDir(), DefaultLimits(), nil)
		if !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("cut at %d: got %v", n, err)
		}
	}
}

func TestCleanName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"a/b": "a/b", "./a": "a", "/a": "a", "a/": "a", "./": "", "/": "", "a/../b": "b", "a//b": "a/b", "..a": "..a",
	} {
		if got, err := cleanName(name); err != nil || got != want {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"..", "../a", "a/../../b", "/..", "a\x00b", strings.Repeat("a", 256), strings.Repeat("a/", 3000)} {
		if got, err := cleanName(name); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%.20q: got %q, %v", name, got, err)
		}
	}
}
