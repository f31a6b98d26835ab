package imageservice

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// What a container did to its files, of every kind, is what a container of an
// image sees that has it as one more layer.
func TestDiffIsALayer(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := openStore(t)
	host := startRegistry(t)
	base := gzLayer(t, dir("./", 0o711), dir("d", 0o755), file("d/gone", "1"), file("d/kept", "2"),
		dir("hidden", 0o755), file("hidden/old", "3"), file("changed", "4"))
	push(t, host+"/x:v1", makeImage(t, base))
	image := mustPull(t, s, host+"/x:v1")
	before := mountImage(t, s, "c1", image.ID)
	for what, err := range map[string]error{
		"delete":  os.Remove(filepath.Join(before, "d/gone")),
		"empty":   os.RemoveAll(filepath.Join(before, "hidden")),
		"change":  os.WriteFile(filepath.Join(before, "changed"), []byte("5"), 0o644),
		"new":     os.WriteFile(filepath.Join(before, "new"), bytes.Repeat([]byte("x"), 70_000), 0o600),
		"fifo":    unix.Mkfifo(filepath.Join(before, "fifo"), 0o640),
		"device":  unix.Mknod(filepath.Join(before, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		"symlink": os.Symlink("../../etc/passwd", filepath.Join(before, "link")),
		"long":    os.MkdirAll(filepath.Join(before, "d", string(bytes.Repeat([]byte("n"), 200)), "deep"), 0o700),
		"root":    unix.Chmod(before, 0o751),
	} {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"again":  os.Mkdir(filepath.Join(before, "hidden"), 0o700), // hides what the image has there
		"link":   os.Link(filepath.Join(before, "new"), filepath.Join(before, "d/other")),
		"owner":  os.Lchown(filepath.Join(before, "new"), 33, 34),
		"setuid": unix.Chmod(filepath.Join(before, "new"), 0o4755),
		"xattr":  unix.Setxattr(filepath.Join(before, "new"), "user.a", []byte("\x00\xff"), 0),
	} {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	var diff bytes.Buffer
	if err := s.WriteDiff(t.Context(), "c1", &diff); err != nil {
		t.Fatal(err)
	}
	push(t, host+"/x:v2", makeImage(t, base, makeLayer(t, types.OCILayer, gz, diff.Bytes())))
	after := mountImage(t, s, "c2", mustPull(t, s, host+"/x:v2").ID)
	if want, got := list(t, before), list(t, after); got != want {
		t.Errorf("after the diff was applied there is\n%s\nwant\n%s", got, want)
	}
	absent(t, filepath.Join(after, "d/gone"))
	absent(t, filepath.Join(after, "hidden/old"))
	if err := s.Prepare(t.Context(), "c3", image.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.ApplyDiff(t.Context(), "c3", bytes.NewReader(diff.Bytes())); err != nil {
		t.Fatal(err)
	}
	if err := s.ApplyDiff(t.Context(), "c3", bytes.NewReader(diff.Bytes())); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("the changes a second time: %v", err)
	}
	if want, got := list(t, before), list(t, mountImage(t, s, "c3", image.ID)); got != want {
		t.Errorf("a container that was given the changes has\n%s\nwant\n%s", got, want)
	}
	if err := s.WriteDiff(t.Context(), "none", &diff); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("the diff of no container: %v", err)
	}
	sound(t, s)
}

// The changes of a container that was saved are as hostile as a layer.
func TestHostileChanges(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := openStore(t)
	host := startRegistry(t)
	push(t, host+"/x:v1", makeImage(t, gzLayer(t, dir("d", 0o755), file("d/kept", "2"))))
	image := mustPull(t, s, host+"/x:v1")
	outside := filepath.Join(t.TempDir(), "outside")
	for i, c := range []struct {
		what    string
		entries []entry
	}{
		{"a file through a link", []entry{symlink("l", filepath.Dir(outside)), file("l/outside", "evil")}},
		{"a file above", []entry{file("../../../outside", "evil")}},
		{"all of the image hidden", []entry{file(".wh..wh..opq", "")}},
	} {
		id := fmt.Sprint("c", i)
		if err := s.Prepare(t.Context(), id, image.ID); err != nil {
			t.Fatal(err)
		}
		err := s.ApplyDiff(t.Context(), id, bytes.NewReader(makeTar(t, c.entries...)))
		if _, serr := os.Lstat(outside); serr == nil {
			t.Errorf("%s: it reached the host", c.what)
		}
		if i == 2 && !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %v", c.what, err)
		}
		if err := s.Discard(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if err := s.ApplyDiff(t.Context(), "none", bytes.NewReader(nil)); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("the changes of no container: %v", err)
	}
	sound(t, s)
}
