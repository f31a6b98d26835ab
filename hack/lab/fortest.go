package lab

import (
	"context"
	"os"
	"testing"
	"time"
)

// ForTest gives a test a running node of its own. When the test ends, so does
// the node, with all pods and images; what of them is left in the kernel or on
// disk fails the test, and one that failed has the daemon's log in its own. The
// test is skipped without root.
func ForTest(t testing.TB, o Options) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l.EndWith(t)
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// EndWith ends the lab when the test ends, as ForTest says.
func (l *Lab) EndWith(t testing.TB) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := l.clear(ctx); err != nil {
			t.Errorf("the pods of the node %s: %v", l.Name, err)
		}
		if t.Failed() {
			t.Logf("berthd's log:\n%s", l.DaemonLog())
			if log := l.ShimLog(); log != "" {
				t.Logf("the shims' log:\n%s", log)
			}
		}
		if err := l.Close(ctx); err != nil {
			t.Errorf("the end of the node %s: %v", l.Name, err)
		}
	})
}
