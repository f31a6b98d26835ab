package cdi_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/cdi"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// A hook without a time limit gets one, and one with its own keeps it.
func TestHooksAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := `{"cdiVersion": "0.7.0", "kind": "v.example/c", "devices": [{"name": "d", "containerEdits": {"hooks": [
		{"hookName": "createRuntime", "path": "/a"}, {"hookName": "createRuntime", "path": "/b", "timeout": 5},
		{"hookName": "prestart", "path": "/c"}, {"hookName": "poststop", "path": "/d"}]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "c.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	oci := new(specs.Spec)
	if err := (cdi.Dirs{dir}).Inject(oci, []string{"v.example/c=d"}); err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, h := range append(append(oci.Hooks.CreateRuntime, oci.Hooks.Prestart...), oci.Hooks.Poststop...) { //nolint:staticcheck // CDI has the deprecated kind too
		if h.Timeout == nil {
			t.Fatalf("hook %s may run for ever", h.Path)
		}
		got = append(got, *h.Timeout)
	}
	if want := []int{60, 5, 60, 60}; !reflect.DeepEqual(got, want) {
		t.Errorf("limits %v, want %v", got, want)
	}
}

// A refusal changes nothing, also if another device of the request is there.
func TestRefusalChangesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := `{"cdiVersion": "0.7.0", "kind": "v.example/c", "devices": [{"name": "d", "containerEdits": {"env": ["A=1"]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "c.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for second, kind := range map[string]errkind.Kind{
		"v.example/c=absent": errkind.FailedPrecondition, "nonsense": errkind.InvalidArgument, "": errkind.InvalidArgument, "../../etc=d": errkind.InvalidArgument,
	} {
		oci := &specs.Spec{Process: &specs.Process{}}
		if err := (cdi.Dirs{dir}).Inject(oci, []string{"v.example/c=d", second}); !errkind.Is(err, kind) {
			t.Errorf("%q: %v, want %v", second, err, kind)
		}
		if len(oci.Process.Env) != 0 {
			t.Errorf("%q: the specification has %q", second, oci.Process.Env)
		}
	}
}
