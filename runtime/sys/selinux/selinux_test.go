package selinux

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func mustParse(t *testing.T, s string) Label {
	t.Helper()
	l, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func policy(t *testing.T) *Policy {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lxc_contexts")
	text := "# of containers\nprocess = \"system_u:system_r:container_t:s0\"\ncontent = \"system_u:object_r:virt_var_lib_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\nro_file=\"system_u:object_r:container_ro_file_t:s0\"\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := readContexts(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParse(t *testing.T) {
	t.Parallel()
	const text = "system_u:system_r:container_t:s0-s0:c0.c1023"
	if l := mustParse(t, text); l.Type != "container_t" || l.Level != "s0-s0:c0.c1023" || l.String() != text {
		t.Errorf("%+v", l)
	}
	for _, bad := range []string{"", "a", "a:b:c", ":b:c:s0", "a:b::s0", "a:b:c:"} {
		if l, err := Parse(bad); err == nil {
			t.Errorf("%q is %v", bad, l)
		}
	}
	if got := (Label{}).String(); got != "" {
		t.Errorf("no label is %q", got)
	}
}

func TestPolicyThatSaysNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lxc_contexts")
	for _, text := range []string{"", "process = \"a:b:c:s0\"\n", "process = x\nfile = \"a:b:c:s0\"\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if p, err := readContexts(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	p := policy(t)
	for name, c := range map[string]struct {
		asked         Label
		process, file string
	}{
		"nothing": {Label{}, "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"},
		"level":   {Label{Level: "s0:c7,c8"}, "system_u:system_r:container_t:s0:c7,c8", "system_u:object_r:container_file_t:s0:c7,c8"},
		"type":    {Label{Type: "spc_t"}, "system_u:system_r:spc_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"},
		"all":     {Label{"u", "r", "t", "s0"}, "u:r:t:s0", "u:object_r:container_file_t:s0"},
		"range":   {Label{Level: "s0-s15:c0.c1023,c3"}, "system_u:system_r:container_t:s0-s15:c0.c1023,c3", "system_u:object_r:container_file_t:s0-s15:c0.c1023,c3"},
	} {
		process, file, err := p.Labels(c.asked, "s0:c1,c2")
		if err != nil || process.String() != c.process || file.String() != c.file {
			t.Errorf("%s: %s, %s, %v; want %s, %s", name, process, file, err, c.process, c.file)
		}
	}
	for name, asked := range map[string]Label{
		"level without s": {Level: "0:c1"}, "level of words": {Level: "SystemLow"}, "level with a quote": {Level: `s0:c1"`}, "level and more": {Level: "s0:c1,c2,rw"},
		"type with a colon": {Type: "a:b"}, "user with a comma": {User: "a,b"}, "role with NUL": {Role: "a\x00"}, "type with a quote": {Type: `a"`},
	} {
		if _, _, err := p.Labels(asked, "s0"); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
}

func TestFreeLevel(t *testing.T) {
	t.Parallel()
	taken := map[string]bool{}
	for range 5000 {
		l, err := FreeLevel(taken)
		if err != nil || taken[l] || !level.MatchString(l) {
			t.Fatalf("%q, %v", l, err)
		}
		taken[l] = true
	}
	for a := range categories {
		for b := a + 1; b < categories; b++ {
			taken["s0:c"+itoa(a)+",c"+itoa(b)] = true
		}
	}
	if l, err := FreeLevel(taken); !errkind.Is(err, errkind.ResourceExhausted) {
		t.Errorf("with all taken: %q, %v", l, err)
	}
}

func itoa(n int) string { return strings.TrimPrefix(name(n), "/proc/self/fd/") }

// labelOf reads it from the file itself, not from what it may lead to.
func labelOf(t *testing.T, path string) string {
	t.Helper()
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(path, attribute, b)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b[:n]), "\x00")
}

