//go:build soak

package soak

import (
	"os"
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/churn"
	"github.com/berth-runtime/berth/hack/cnitest"
	"github.com/berth-runtime/berth/hack/lab"
)

// TestChurn makes and removes 500 pods, 20 at a time, while the daemon is killed
// ten times and a plugin fails one call in five, on each kind of network, and
// finds nothing left of them: addresses, interfaces, namespaces, rules, tracked
// connections, records.
func TestChurn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, s := range churn.Setups() {
		t.Run(s.Name, func(t *testing.T) {
			l, err := lab.New(lab.Options{LogLevel: 2, Network: s.Mode, OwnNet: true})
			if err != nil {
				t.Fatal(err)
			}
			l.EndWith(t)
			if s.List != nil {
				if err := s.Dir(l).SetFaults(cnitest.Faults{"ADD": cnitest.Fifth, "DEL": cnitest.Fifth}); err != nil {
					t.Fatal(err)
				}
				if err := l.SetNetwork("10.conflist", s.List(l)); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			count, err := churn.Run(t.Context(), l, churn.Plan{Pods: 500, AtATime: 20, Kills: 10})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("500 pods in %s; %d kills cut %d calls, %d pods failed at first", time.Since(start).Round(time.Second),
				count.Killed, count.Cut.Load(), count.Failed.Load())
			for _, left := range churn.Left(t.Context(), l) {
				t.Errorf("left: %s", left)
			}
		})
	}
}
