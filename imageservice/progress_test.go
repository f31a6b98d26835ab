package imageservice

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// halting is an answer that halts in the middle until its gate is open.
type halting struct {
	http.ResponseWriter
	left int // bytes before it
	gate chan struct{}
}

func (h *halting) Write(p []byte) (int, error) {
	if len(p) <= h.left {
		h.left -= len(p)
		return h.ResponseWriter.Write(p)
	}
	n, err := h.ResponseWriter.Write(p[:h.left])
	h.left = 1 << 62
	h.ResponseWriter.(http.Flusher).Flush()
	<-h.gate
	if err != nil {
		return n, err
	}
	more, err := h.ResponseWriter.Write(p[n:])
	return n + more, err
}

// A pull that waits for a layer which another one fetches tells how far that
// is, also if it came late, and nothing any more when it is gone.
func TestPullsThatShareALayerShareItsProgress(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	shared := noise(t, 77, 3<<20)
	blob, size := blobOf(t, shared)
	registry := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	gate := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && path.Base(r.URL.Path) == blob {
			w = &halting{ResponseWriter: w, left: 2 << 20, gate: gate}
		}
		registry.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	push(t, host+"/a:v1", makeImage(t, shared, gzLayer(t, file("own", "a"))))
	push(t, host+"/b:v1", makeImage(t, shared, gzLayer(t, file("own", "b"))))

	type heard struct {
		mu   sync.Mutex
		last Progress
	}
	tell := func(h *heard) func(Progress) {
		return func(p Progress) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if p.Layer == blob {
				h.last = p
			}
		}
	}
	half := func(h *heard) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.last.Done >= 1<<20 && h.last.Status == StatusDownloading && h.last.Total == size
	}
	var first, second heard
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	pull := func(ctx context.Context, ref string, h *heard) {
		_, err := s.Pull(ctx, PullRequest{Ref: host + ref, Progress: tell(h)})
		ended <- err
	}
	go pull(ctx, "/a:v1", &first)
	waitFor(t, func() bool { return half(&first) })
	go pull(t.Context(), "/b:v1", &second)
	waitFor(t, func() bool { return half(&second) })

	leave()
	if err := <-ended; !errkind.Is(err, errkind.Canceled) {
		t.Errorf("the pull that was left ended with %v", err)
	}
	waitFor(t, func() bool { // and is let go
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.flights {
			if f.size == size {
				return f.refs == 1
			}
		}
		return false
	})
	first.mu.Lock()
	before := first.last
	first.mu.Unlock()
	close(gate)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if second.last.Status != StatusDone || second.last.Done != size {
		t.Errorf("the pull that stayed was told last of %+v", second.last)
	}
	if first.last != before {
		t.Errorf("the pull that was left was told of %+v after its end", first.last)
	}
}
