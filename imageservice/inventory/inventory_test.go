package inventory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// plant makes a directory with one file of each kind, and its inventory.
func plant(t *testing.T) (file, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	file, dir = filepath.Join(t.TempDir(), "inventory"), t.TempDir()
	for _, err := range []error{
		os.MkdirAll(dir+"/etc/deep", 0o755),
		os.WriteFile(dir+"/etc/passwd", []byte("root:x:0:0"), 0o644),
		os.WriteFile(dir+"/etc/empty", nil, 0o600),
		os.WriteFile(dir+"/etc/tool", []byte("#!"), 0o755),
		unix.Setxattr(dir+"/etc/tool", "user.a", []byte("1"), 0),
		os.WriteFile(dir+"/odd \"name\"\n\xff", []byte("odd"), 0o644),
		os.Symlink("etc/passwd", dir+"/link"),
		os.Link(dir+"/etc/passwd", dir+"/etc/deep/hard"),
		unix.Mknod(dir+"/gone", unix.S_IFCHR, 0), // a whiteout
		unix.Mkfifo(dir+"/fifo", 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := Write(file, dir, nil); err != nil {
		t.Fatal(err)
	}
	return file, dir
}

func verify(t *testing.T, file, dir string, depth Depth) []Fault {
	t.Helper()
	faults, err := Verify(context.Background(), file, dir, depth)
	if err != nil {
		t.Fatal(err)
	}
	return faults
}

func TestWhatIsSoundHasNoFaults(t *testing.T) {
	t.Parallel()
	file, dir := plant(t)
	for _, depth := range []Depth{Metadata, Contents} {
		if faults := verify(t, file, dir, depth); len(faults) > 0 {
			t.Errorf("depth %d: %q", depth, faults)
		}
	}
}

func TestEveryFaultIsNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file, what string
		quick      bool // found without reading contents
		spoil      func(dir string) error
	}{
		"flipped byte": {"etc/passwd", "its content differs", false, func(dir string) error {
			return overwrite(dir+"/etc/passwd", "root:x:0:1")
		}},
		"time": {"etc/deep", "its time is 1970-01-01T00:00:05.000000007Z and was", true, func(dir string) error {
			return os.Chtimes(dir+"/etc/deep", time.Time{}, time.Unix(5, 7))
		}},
		"time of a link": {"link", "its time is", true, func(dir string) error {
			t := []unix.Timespec{{Sec: 5}, {Sec: 5}}
			return unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/link", t, unix.AT_SYMLINK_NOFOLLOW)
		}},
		"lost attribute":  {"etc/tool", "its extended attributes differ", true, func(dir string) error { return unix.Removexattr(dir+"/etc/tool", "user.a") }},
		"other attribute": {"etc/tool", "its extended attributes differ", true, func(dir string) error { return unix.Setxattr(dir+"/etc/tool", "user.a", []byte("2"), 0) }},
		"large attribute": {"etc", "its extended attributes differ", true, func(dir string) error { return unix.Setxattr(dir+"/etc", "user.b", make([]byte, 3000), 0) }},
		"device": {"gone", "its content differs", true, func(dir string) error {
			_ = os.Remove(dir + "/gone")
			return unix.Mknod(dir+"/gone", unix.S_IFCHR, int(unix.Mkdev(1, 3)))
		}},
		"cut":     {"etc/passwd", "it has 4 bytes and had 10", true, func(dir string) error { return os.Truncate(dir+"/etc/passwd", 4) }},
		"lost":    {"etc/empty", "it is gone", true, func(dir string) error { return os.Remove(dir + "/etc/empty") }},
		"mode":    {"etc/empty", "its mode is 104755 and was 100600", true, func(dir string) error { return unix.Chmod(dir+"/etc/empty", 0o4755) }},
		"owner":   {"etc", "its owner is 5:0 and was 0:0", true, func(dir string) error { return os.Chown(dir+"/etc", 5, -1) }},
		"foreign": {"etc/new", "it is not of the layer", true, func(dir string) error { return os.WriteFile(dir+"/etc/new", nil, 0o644) }},
		"link": {"link", "its content differs", true, func(dir string) error {
			_ = os.Remove(dir + "/link")
			return os.Symlink("etc/shadow", dir+"/link")
		}},
		"kind": {"fifo", "its mode is", true, func(dir string) error {
			_ = os.Remove(dir + "/fifo")
			return os.Symlink("/etc/shadow", dir+"/fifo")
		}},
		"odd name": {"odd \"name\"\n\xff", "its content differs", false, func(dir string) error {
			return overwrite(dir+"/odd \"name\"\n\xff", "ODD")
		}},
	} {
		file, dir := plant(t)
		if err := c.spoil(dir); err != nil {
			t.Fatal(err)
		}
		found := func(f Fault) bool { return f.File == c.file && strings.HasPrefix(f.What, c.what) }
		if got := verify(t, file, dir, Contents); !slices.ContainsFunc(got, found) {
			t.Errorf("%s: got %q", name, got)
		}
		if got := verify(t, file, dir, Metadata); c.quick != slices.ContainsFunc(got, found) {
			t.Errorf("%s: the quick look gives %q", name, got)
		}
	}
}

