package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

var testKey = Key(strings.Repeat("k", minKey))

// entry is one of a tar, as hostile as a test wants it.
type entry struct {
	name     string
	typeflag byte
	link     string
	body     string
	pax      map[string]string
}

func makeTar(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.typeflag, Linkname: e.link, Mode: 0o777, PAXRecords: e.pax}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(e.body))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sealPod makes the checkpoint of a pod whose one archive has those bytes.
func sealPod(t *testing.T, archive []byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	sum := sha256.Sum256(archive)
	c := PodContainer{Name: "c", Archive: strings.Repeat("a", 64) + ".tar", Size: int64(len(archive)), SHA256: hex.EncodeToString(sum[:])}
	if err := os.WriteFile(filepath.Join(dir, c.Archive), archive, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Seal(dir, Pod{Version: Version, Containers: []PodContainer{c}}, testKey); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWhatIsSealedIsOpened(t *testing.T) {
	t.Parallel()
	dir := sealPod(t, makeTar(t, entry{name: "checkpoint/", typeflag: tar.TypeDir}, entry{name: "checkpoint/core-1.img", body: "core"}, entry{name: "spec.dump", body: "{}"}))
	p, err := Open(dir, testKey)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "to")
	if err := p.Containers[0].Unpack(t.Context(), dir, to); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"checkpoint/core-1.img": "core", "spec.dump": "{}"} {
		path := filepath.Join(to, name)
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s is %q, %v", name, b, err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
			t.Errorf("%s has mode %v, %v", name, st.Mode(), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Containers[0].Unpack(ctx, dir, to+"2"); !errors.Is(err, context.Canceled) {
		t.Errorf("whose caller has gone: %v", err)
	}
}

// The law that archives are hostile: whatever is not what Seal wrote with this
// key is refused, and names what it is.
func TestDescriptionsThatAreRefused(t *testing.T) {
	t.Parallel()
	index := func(change func(*Pod)) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			p, err := Open(dir, testKey)
			if err != nil {
				t.Fatal(err)
			}
			if change(&p); Seal(dir, p, testKey) != nil {
				t.Fatal("cannot seal it")
			}
		}
	}
	write := func(name, text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	sealText := func(text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			write(PodFile, text)(t, dir)
			write(SealFile, string(testKey.seal([]byte(text))))(t, dir)
		}
	}
	replace := func(name string, by func(path string) error) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.Rename(path, path+".was"), by(path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for what, c := range map[string]struct {
		change func(t *testing.T, dir string)
		says   string
	}{
		"changed":                {write(PodFile, `{"version": 2}`), "another key"},
		"another's seal":         {write(SealFile, strings.Repeat("0", 64)), "another key"},
		"an empty seal":          {write(SealFile, ""), "another key"},
		"no seal":                {replace(SealFile, func(string) error { return nil }), "no such file"},
		"no description":         {replace(PodFile, func(string) error { return nil }), "no such file"},
		"a link":                 {replace(PodFile, func(path string) error { return os.Symlink(path+".was", path) }), "symbolic links"},
		"a directory":            {replace(PodFile, func(path string) error { return os.Mkdir(path, 0o700) }), "no regular file"},
		"a FIFO":                 {replace(PodFile, func(path string) error { return unix.Mkfifo(path, 0o600) }), "no regular file"},
		"ten thousand times":     {sealText(strings.Repeat(" ", 10_000*4096) + "{}"), "more than"},
		"no JSON":                {sealText("{"), "unexpected EOF"},
		"more than it may say":   {sealText(`{"version": 2, "hooks": []}`), "unknown field"},
		"another version":        {index(func(p *Pod) { p.Version = 1 }), "version 1"},
		"no containers":          {index(func(p *Pod) { p.Containers = nil }), "0 containers"},
		"too many containers":    {index(func(p *Pod) { p.Containers = make([]PodContainer, maxContainers+1) }), "containers, not from"},
		"a name twice":           {index(func(p *Pod) { p.Containers = append(p.Containers, p.Containers[0]) }), "twice"},
		"a path for an archive":  {index(func(p *Pod) { p.Containers[0].Archive = "../" + p.Containers[0].Archive }), "not named like one"},
		"an absolute path":       {index(func(p *Pod) { p.Containers[0].Archive = "/etc/shadow" }), "not named like one"},
		"no digest":              {index(func(p *Pod) { p.Containers[0].SHA256 = "" }), "digest"},
		"a negative size":        {index(func(p *Pod) { p.Containers[0].Size = -1 }), "size"},
		"a name that is nothing": {index(func(p *Pod) { p.Containers[0].Name = "" }), "no name"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := sealPod(t, makeTar(t))
			c.change(t, dir)
			if _, err := Open(dir, testKey); !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want one that says %q", err, c.says)
			}
		})
	}
}

