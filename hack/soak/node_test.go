//go:build soak

package soak

import (
	"context"
	"os"
	"testing"
	"time"

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
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if t.Failed() {
			t.Logf("berthd's log:\n%s", lab.Tail(l.DaemonLog(), 200))
		}
		if l.Running() {
			if err := l.RemoveAll(ctx); err != nil {
				t.Error(err)
			}
		}
		if err := l.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := l.StartRegistry(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}
