package tarsplit

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-runtime/berth/imageservice/unpack"
)

// FuzzWrite looks for a tar that can be unpacked and does not come again to
// the byte, from its first journal or, if it overwrites itself, from the second.
func FuzzWrite(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root")
	}
	for _, headers := range [][]tar.Header{
		{folder("a/"), file("a/b", 600), file("c", 0)},
		{file("a", 700), file("a", 5), {Name: "l", Typeflag: tar.TypeLink, Linkname: "a"}},
		{{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "e"}, file("d/f", 9), file("e/.wh.x", 3)},
		{{Name: "p", Typeflag: tar.TypeReg, Size: 3, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}},
	} {
		f.Add(tarFor(f, headers))
	}
	f.Add(append(tarFor(f, []tar.Header{file("a", 3)}), "trailing"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		root, journal := t.TempDir(), filepath.Join(t.TempDir(), "j")
		r, err := Record(journal)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unpack.Layer(t.Context(), bytes.NewReader(b), root, unpack.Limits{Entries: 1000, Bytes: 1 << 20}, r); err != nil {
			r.Abort()
			return
		}
		if err := r.Finish(); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := Write(t.Context(), &out, journal, root, nil); err == nil && bytes.Equal(out.Bytes(), b) {
			return
		}
		if err := Again(journal, bytes.NewReader(b), root); err != nil {
			t.Fatal(err)
		}
		out.Reset()
		if err := Write(t.Context(), &out, journal, root, nil); err != nil || !bytes.Equal(out.Bytes(), b) {
			t.Errorf("%d bytes became %d (%v)", len(b), out.Len(), err)
		}
	})
}

func tarFor(f *testing.F, headers []tar.Header) []byte {
	f.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}