// Even what is sealed has only the files of a checkpoint, and not more bytes
// than it takes itself.
func TestArchivesThatAreRefused(t *testing.T) {
	t.Parallel()
	big := map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": fmt.Sprint(1 << 50), "GNU.sparse.name": "dump.log"}
	for what, c := range map[string]struct {
		archive []byte
		says    string
	}{
		"a file elsewhere":       {makeTar(t, entry{name: "../evil"}), "no file of a checkpoint"},
		"below the images":       {makeTar(t, entry{name: "checkpoint/../../evil"}), "no file of a checkpoint"},
		"an absolute one":        {makeTar(t, entry{name: "/etc/evil"}), "no file of a checkpoint"},
		"a hidden image":         {makeTar(t, entry{name: "checkpoint/.evil"}), "no file of a checkpoint"},
		"a directory of images":  {makeTar(t, entry{name: "checkpoint/a/b"}), "no file of a checkpoint"},
		"another directory":      {makeTar(t, entry{name: "evil/", typeflag: tar.TypeDir}), "no file of a checkpoint"},
		"a file of that name":    {makeTar(t, entry{name: "checkpoint"}), "no file of a checkpoint"},
		"a link":                 {makeTar(t, entry{name: "spec.dump", typeflag: tar.TypeSymlink, link: "/etc/shadow"}), "no file of a checkpoint"},
		"a hard link":            {makeTar(t, entry{name: "spec.dump", typeflag: tar.TypeLink, link: "/etc/shadow"}), "no file of a checkpoint"},
		"a linked directory":     {makeTar(t, entry{name: "checkpoint", typeflag: tar.TypeSymlink, link: "/etc"}), "no file of a checkpoint"},
		"a device":               {makeTar(t, entry{name: "spec.dump", typeflag: tar.TypeBlock}), "no file of a checkpoint"},
		"a FIFO":                 {makeTar(t, entry{name: "spec.dump", typeflag: tar.TypeFifo}), "no file of a checkpoint"},
		"a file twice":           {makeTar(t, entry{name: "status"}, entry{name: "status"}), "twice"},
		"a name of 10,000 bytes": {makeTar(t, entry{name: "checkpoint/" + strings.Repeat("x", 10_000)}), "no file of a checkpoint"},
		"a hole of 1 PiB":        {sparse(t, big), "larger than itself"},
		"no tar":                 {bytes.Repeat([]byte("x"), 1024), "no tar"},
		"half a tar":             {makeTar(t, entry{name: "status", body: strings.Repeat("x", 2048)})[:1024], "larger than itself"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := sealPod(t, c.archive)
			p, err := Open(dir, testKey)
			if err != nil {
				t.Fatal(err)
			}
			to := filepath.Join(t.TempDir(), "to")
			err = p.Containers[0].Unpack(t.Context(), dir, to)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want one that says %q", err, c.says)
			}
			if _, err := os.Lstat(filepath.Join(filepath.Dir(to), "evil")); err == nil {
				t.Error("something was written elsewhere")
			}
		})
	}
}

// sparse makes a tar whose one file is a hole, as GNU tells it in PAX records,
// which Go writes none of.
func sparse(t *testing.T, records map[string]string) []byte {
	t.Helper()
	var pax strings.Builder
	for k, v := range records {
		line := fmt.Sprintf(" %s=%s\n", k, v)
		n := len(line)
		for n != len(line)+len(fmt.Sprint(n)) {
			n = len(line) + len(fmt.Sprint(n))
		}
		fmt.Fprintf(&pax, "%d%s", n, line)
	}
	file := makeTar(t, entry{name: "GNUSparseFile.0/dump.log", body: "0\n" + strings.Repeat("\x00", 510)})
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "pax", Typeflag: tar.TypeReg, Size: int64(pax.Len()), Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(pax.String())); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	head := b.Bytes()
	head[156] = tar.TypeXHeader
	copy(head[148:156], "        ")
	sum := 0
	for _, c := range head[:512] {
		sum += int(c)
	}
	copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return append(head, file...)
}

func TestArchivesThatWereChanged(t *testing.T) {
	t.Parallel()
	archive := makeTar(t, entry{name: "status", body: "{}"}, entry{name: "checkpoint/a.img", body: "a"})
	for what, change := range map[string]func(path string) error{
		"in a file": func(path string) error {
			return os.WriteFile(path, bytes.Replace(archive, []byte("{}"), []byte("[]"), 1), 0o600)
		},
		"after the end": func(path string) error {
			return os.WriteFile(path, append(bytes.Clone(archive[:len(archive)-1]), 1), 0o600)
		},
		"longer":  func(path string) error { return os.WriteFile(path, append(bytes.Clone(archive), 0), 0o600) },
		"shorter": func(path string) error { return os.Truncate(path, 1024) },
		"gone":    os.Remove,
		"a link":  func(path string) error { return errors.Join(os.Rename(path, path+"x"), os.Symlink(path+"x", path)) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := sealPod(t, archive)
			p, err := Open(dir, testKey)
			if err == nil {
				err = change(filepath.Join(dir, p.Containers[0].Archive))
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Containers[0].Unpack(t.Context(), dir, filepath.Join(t.TempDir(), "to")); !errkind.Is(err, errkind.InvalidArgument) {
				t.Errorf("%v, want a refusal", err)
			}
		})
	}
}

// A key that others can read or write vouches for nothing.
func TestKeys(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	if _, err := LoadKey(path, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key that is not there: %v", err)
	}
	made, err := LoadKey(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := LoadKey(path, true); err != nil || string(again) != string(made) || len(made) < 2*minKey {
		t.Errorf("the key is %q and then %q, %v", made, again, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("it has mode %v, %v", st.Mode(), err)
	}
	for says, change := range map[string]func() error{
		"mode 0640":       func() error { return os.Chmod(path, 0o640) },
		"mode 0602":       func() error { return os.Chmod(path, 0o602) },
		"has 31 bytes":    func() error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 31), 0o600) },
		"has 4097 bytes":  func() error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 10_000*maxKey), 0o600) },
		"no regular file": func() error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) },
	} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(path, bytes.Repeat([]byte("x"), minKey), 0o600), change()); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKey(path, true); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want one that says %q", err, says)
		}
	}
}
