package imageservice

import (
	"bufio"
	"context"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/berth-runtime/berth/imageservice/inflate"
	"github.com/berth-runtime/berth/imageservice/tarsplit"
	"github.com/berth-runtime/berth/imageservice/unpack"
)

// windowOfOne is what a layer compressed with zstd usually wants to remember,
// with what goes with it.
const windowOfOne = 9 << 20

// frugal is how much garbage there may be beside what is used, in percent, as
// long as most of that are windows, which make none.
const frugal = 8

// windows bounds the memory of decompressors to as many usual windows as there
// are CPUs, since more at a time would not be faster. Who is next has the memory
// of who was before; when there is none, it is let go.
type windows struct {
	*semaphore.Weighted
	most     int64
	decoders *inflate.Decoders

	setGC func(percent int) (before int) // nil to leave the collector alone

	mu     sync.Mutex
	users  int // layers that have a window or wait for one; guarded by mu
	before int // percent of the collector without users; guarded by mu
}

func newWindows(setGC func(int) int) *windows {
	most := int64(max(2, runtime.GOMAXPROCS(0))) * windowOfOne
	return &windows{Weighted: semaphore.NewWeighted(most), most: most, decoders: &inflate.Decoders{}, setGC: setGC}
}

// enter makes its caller one of the users, who calls leave.
func (w *windows) enter() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users++; w.users == 1 && w.setGC != nil {
		w.before = w.setGC(frugal)
	}
}

func (w *windows) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users--; w.users > 0 {
		return
	}
	w.decoders.Forget()
	if w.setGC != nil {
		// First, as what may lie beside them is a share of what there was.
		runtime.GC()
		w.setGC(w.before)
	}
}

// unpackInTurn is unpackVerified once there is memory for it.
func (s *Service) unpackInTurn(ctx context.Context, stream io.Reader, dir string, src source, rec *tarsplit.Recorder) (unpack.Result, error) {
	b := bufio.NewReaderSize(stream, 64<<10)
	if window := min(inflate.Window(b), s.windows.most); window > 0 {
		s.windows.enter()
		defer s.windows.leave()
		if err := s.windows.Acquire(ctx, window); err != nil {
			return unpack.Result{}, err
		}
		defer s.windows.Release(window)
	}
	s.unpacking.Add(1)
	defer s.unpacking.Add(-1)
	return s.unpackVerified(ctx, b, dir, src, rec)
}

// spareCPU reports whether there is a CPU for more than one stage of a layer:
// as long as each has a layer of its own, to hand bytes over is only work.
func (s *Service) spareCPU() bool { return int(s.unpacking.Load()) < runtime.GOMAXPROCS(0) }
