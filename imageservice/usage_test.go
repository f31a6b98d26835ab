package imageservice

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// outdate makes what is known of a layer as old as it takes to be walked again.
func (u *usages) outdate(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	k := u.known[id]
	k.walked = k.walked.Add(-usageAge - usageShare*k.took)
}

// Whoever asks gets what is known and waits for no walk; the walk that the
// question begins is known to the next.
func TestUsageIsWalkedBehindTheRequest(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	root := run(t, s, gzLayer(t, file("f", "image")))
	id := s.Snapshots(t.Context())[0]
	_, before, err := s.SnapshotUsage(t.Context(), id)
	if err != nil || before != 1 {
		t.Fatalf("a new layer has %d inodes (%v), want its directory", before, err)
	}
	if err := os.WriteFile(root+"/new", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, got, err := s.SnapshotUsage(t.Context(), id); err != nil || got != before {
		t.Errorf("what was walked just now was walked again: %d inodes (%v)", got, err)
	}
	s.usages.outdate(id)
	if _, got, err := s.SnapshotUsage(t.Context(), id); err != nil || got != before {
		t.Errorf("the request has %d inodes (%v): it waited for a walk", got, err)
	}
	for range 1000 {
		if _, got, err := s.SnapshotUsage(t.Context(), id); err != nil {
			t.Fatal(err)
		} else if got == 2 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("no walk came after the request")
}

// A store that is opened walks the layers it finds before anybody asks.
func TestUsageIsKnownAfterAnOpening(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	run(t, s, gzLayer(t, file("f", "image")))
	id := s.Snapshots(t.Context())[0]
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.SnapshotUsage(t.Context(), id); err != nil && !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("of a closed store: %v", err)
	}
	again := openAt(t, s.cfg.Root)
	for range 1000 {
		again.usages.mu.Lock()
		k := again.usages.known[id]
		known := k != nil && !k.walked.IsZero()
		again.usages.mu.Unlock()
		if known {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the layer was not walked")
}

func TestUsageOfWhatIsGoneOrClosed(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	run(t, s, gzLayer(t, file("f", "image")))
	id := s.Snapshots(t.Context())[0]
	if _, _, err := s.SnapshotUsage(t.Context(), "other"); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("an unknown layer: %v", err)
	}

	// Nobody walks here: who waits is let go by what happens to the layer.
	u := newUsages()
	waits := func() chan struct{} {
		k := u.ask(id)
		if !k.walked.IsZero() || k.done == nil {
			t.Fatalf("a layer that was not walked: %+v", k)
		}
		return k.done
	}
	done := waits()
	if again := waits(); again != done {
		t.Error("one layer is walked twice")
	}
	if got, ok := u.next(); !ok || got != id {
		t.Errorf("%q is walked", got)
	}
	u.drop(id)
	<-done
	u.put(id, usage{walked: time.Now()}) // the walk that was under way
	if len(u.known) != 0 {
		t.Error("a layer that is gone is known")
	}
	done = waits()
	u.put(id, usage{walked: time.Now(), inodes: 7, err: errors.New("broken")})
	<-done
	if k := u.ask(id); k.inodes != 7 || k.err == nil || k.done != nil {
		t.Errorf("got %+v", k)
	}
	u.drop(id)
	done = waits()
	u.end()
	<-done
	if k := u.ask("late"); k.done != nil {
		t.Error("a closed store lets wait for a walk")
	}
}
