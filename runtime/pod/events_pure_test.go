package pod

import (
	"context"
	"strconv"
	"testing"
	"time"
)

func sendMany(b *broker, n int) {
	for i := range n {
		b.send(func() Event { return Event{ContainerID: strconv.Itoa(i)} })
	}
}

// recv takes n events, which must be numbered in order from the first on.
func recv(t *testing.T, ch <-chan Event, n int) {
	t.Helper()
	for i := range n {
		select {
		case e, ok := <-ch:
			if !ok || e.ContainerID != strconv.Itoa(i) {
				t.Fatalf("event %d of %d is %q, open %v", i, n, e.ContainerID, ok)
			}
		case <-time.After(time.Minute):
			t.Fatalf("event %d of %d did not come", i, n)
		}
	}
}

// A listener that reads nothing for long holds up neither the sender nor
// another listener, and loses nothing.
func TestASlowListenerHoldsUpNobodyAndLosesNothing(t *testing.T) {
	t.Parallel()
	var b broker
	slow, quick := b.subscribe(t.Context()), b.subscribe(t.Context())
	sendMany(&b, maxBehind/2)
	recv(t, quick, maxBehind/2)
	recv(t, slow, maxBehind/2)
}

// One that is too far behind is told so by the end of its channel, and may
// begin anew.
func TestAListenerTooFarBehindIsCutOff(t *testing.T) {
	t.Parallel()
	var b broker
	lost := b.subscribe(t.Context())
	sendMany(&b, 2*maxBehind+1)
	n := 0
	for range lost {
		n++
	}
	if n > maxBehind {
		t.Errorf("got %d events after falling behind by %d", n, 2*maxBehind+1)
	}
	again := b.subscribe(t.Context())
	sendMany(&b, 10)
	recv(t, again, 10)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.subs) != 1 {
		t.Errorf("there are %d listeners, want 1", len(b.subs))
	}
}

func TestASubscriptionEndsWithItsContext(t *testing.T) {
	t.Parallel()
	var b broker
	ctx, cancel := context.WithCancel(t.Context())
	ch := b.subscribe(ctx)
	sendMany(&b, 3)
	cancel()
	for range ch { // closed, with or without what was on its way
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.subs) != 0 {
		t.Error("the listener is left")
	}
}
