package pod_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// bundleSpec is the specification that the shim was given.
func (n *node) bundleSpec(t *testing.T, id string) *specs.Spec {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.cfg.State, "containers", id, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	out := new(specs.Spec)
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out
}
