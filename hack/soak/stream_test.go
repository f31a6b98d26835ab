//go:build soak

package soak

import (
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/streams"
)

// TestStreams makes thousands of sessions with clients that leave at every
// stage, over SPDY and WebSocket, and finds daemon and shim as they were.
func TestStreams(t *testing.T) {
	l := start(t)
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
