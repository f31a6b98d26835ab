package named

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func open(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func nobody(string) []string { return nil }
func alone() bool            { return false }

func clean(t *testing.T, s *Store) {
	t.Helper()
	if problems, err := s.Check(); err != nil || len(problems) > 0 {
		t.Errorf("check: %q, %v", problems, err)
	}
}

func TestAVolumeOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, root)
	v, made, err := s.Create(t.Context(), "data", map[string]string{"a": "b"})
	if err != nil || !made || v.Labels["a"] != "b" {
		t.Fatalf("%+v, %v, %v", v, made, err)
	}
	if err := os.WriteFile(v.Path+"/file", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, root)
	again, made, err := s.Create(t.Context(), "data", nil)
	if err != nil || made || again.Path != v.Path || again.Labels["a"] != "b" || !again.Created.Equal(v.Created) {
		t.Errorf("%+v, %v, %v", again, made, err)
	}
	if n, err := s.Usage(t.Context(), "data"); err != nil || n == 0 {
		t.Errorf("usage %d, %v", n, err)
	}
	if list := s.List(); len(list) != 1 || list[0].Name != "data" {
		t.Errorf("%+v", list)
	}
	clean(t, s)
	if err := s.Remove(t.Context(), "data", nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("data"); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("removed: %v", err)
	}
	if _, err := os.Lstat(v.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
	clean(t, open(t, root))
}

func TestNamesThatAreNone(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	for _, name := range []string{"", ".", "..", "a/b", "../a", "-a", ".hidden", "a\x00", "a.partial", strings.Repeat("a", 129)} {
		if _, _, err := s.Create(t.Context(), name, nil); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%q: %v", name, err)
		}
	}
	clean(t, s)
}

func TestAVolumeInUseStays(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	v, _, err := s.Create(t.Context(), "data", nil)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Remove(t.Context(), "data", func(path string) []string {
		if path != v.Path {
			t.Errorf("asked for %s", path)
		}
		return []string{"web"}
	})
	if !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "web") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(v.Path); err != nil {
		t.Error(err)
	}
}

// Only an empty volume that is nobody else's is filled, and one that was
// removed is not mounted.
func TestPrepare(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	v, _, err := s.Create(t.Context(), "data", nil)
	if err != nil {
		t.Fatal(err)
	}
	fills := 0
	fill := func(dst string) error {
		fills++
		return os.WriteFile(filepath.Join(dst, "file"), nil, 0o600)
	}
	if err := s.Prepare("/srv/www", alone, fill); err != nil || fills != 0 {
		t.Errorf("a host path: %v, %d", err, fills)
	}
	if err := s.Prepare(v.Path, func() bool { return true }, fill); err != nil || fills != 0 {
		t.Errorf("another's: %v, %d", err, fills)
	}
	for range 2 {
		if err := s.Prepare(v.Path, alone, fill); err != nil || fills != 1 {
			t.Errorf("%v, %d", err, fills)
		}
	}
	if err := s.Remove(context.Background(), "data", nobody); err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(v.Path, alone, fill); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("removed: %v", err)
	}
}

// What a crash cut is finished, and what has no record is told of and stays.
func TestOpenFinishes(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, root)
	for _, name := range []string{"dying", "unmade"} {
		if _, _, err := s.Create(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.dir("dying")+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.rows.Put("dying", row{Name: "dying", Removing: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.dir("unmade")); err != nil {
		t.Fatal(err)
	}
	s = open(t, root)
	clean(t, s)
	if list := s.List(); len(list) != 1 || list[0].Name != "unmade" {
		t.Errorf("%+v", list)
	}
	if err := os.Mkdir(s.dir("stranger"), 0o755); err != nil {
		t.Fatal(err)
	}
	s = open(t, root)
	if problems, err := s.Check(); err != nil || len(problems) != 1 || !strings.Contains(problems[0], "stranger") {
		t.Errorf("%q, %v", problems, err)
	}
	if _, _, err := s.Create(t.Context(), "stranger", nil); !errkind.Is(err, errkind.AlreadyExists) {
		t.Errorf("took over a stranger's directory: %v", err)
	}
}
