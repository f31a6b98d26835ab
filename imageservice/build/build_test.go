package build

import (
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// treeOf is a tree of files by name; a content that begins with -> is a link.
func treeOf(files map[string]string) *archive {
	a := emptyArchive()
	s := &spooler{archive: a, limits: archiveLimits{entries: 1000}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		m := &member{node: node{mode: unix.S_IFREG | 0o644}}
		if to, ok := strings.CutPrefix(files[name], "->"); ok {
			m.mode, m.link = unix.S_IFLNK|0o777, to
		}
		if strings.HasSuffix(name, "/") {
			m.mode, m.below = unix.S_IFDIR|0o755, map[string]*member{}
		}
		if err := s.put(components(name), m); err != nil {
			panic(err)
		}
	}
	return a
}

func TestResolve(t *testing.T) {
	t.Parallel()
	tr := treeOf(map[string]string{
		"usr/lib/": "", "usr/lib/f": "", "lib": "->usr/lib", "abs": "->/usr", "up": "->../../..", "a/b/c": "->../../lib/f", "loop": "->loop", "chain": "->abs/lib",
		"dangling": "->nowhere/x",
	})
	for p, want := range map[string]string{
		"lib/f": "usr/lib/f", "/lib/../f": "usr/f", "abs/lib": "usr/lib", "up/lib": "usr/lib", "a/b/c": "usr/lib/f", "chain/f": "usr/lib/f", "../../usr": "usr",
		"": "", "/": "", "new/x": "new/x", "dangling": "nowhere/x", "lib": "usr/lib",
	} {
		got, n, err := resolve(tr, p)
		if err != nil || got != want || (n == nil) != (path.Base(want) == "x" || want == "usr/f") {
			t.Errorf("%q leads to %q (%v, %v), want %q", p, got, n, err, want)
		}
	}
	for _, p := range []string{"loop", "loop/x", "usr/lib/f/x"} {
		if got, _, err := resolve(tr, p); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%q leads to %q, %v", p, got, err)
		}
	}
}

func TestGlob(t *testing.T) {
	t.Parallel()
	tr := treeOf(map[string]string{"a.go": "", "b.go": "", "c.txt": "", "d/x.go": "", "e/x.go": "", "l": "->d", "[x]": ""})
	for p, want := range map[string]string{
		"*.go": "a.go b.go", "plain": "plain", "*/x.go": "d/x.go e/x.go l/x.go", "?.txt": "c.txt", "[ab].go": "a.go b.go", "none*": "", "d/*": "d/x.go", `\[x]`: "[x]",
	} {
		got, err := glob(tr, p)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q matches %q (%v), want %q", p, got, err, want)
		}
	}
	if _, err := glob(tr, "[a-"); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("a bad pattern: %v", err)
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"80": "80/tcp", "53/UDP": "53/udp", "1-3/sctp": "1/sctp 2/sctp 3/sctp", "0": "", "x": "", "80/x": "", "5-4": "", "1-65535": "", "70000": ""} {
		got, err := parsePort(text)
		if strings.Join(got, " ") != want || (want == "") != (err != nil) {
			t.Errorf("%q is %v (%v), want %q", text, got, err, want)
		}
	}
}

// A file, a directory and a link of an archive are what they are in tar(1): the
// last of a name wins, and nothing lies below a file.
func TestArchiveNames(t *testing.T) {
	t.Parallel()
	a := treeOf(map[string]string{"f": "", "f/below": "", "l": "->/etc", "l/passwd": ""})
	for name, dir := range map[string]bool{"f": true, "f/below": false, "l": true, "l/passwd": false} {
		n, err := a.lstat(name)
		if err != nil || n.isDir() != dir {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
	if _, err := a.lstat("etc"); err == nil {
		t.Error("a link was followed")
	}
}
