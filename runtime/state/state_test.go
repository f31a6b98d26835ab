package state_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-runtime/berth/runtime/state"
)

type row struct{ Name string }

func TestRowsSurviveReopenAndBrokenOnesAreSetAside(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pods")
	rows, err := state.Open[row](dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := rows.Put("a", row{"first"}); err != nil {
		t.Fatal(err)
	}
	if err := rows.Update("a", row{"second"}); err != nil {
		t.Fatal(err)
	}
	// A torn write leaves a temporary file, or (another writer's fault) a half row.
	for name, content := range map[string]string{".tmp-b.json-1": "{", "c.json": `{"Name":`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rows, err = state.Open[row](dir)
	if err != nil {
		t.Fatal(err)
	}
	all, broken, err := rows.All()
	if err != nil || len(all) != 1 || all["a"].Name != "second" || len(broken) != 1 {
		t.Fatalf("rows %v, broken %v, err %v", all, broken, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "c.json.broken")); err != nil {
		t.Fatalf("the broken row was not kept: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, ".tmp-b.json-1")); !os.IsNotExist(err) {
		t.Fatalf("the temporary file is still there: %v", err)
	}
	for range 2 {
		if err := rows.Delete("a"); err != nil {
			t.Fatal(err)
		}
	}
}
