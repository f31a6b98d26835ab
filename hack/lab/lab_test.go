package lab

import (
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"

	"github.com/berth-runtime/berth/hack/testimage"
)

// TestClose makes a lab with a registry and wants nothing left of it.
func TestClose(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Skipf("needs docker-registry: %v", err)
	}
	l, err := New(Options{Mirrors: []string{"example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.StartRegistry(t.Context()); err != nil {
		t.Error(err)
	} else if _, err := testimage.Push(t.Context(), l.Registry+"/empty:1", empty.Image); err != nil {
		t.Error(err)
	}
	if left := l.Residue(); len(left) != 1 {
		t.Errorf("only the registry runs, found %q", left)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{l.Dir, l.State} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "a\n": "a", "a\nb\nc\n": "b\nc"} {
		if got := Tail(text, 2); got != want {
			t.Errorf("Tail(%q) is %q, want %q", text, got, want)
		}
	}
}
