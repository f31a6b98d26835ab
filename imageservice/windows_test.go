package imageservice

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// While other layers have all memory that decompressors may have, one that
// needs much of it waits, and one that does not comes.
func TestLayersWaitForMemoryOfWindows(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	push(t, host+"/gzip:v1", makeImage(t, gzLayer(t, file("a", "of gzip"))))
	push(t, host+"/zstd:v1", makeImage(t, makeLayer(t, types.OCILayerZStd, zst, makeTar(t, file("a", "of zstd")))))
	if err := s.windows.Acquire(t.Context(), s.windows.most); err != nil {
		t.Fatal(err)
	}
	mustPull(t, s, host+"/gzip:v1")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := s.Pull(ctx, PullRequest{Ref: host + "/zstd:v1"}); !errkind.Is(err, errkind.DeadlineExceeded) {
		t.Errorf("without memory the pull ended with %v", err)
	}
	waitFor(t, func() bool { return len(s.slots) == 0 }) // what is canceled waits no more
	s.windows.Release(s.windows.most)
	mustPull(t, s, host+"/zstd:v1")
	if !s.windows.TryAcquire(s.windows.most) {
		t.Error("a layer kept its memory")
	}
	sound(t, s)
}

// While there are windows the collector leaves little beside them, and as much
// as before when they are gone.
func TestWindowsAreNoReasonForGarbage(t *testing.T) {
	t.Parallel()
	var set []int
	w := newWindows(func(percent int) int {
		set = append(set, percent)
		return 50
	})
	w.enter()
	w.enter()
	w.leave()
	if !slices.Equal(set, []int{frugal}) {
		t.Errorf("with a window in use the collector was set to %v", set)
	}
	w.leave()
	if !slices.Equal(set, []int{frugal, 50}) {
		t.Errorf("without windows the collector was set to %v", set)
	}
}
