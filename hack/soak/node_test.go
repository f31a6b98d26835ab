//go:build soak

package soak

import (
	"os"
	"testing"

	"github.com/berth-runtime/berth/hack/lab"
)

// start starts a node with a registry, which leaves nothing behind.
func start(t *testing.T) *lab.Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l, err := lab.New(lab.Options{LogLevel: 2})
	if err != nil {
		t.Fatal(err)
	}
	l.EndWith(t)
	if err := l.StartRegistry(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}