// TestRelabel labels a tree of all kinds of files, and what lies beside it
// keeps its own.
func TestRelabel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	tree, outside := filepath.Join(dir, "tree"), filepath.Join(dir, "outside")
	for _, d := range []string{filepath.Join(tree, "a/b"), outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file, link, fifo, secret := filepath.Join(tree, "a/b/file"), filepath.Join(tree, "a/link"), filepath.Join(tree, "fifo"), filepath.Join(outside, "secret")
	for _, f := range []string{file, secret} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	before := labelOf(t, outside) // none where there is no SELinux
	want := mustParse(t, "system_u:object_r:container_file_t:s0:c1,c2")
	if err := Relabel(tree, want); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{tree, filepath.Join(tree, "a"), filepath.Join(tree, "a/b"), file, link, fifo} {
		if got := labelOf(t, path); got != want.String() {
			t.Errorf("%s has the label %q", path, got)
		}
	}
	for _, path := range []string{dir, outside, secret} {
		if got := labelOf(t, path); got != before {
			t.Errorf("%s, which is not in the tree, has the label %q", path, got)
		}
	}
	// A link to the tree is the tree.
	other := mustParse(t, "system_u:object_r:container_file_t:s0")
	to := filepath.Join(dir, "to")
	if err := os.Symlink(tree, to); err != nil {
		t.Fatal(err)
	}
	if err := Relabel(to, other); err != nil || labelOf(t, file) != other.String() || labelOf(t, to) != before {
		t.Errorf("by a link: %v, file %q, link %q", err, labelOf(t, file), labelOf(t, to))
	}
	if err := RelabelUnlike(tree, other); err != nil || labelOf(t, fifo) != other.String() {
		t.Errorf("a tree that has the label: %v, %q", err, labelOf(t, fifo))
	}
	if err := Set(fifo, want.String()); err != nil || labelOf(t, fifo) != want.String() {
		t.Errorf("set: %v, %q", err, labelOf(t, fifo))
	}
	// The topmost tells for all below it, until it has another label.
	if err := RelabelUnlike(tree, other); err != nil || labelOf(t, fifo) != want.String() {
		t.Errorf("a tree that has the label but for one file: %v, %q", err, labelOf(t, fifo))
	}
	if err := RelabelUnlike(tree, want); err != nil || labelOf(t, file) != want.String() {
		t.Errorf("a tree that has another: %v, %q", err, labelOf(t, file))
	}
}

// T-ROOT. CVE-2021-43816: what the host lives by is not relabelled, by whatever
// path it is named.
func TestRelabelRefuses(t *testing.T) {
	t.Parallel()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/etc", "/etc/", "/usr/../etc", link, link + "/."} {
		if err := Relabel(path, Label{"a", "b", "c", "s0"}); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %v, want InvalidArgument", path, err)
		}
	}
	if err := Relabel("/no/such/path", Label{"a", "b", "c", "s0"}); err == nil {
		t.Error("a path that is absent was relabelled")
	}
}

// T-ROOT: whoever owns the tree swaps a directory of it for a link that leads
// out, again and again; what lies outside keeps its label.
func TestRelabelWhileLinksAreSwapped(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	outside, inside, link := filepath.Join(dir, "outside"), filepath.Join(dir, "tree/a"), filepath.Join(dir, "tree/link")
	for _, d := range []string{outside, inside} {
		if err := os.MkdirAll(filepath.Join(d, "b"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	before := labelOf(t, outside)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, inside, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for i := range 500 {
		if err := Relabel(filepath.Join(dir, "tree"), Label{"system_u", "object_r", "container_file_t", "s0:c1,c" + itoa(i+2)}); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	<-stopped
	for _, path := range []string{outside, filepath.Join(outside, "b")} {
		if got := labelOf(t, path); got != before {
			t.Errorf("%s, which is not in the tree, has the label %q", path, got)
		}
	}
}

// T-LIM: each level of a tree takes a descriptor, so there is a bound.
func TestLIMRelabelIsBoundedInDepth(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	fd, err := open(unix.AT_FDCWD, dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range deepest + 1 {
		if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := open(fd, "d", 0)
		_ = unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	_ = unix.Close(fd)
	if err := Relabel(dir, Label{"a", "b", "c", "s0"}); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}
