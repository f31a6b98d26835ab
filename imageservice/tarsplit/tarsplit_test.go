package tarsplit

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/berth-runtime/berth/imageservice/unpack"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func tarOf(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	noise := rand.NewChaCha8([32]byte{1})
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, noise, h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name string, size int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size}
}

func folder(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
}

// recorded unpacks b and gives the directory of its files and the journal.
func recorded(t *testing.T, b []byte) (root, journal string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root, journal = t.TempDir(), filepath.Join(t.TempDir(), "j")
	r, err := Record(journal)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unpack.Layer(t.Context(), bytes.NewReader(b), root, unpack.DefaultLimits(), r); err != nil {
		t.Fatal(err)
	}
	if err := r.Finish(); err != nil {
		t.Fatal(err)
	}
	return root, journal
}

func TestTheTarComesAgainToTheByte(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"empty":        tarOf(t),
		"usual":        tarOf(t, folder("./"), folder("a/"), file("a/b", 1000), file("a/c", 0), file("big", 3<<20)),
		"twice":        tarOf(t, folder("a/"), file("a/x", 5), folder("a"), folder("./a/")),
		"links":        tarOf(t, folder("real/"), tar.Header{Name: "sym", Typeflag: tar.TypeSymlink, Linkname: "/real"}, file("real/f", 700), file("sym/g", 9), tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "real/f"}),
		"long name":    tarOf(t, file(strings.Repeat("d/", 200)+"f", 10)),
		"gnu":          tarOf(t, tar.Header{Name: strings.Repeat("n", 200), Typeflag: tar.TypeReg, Size: 3, Format: tar.FormatGNU}),
		"pax":          tarOf(t, tar.Header{Name: "p", Typeflag: tar.TypeReg, Size: 3, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}),
		"not UTF-8":    tarOf(t, tar.Header{Name: "\xff\xfe", Typeflag: tar.TypeReg, Size: 3, Format: tar.FormatGNU}),
		"whiteouts":    tarOf(t, file("d/.wh..wh..opq", 0), file("d/.wh.gone", 0), file("d/f", 1)),
		"long padding": append(tarOf(t, file("a", 513)), make([]byte, 3<<20)...),
		"aufs":         tarOf(t, folder(".wh..wh.plnk/"), file(".wh..wh.plnk/1.2", 5000), file("a", 5)),
		"whiteout":     tarOf(t, file(".wh.a", 5000), file("b", 5)),
		"odd padding":  append(tarOf(t, file("a", 513)), "some bytes"...),
		"sparse, old":  sparseTar(t, "gnu", "0.0"),
		"sparse, 0.0":  sparseTar(t, "posix", "0.0"),
		"sparse, 0.1":  sparseTar(t, "posix", "0.1"),
		"sparse, 1.0":  sparseTar(t, "posix", "1.0"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, journal := recorded(t, b)
			var out bytes.Buffer
			if err := Write(t.Context(), &out, journal, root, nil); err != nil || !bytes.Equal(out.Bytes(), b) {
				t.Errorf("%d bytes became %d (%v)", len(b), out.Len(), err)
			}
		})
	}
}

