//go:build soak

package soak

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/streams"
)

// TestStreams makes thousands of sessions with clients that leave at every
// stage, over SPDY and WebSocket, and finds daemon and shim as they were.
func TestStreams(t *testing.T) {
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
	load, err := streams.Prepare(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	// What is made once and kept is made now.
	if err := load.Run(t.Context(), streams.Counts{Exec: 256, Attach: 64, Forward: 64}); err != nil {
		t.Fatal(err)
	}
	before, err := streams.Rest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("before: %+v", before)
	start := time.Now()
	if err := load.Run(t.Context(), streams.Counts{Exec: 10000, Attach: 1000, Forward: 1000}); err != nil {
		t.Fatal(err)
	}
	t.Logf("the sessions took %s", time.Since(start).Round(time.Second))
	now, err := streams.Settle(t.Context(), l, before, 2*time.Minute)
	t.Logf("after: %+v", now)
	if err != nil {
		t.Error(err)
	}
}