// overwrite changes a file's content as a disk would, of which nobody knows.
func overwrite(path, content string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, []byte(content), 0o644), os.Chtimes(path, time.Time{}, fi.ModTime()))
}

// Those of version 1 tell less, and what they tell is compared.
func TestOldInventories(t *testing.T) {
	t.Parallel()
	file, dir := plant(t)
	var text strings.Builder
	text.WriteString(firstOld + "\n")
	for _, e := range entries(t, file) {
		fmt.Fprintf(&text, "%o %d %d %d %x %q\n", e.mode, e.uid, e.gid, e.size, e.mark, e.name)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, z.EncodeAll([]byte(text.String()+last+"\n"), nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(dir+"/etc/passwd", time.Time{}, time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	if faults := verify(t, file, dir, Contents); len(faults) > 0 {
		t.Errorf("%q", faults)
	}
	if err := os.WriteFile(dir+"/etc/passwd", []byte("ROOT:x:0:0"), 0o644); err != nil {
		t.Fatal(err)
	}
	if faults := verify(t, file, dir, Contents); len(faults) != 2 || faults[0].What != "its content differs" {
		t.Errorf("%q", faults)
	}
}

func TestDamagedInventoryIsAFault(t *testing.T) {
	t.Parallel()
	file, dir := plant(t)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sound := entries(t, file)
	for n := range whole {
		cut, flipped := whole[:n], slices.Clone(whole)
		flipped[n] ^= 0x10
		for what, b := range map[string][]byte{"cut": cut, "flipped": flipped} {
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			// A few bits of the compressed form mean nothing.
			if faults := verify(t, file, dir, Metadata); len(faults) == 0 && !slices.Equal(entries(t, file), sound) {
				t.Errorf("%s at byte %d: no fault", what, n)
			}
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if faults := verify(t, file, dir, Metadata); len(faults) != 1 || faults[0].File != "" {
		t.Errorf("without an inventory: %q", faults)
	}
	if faults := verify(t, file, filepath.Join(dir, "absent"), Metadata); len(faults) != 1 {
		t.Errorf("without a directory: %q", faults)
	}
}

func entries(t *testing.T, file string) (all []entry) {
	t.Helper()
	if err := read(file, func(e entry) error { all = append(all, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestVerifyStops(t *testing.T) {
	t.Parallel()
	file, dir := plant(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Verify(ctx, file, dir, Contents); err == nil {
		t.Error("it went on")
	}
}

// A sum that was taken while the file was written is believed: what differs
// from it on disk is a fault from the beginning.
func TestSumsAreThoseOfWhatWasWritten(t *testing.T) {
	t.Parallel()
	_, dir := plant(t)
	var st unix.Stat_t
	if err := unix.Stat(dir+"/etc/passwd", &st); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "inventory")
	if err := Write(file, dir, map[uint64]uint32{st.Ino: 42}); err != nil {
		t.Fatal(err)
	}
	want := []Fault{{"etc/deep/hard", "its content differs"}, {"etc/passwd", "its content differs"}}
	got := verify(t, file, dir, Contents)
	slices.SortFunc(got, func(a, b Fault) int { return strings.Compare(a.File, b.File) })
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