// sparseTar has what GNU tar makes of a file with more holes than one header
// can tell.
func sparseTar(t *testing.T, format, version string) []byte {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range int64(40) {
		if _, err := f.WriteAt([]byte("not a hole"), i<<18+7); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(16 << 20); err != nil {
		t.Fatal(err)
	}
	args := []string{"-c", "-S", "-C", dir, "--format=" + format}
	if format == "posix" {
		args = append(args, "--sparse-version="+version)
	}
	b, err := exec.CommandContext(t.Context(), "tar", append(args, "holes", ".")...).Output()
	if err != nil {
		t.Fatalf("tar: %v", err)
	}
	if len(b) > 2<<20 {
		t.Fatalf("the tar has %d bytes, so it is not sparse", len(b))
	}
	return b
}

// A tar that says a thing twice, or says what is no file, comes again too if
// it is recorded when all of it is there.
func TestOverwrittenFilesComeAgain(t *testing.T) {
	t.Parallel()
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	for name, b := range map[string][]byte{
		"twice":               tarOf(t, file("a", 5000), file("b", 300), file("./a", 200000), file("a", 70000)),
		"begins alike":        twice(t, strings.Repeat("x", 200000), strings.Repeat("x", 199999)+"y"),
		"is cut":              twice(t, strings.Repeat("x", 200000), strings.Repeat("x", 70000)),
		"goes on":             twice(t, strings.Repeat("x", 70000), strings.Repeat("x", 200000)),
		"is emptied":          tarOf(t, file("a", 5000), file("a", 0)),
		"becomes a folder":    tarOf(t, file("a", 5000), folder("a/"), file("a/b", 7)),
		"becomes a link":      tarOf(t, folder("d/"), file("d/f", 5000), folder("e/"), file("e/f", 6000), tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "e"}),
		"linked, then a file": tarOf(t, file("a", 5000), link("b", "a"), file("b", 6000), file("a", 7000)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, journal := recorded(t, b)
			if err := Write(t.Context(), io.Discard, journal, root, nil); err == nil && name != "begins alike" {
				t.Error("the first journal is as good")
			}
			if err := Again(journal, bytes.NewReader(b), root); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := Write(t.Context(), &out, journal, root, nil); err != nil || !bytes.Equal(out.Bytes(), b) {
				t.Errorf("%d bytes became %d (%v)", len(b), out.Len(), err)
			}
			if fi, err := os.Stat(journal); err != nil || fi.Size() > int64(len(b)) {
				t.Errorf("the journal has %d bytes, %v", fi.Size(), err)
			}
		})
	}
}

// twice is a tar with a file of each content, all of one name.
func twice(t *testing.T, contents ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, c := range contents {
		h := file("a", int64(len(c)))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, c); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestChangedFilesAreFound(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"lengthened": func(p string) error { return os.WriteFile(p, make([]byte, 101), 0o600) },
		"shortened":  func(p string) error { return os.Truncate(p, 99) },
		"missing":    os.Remove,
		"a link":     func(p string) error { return errors.Join(os.Remove(p), os.Symlink("a", p)) },
	} {
		root, journal := recorded(t, tarOf(t, file("a", 100), file("b", 100)))
		if err := change(filepath.Join(root, "b")); err != nil {
			t.Fatal(err)
		}
		if err := Write(t.Context(), io.Discard, journal, root, nil); !errkind.Is(err, errkind.DataLoss) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestFilesThatWereMovedAreLocated(t *testing.T) {
	t.Parallel()
	b := tarOf(t, file("lib/a", 100))
	root, journal := recorded(t, b)
	if err := os.Rename(filepath.Join(root, "lib"), filepath.Join(root, "usr")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	locate := func(name string) (string, error) { return "usr/" + filepath.Base(name), nil }
	if err := Write(t.Context(), &out, journal, root, locate); err != nil || !bytes.Equal(out.Bytes(), b) {
		t.Errorf("%v", err)
	}
}

func TestRecordingNeverFailsTheUnpack(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	b := tarOf(t, file("a", 5000), file("b", 3<<20))
	journal := filepath.Join(t.TempDir(), "j")
	r, err := Record(journal)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.file.Close(); err != nil { // as a full disk would
		t.Fatal(err)
	}
	root := t.TempDir()
	if _, err := unpack.Layer(t.Context(), bytes.NewReader(b), root, unpack.DefaultLimits(), r); err != nil {
		t.Error(err)
	}
	if err := r.Finish(); err == nil {
		t.Error("what could not be written was recorded")
	}
	if _, err := os.Stat(journal); !os.IsNotExist(err) {
		t.Errorf("a journal is left: %v", err)
	}
	if r, err = Record(journal); err != nil {
		t.Fatal(err)
	}
	cut := iotest.TimeoutReader(bytes.NewReader(b))
	if _, err := unpack.Layer(t.Context(), cut, t.TempDir(), unpack.DefaultLimits(), r); err == nil {
		t.Error("the unpacker does not see its source's failure")
	}
	r.Abort()
	var none *Recorder
	none.Raw(nil)
	none.File("", 0)
	none.Abort()
	if err := none.Finish(); err != nil {
		t.Errorf("a nil recorder does something: %v", err)
	}
}
