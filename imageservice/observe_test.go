package imageservice

import (
	"context"
	"net/http"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// tally is an Observer that adds up.
type tally struct {
	mu             sync.Mutex
	pulled         []errkind.Kind // of pulls that failed
	whole          int            // pulls that did not
	bytes          int64
	layers         int
	freed          uint64
	repaired, kept int // layers, blobs

	steps   map[string]int
	stepErr error // the first
}

func (c *tally) Pulled(_ time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.whole++
		return
	}
	c.pulled = append(c.pulled, errkind.Of(err))
}

func (c *tally) Stepped(verb, step string, took time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.steps == nil {
		c.steps = map[string]int{}
	}
	c.steps[verb+"/"+step]++
	if took < 0 || err != nil && c.stepErr == nil {
		c.stepErr = err
	}
}

func (c *tally) Received(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += int64(n)
}

func (c *tally) Collected(layers int, bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.layers += layers
	c.freed += bytes
}

func (c *tally) Repaired(layers, blobs int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.repaired += layers
	c.kept += blobs
}

// TestPullsAreObserved: two callers are one pull, which is listed with its
// layers while it lasts; a large layer's bytes count once, however many
// connections bring them.
func TestPullsAreObserved(t *testing.T) {
	t.Parallel()
	s := inRanges(openStore(t))
	seen := &tally{}
	s.cfg.Observer = seen
	_, log, host := startRanges(t)
	small, large := noise(t, 31, 300<<10), noise(t, 32, 3<<20)
	ref := host + "/x:v1"
	push(t, ref, makeImage(t, small, large))
	_, smallSize := blobOf(t, small)
	blob, largeSize := blobOf(t, large)

	arrived, goOn := make(chan struct{}), make(chan struct{})
	arrive := sync.OnceFunc(func() { close(arrived) })
	log.change = func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
		if req.Header.Get("Range") != "" {
			arrive()
			<-goOn
		}
		return w
	}
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			if _, err := s.Pull(context.Background(), PullRequest{Ref: ref}); err != nil {
				t.Error(err)
			}
		})
	}
	<-arrived
	for joined := 0; joined < 2; runtime.Gosched() {
		s.mu.Lock()
		for _, p := range s.pulls {
			joined = p.waiters
		}
		s.mu.Unlock()
	}
	running := s.Pulls()
	if len(running) != 1 || running[0].Ref != ref || running[0].Began.IsZero() {
		t.Fatalf("under way: %+v", running)
	}
	found := false
	for _, l := range running[0].Layers {
		found = found || reflect.DeepEqual(l, Progress{Ref: ref, Layer: blob, Total: largeSize, Status: StatusDownloading})
	}
	if !found {
		t.Errorf("layers under way: %+v", running[0].Layers)
	}
	close(goOn)
	callers.Wait()
	if running := s.Pulls(); len(running) != 0 {
		t.Errorf("after the pull: %+v", running)
	}
	if seen.whole != 1 || seen.pulled != nil || seen.bytes != smallSize+largeSize {
		t.Errorf("told of %+v, want one pull of %d bytes", seen, smallSize+largeSize)
	}
	if _, err := s.Pull(context.Background(), PullRequest{Ref: host + "/x:v2"}); err == nil {
		t.Error("an image that is not there was pulled")
	}
	for step, want := range map[string]int{"resolve": 2, "claim": 2, "unpack": 2, "rename": 2, "drop-parts": 1, "sync": 1, "commit": 1, "drop-old-parts": 1, "receive": 0} {
		if got := seen.steps["image-pull/"+step]; got != want {
			t.Errorf("told %d times of the step %s, want %d", got, step, want)
		}
	}
	if !errkind.Is(seen.stepErr, errkind.NotFound) {
		t.Errorf("of the step that failed was told %v", seen.stepErr)
	}
	if seen.whole != 1 || !reflect.DeepEqual(seen.pulled, []errkind.Kind{errkind.NotFound}) {
		t.Errorf("told of %+v, want a pull that failed", seen)
	}
}

// TestRepairsAndCollectionsAreObserved counts what is fetched again, and what
// goes with the last that used it, blobs too.
func TestRepairsAndCollectionsAreObserved(t *testing.T) {
	t.Parallel()
	s, host := keeper(t, t.TempDir()), startRegistry(t)
	seen := &tally{}
	s.cfg.Observer = seen
	ctx := context.Background()
	r, err := name.ParseReference(host + "/x:v1")
	if err == nil {
		err = remote.WriteIndex(r, mutate.AppendManifests(emptyIndex(), mutate.IndexAddendum{Add: makeImage(t, gzLayer(t, file("f", "whole")))}))
	}
	if err != nil {
		t.Fatal(err)
	}
	image := mustPull(t, s, host+"/x:v1")
	flip(t, s.layerFS(s.state.Images[image.ID].Layers[0])+"/f")
	flip(t, s.blobs.Path(s.state.Images[image.ID].Blobs[0]))
	found := damage(t, s, false)
	if u, err := s.Usage(ctx); err != nil || u.Broken != 1 || u.Layers != 1 || u.Images != 1 {
		t.Errorf("damaged: %+v, %v", u, err)
	}
	if err := s.Repair(ctx, found, nil); err != nil {
		t.Fatal(err)
	}
	if seen.repaired != 1 || seen.kept != 1 || seen.layers != 1 {
		t.Errorf("told of %+v, want a layer and a blob, and that the damaged one went", seen)
	}
	usage, err := s.Usage(ctx)
	if err != nil || usage.Broken != 0 {
		t.Errorf("repaired: %+v, %v", usage, err)
	}
	before := seen.freed
	if err := s.Remove(ctx, image.ID); err != nil {
		t.Fatal(err)
	}
	if seen.layers != 2 || seen.freed-before != usage.Bytes {
		t.Errorf("told of %d layers and %d bytes, want 2 and %d", seen.layers, seen.freed-before, usage.Bytes)
	}
}
