package unpack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// cage is a directory to unpack into, with a canary tree beside it of which
// nothing may change.
type cage struct {
	outer, dir string
	before     map[string]string
}

func newCage(t testing.TB) *cage {
	t.Helper()
	needRoot(t)
	c := &cage{outer: t.TempDir()}
	c.dir = filepath.Join(c.outer, "in")
	for _, dir := range []string{c.dir, c.canary("dir"), c.canary("empty")} {
		must(t, os.MkdirAll(dir, 0o750))
	}
	for name, mode := range map[string]os.FileMode{"file": 0o640, "dir/file": 0o600, "dir/program": 0o755} {
		must(t, os.WriteFile(c.canary(name), []byte("alive"), mode))
	}
	must(t, os.Chmod(c.canary("dir/program"), 0o755|os.ModeSetuid))
	must(t, os.Chown(c.canary("dir/file"), 12, 34))
	must(t, os.Link(c.canary("file"), c.canary("hard")))
	must(t, os.Symlink("dir/file", c.canary("link")))
	must(t, unix.Lsetxattr(c.canary("file"), "user.note", []byte("kept"), 0))
	c.before = listing(t, c.outer, c.dir)
	return c
}

func (c *cage) canary(name string) string { return filepath.Join(c.outer, "canary", name) }

// unpack unpacks a tar as the store does, on lowers, and looks at the canary.
func (c *cage) unpack(t testing.TB, tarball []byte, limits Limits, lowers ...string) (Result, error) {
	t.Helper()
	r, err := Layer(context.Background(), bytes.NewReader(tarball), c.dir, limits, nil)
	if err == nil && !r.Alone() {
		r, err = Settle(context.Background(), c.dir, r, lowers)
	}
	c.alive(t)
	return r, err
}

// alive fails the test if anything outside the directory is not as it was, to
// the inode's change time.
func (c *cage) alive(t testing.TB) {
	t.Helper()
	differ(t, "outside", c.before, listing(t, c.outer, c.dir))
}

// differ tells how two listings differ.
func differ(t testing.TB, what string, want, got map[string]string) {
	t.Helper()
	for name, line := range want {
		if got[name] != line {
			t.Errorf("%s: %q is\n\t%s\nand not\n\t%s", what, name, got[name], line)
		}
	}
	for name, line := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: there is %q: %s", what, name, line)
		}
	}
}

// listing says all that can be said of each file below dir but below skip.
func listing(t testing.TB, dir, skip string) map[string]string {
	t.Helper()
	lines := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == skip {
			return fs.SkipDir
		}
		line, err := describe(path)
		lines[path] = line
		return err
	}))
	return lines
}

func describe(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "mode %o owner %d:%d links %d size %d device %d mtime %d.%d ctime %d.%d", st.Mode, st.Uid, st.Gid,
		st.Nlink, st.Size, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		content, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " sum %x", sha256.Sum256(content))
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " to %q", target)
	}
	attributes, err := xattrs(path)
	if err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		fmt.Fprintf(&b, " %s=%q", name, attributes[name])
	}
	return b.String(), nil
}

func xattrs(path string) (map[string]string, error) {
	list, value := make([]byte, maxXattr), make([]byte, maxXattr)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		all[name] = string(value[:n])
	}
	return all, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// child runs one test in a process of its own and gives its output.
func child(t testing.TB, test string, env ...string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+test+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// peak is the line of the most memory that this process had.
func peak(t testing.TB) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM:") {
			return line
		}
	}
	t.Fatal("no VmHWM")
	return ""
}
