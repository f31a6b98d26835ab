package atomicfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
)

func TestReplace(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(string, []byte, os.FileMode) error{"durable": atomicfile.Write, "volatile": atomicfile.WriteVolatile} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "row")
			old, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer old.Close()
			if err := write(path, []byte("new"), 0o640); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != "new" {
				t.Errorf("read %q, %v", b, err)
			}
			st, err := os.Stat(path)
			if err != nil || st.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v", st.Mode(), err)
			}
			// Who had the old file open keeps the old file.
			if st, err := old.Stat(); err != nil || st.Size() != 0 {
				t.Errorf("the old file was written to: %v, %v", st.Size(), err)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 1 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestFailureLeavesTheOldFileAndNoOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "taken") // a directory with content cannot be replaced
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("new"), 0o600); err == nil {
		t.Fatal("a directory was replaced by a file")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
