package imageservice

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const (
	testRange = 64 << 10
	testLarge = 1 << 20
)

// inRanges makes s fetch blobs of a MiB and more by small ranges.
func inRanges(s *Service) *Service {
	s.cfg.Ranges = Ranges{Parallel: 4, Size: testRange, From: testLarge}
	return s
}

// rangeLog notes what a registry is asked for, and may change it.
type rangeLog struct {
	http.Handler
	mu     sync.Mutex
	asked  []string // Range headers of blobs, in order
	most   int      // requests for blobs at a time
	now    int
	change func(w http.ResponseWriter, req *http.Request) http.ResponseWriter
}

func (r *rangeLog) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !strings.Contains(req.URL.Path, "/blobs/sha256:") || req.Method != http.MethodGet {
		r.Handler.ServeHTTP(w, req)
		return
	}
	r.mu.Lock()
	r.asked = append(r.asked, req.Header.Get("Range"))
	r.now++
	r.most = max(r.most, r.now)
	change := r.change
	r.mu.Unlock()
	if change != nil {
		w = change(w, req)
	}
	r.Handler.ServeHTTP(w, req)
	r.mu.Lock()
	r.now--
	r.mu.Unlock()
}

// alter makes it change its answers from now on.
func (r *rangeLog) alter(change func(w http.ResponseWriter, req *http.Request) http.ResponseWriter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.change = change
}

// startRanges is a registry that counts bytes and ranges.
func startRanges(t *testing.T) (*tap, *rangeLog, string) {
	t.Helper()
	r, host := startTap(t)
	log := &rangeLog{Handler: r.Handler}
	r.Handler = log
	return r, log, host
}

func TestLargeBlobsComeByRangesSideBySide(t *testing.T) {
	t.Parallel()
	s := inRanges(openStore(t))
	r, log, host := startRanges(t)
	small, large := noise(t, 11, 300<<10), noise(t, 12, 3<<20)
	push(t, host+"/x:v1", makeImage(t, small, large))
	// Until all four have asked, none is answered.
	gate := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(4)
	var once sync.Map
	log.alter(func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
		span := req.Header.Get("Range")
		if n := slices.Index([]string{rangeOf(1), rangeOf(2), rangeOf(3), rangeOf(4)}, span); n >= 0 {
			if _, again := once.LoadOrStore(n, true); !again {
				waiting.Done()
			}
			<-gate
		}
		return w
	})
	go func() { waiting.Wait(); close(gate) }()
	image := mustPull(t, s, host+"/x:v1")
	for _, l := range []struct {
		layer interface{ Size() (int64, error) }
		blob  string
	}{{small, first(blobOf(t, small))}, {large, first(blobOf(t, large))}} {
		if size, _ := l.layer.Size(); r.count(l.blob) != size {
			t.Errorf("the registry sent %d bytes of a blob of %d", r.count(l.blob), size)
		}
	}
	_, size := blobOf(t, large)
	ranges := slices.DeleteFunc(log.asked, func(s string) bool { return s == "" })
	if want := int((size + testRange - 1) / testRange); len(ranges) != want || log.most < 4 {
		t.Errorf("it came by %d ranges, not %d, at most %d at a time", len(ranges), want, log.most)
	}
	if len(log.asked) != len(ranges)+2 { // config and small layer
		t.Errorf("asked: %q", log.asked)
	}
	read(t, mountImage(t, s, "c", image.ID)+"/noise")
	sound(t, s)
}

func first(blob string, _ int64) string { return blob }

// rangeOf is the header of the nth range.
func rangeOf(n int) string { return fmt.Sprintf("bytes=%d-%d", n*testRange, (n+1)*testRange-1) }

// TestRegistriesWithoutRanges: they are asked once for the first range, or a
// few times for others, and then for all.
func TestRegistriesWithoutRanges(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(w http.ResponseWriter, req *http.Request) http.ResponseWriter
		once   bool // each byte comes once nevertheless
	}{
		"ignored": {once: true, change: func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
			req.Header.Del("Range")
			return w
		}},
		"ignored but the first": {change: func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
			if req.Header.Get("Range") != rangeOf(0) {
				req.Header.Del("Range")
			}
			return w
		}},
		"another range": {change: func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
			if req.Header.Get("Range") != "" {
				req.Header.Set("Range", "bytes=7-99")
			}
			return w
		}},
		"a lie": {change: func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
			if req.Header.Get("Range") != "" {
				return misplacer{w}
			}
			return w
		}},
		"refused": {change: func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
			if req.Header.Get("Range") != "" {
				req.Header.Set("Range", "bytes=999999999-")
			}
			return w
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := inRanges(openStore(t))
			r, log, host := startRanges(t)
			layer := noise(t, 13, 2<<20)
			push(t, host+"/x:v1", makeImage(t, layer))
			log.alter(c.change)
			image := mustPull(t, s, host+"/x:v1")
			blob, size := blobOf(t, layer)
			if got := r.count(blob); c.once && got != size || got < size {
				t.Errorf("the registry sent %d bytes of a blob of %d", got, size)
			}
			read(t, mountImage(t, s, "c", image.ID)+"/noise")
			if found := damage(t, s, false); len(found) > 0 {
				t.Errorf("the layers are not whole: %+v", found)
			}
			sound(t, s)
		})
	}
}

// misplacer says that its bytes are of another place.
type misplacer struct{ http.ResponseWriter }

func (w misplacer) WriteHeader(code int) {
	w.Header().Set("Content-Range", "bytes 3-65538/2097152")
	w.ResponseWriter.WriteHeader(code)
}

// TestRangesThatAreKilled is no test: it is the daemon that the next one kills.
func TestRangesThatAreKilled(t *testing.T) {
	root, ref, ok := strings.Cut(os.Getenv("BERTH_TEST_RANGES"), " ")
	if !ok {
		return // only the child process has something to do here
	}
	mustPull(t, inRanges(openAt(t, root)), ref)
}

func TestRangesGoOnAfterAKill(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r, log, host := startRanges(t)
	layer := noise(t, 14, 2<<20)
	push(t, host+"/x:v1", makeImage(t, layer))
	blob, size := blobOf(t, layer)
	// The second range and the fifth stay out, so the part has gaps.
	log.alter(func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
		if span := req.Header.Get("Range"); span == rangeOf(1) || span == rangeOf(4) {
			<-req.Context().Done()
			panic(http.ErrAbortHandler)
		}
		return w
	})
	root := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRangesThatAreKilled$")
	cmd.Env = append(os.Environ(), "BERTH_TEST_RANGES="+root+" "+host+"/x:v1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(root, "ingest", strings.TrimPrefix(blob, "sha256:")+".part")
	waitFor(t, func() bool { return sizeOf(part) == size && writtenOf(t, part) == size-2*testRange })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	log.mu.Lock()
	log.change, log.asked = nil, nil
	log.mu.Unlock()
	s := inRanges(openAt(t, root))
	image := mustPull(t, s, host+"/x:v1")
	if got := r.count(blob); got != size {
		t.Errorf("the registry sent %d bytes of a blob of %d", got, size)
	}
	if got := slices.DeleteFunc(log.asked, func(s string) bool { return s == "" }); len(got) != 2 {
		t.Errorf("after the kill it asked for %q", got)
	}
	absent(t, part)
	read(t, mountImage(t, s, "c", image.ID)+"/noise")
	sound(t, s)
}

// A registry that stops in the middle of several ranges and answers again.
func TestRangesOfARegistryThatReturns(t *testing.T) {
	t.Parallel()
	s := inRanges(openStore(t))
	r, _, host := startRanges(t)
	layer := noise(t, 15, 2<<20)
	push(t, host+"/x:v1", makeImage(t, layer))
	blob, size := blobOf(t, layer)
	r.stop(blob, size/2)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := s.Pull(ctx, PullRequest{Ref: host + "/x:v1"})
		done <- err
	}()
	part := filepath.Join(s.cfg.Root, "ingest", strings.TrimPrefix(blob, "sha256:")+".part")
	waitFor(t, func() bool { return r.count(blob) == size/2 && writtenOf(t, part) == size/2 })
	// One whose request is still on its way would be answered after all.
	waitFor(t, func() bool { return r.sending() == s.cfg.Ranges.Parallel })
	cancel()
	if err := <-done; !errkind.Is(err, errkind.Canceled) {
		t.Errorf("the pull ended with %v", err)
	}
	waitFor(t, func() bool { return len(s.slots) == 0 })
	r.answer()
	mustPull(t, s, host+"/x:v1")
	if got := r.count(blob); got != size {
		t.Errorf("the registry sent %d bytes of a blob of %d", got, size)
	}
	sound(t, s)
}

func TestRangesOfAnotherBlobAreDropped(t *testing.T) {
	t.Parallel()
	s := inRanges(openStore(t))
	_, log, host := startRanges(t)
	layer := noise(t, 16, 2<<20)
	push(t, host+"/x:v1", makeImage(t, layer))
	log.alter(func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
		if req.Header.Get("Range") == rangeOf(3) {
			return flipper{w}
		}
		return w
	})
	if _, err := s.Pull(context.Background(), PullRequest{Ref: host + "/x:v1"}); !errkind.Is(err, errkind.DataLoss) {
		t.Errorf("the pull of a blob with one flipped bit ended with %v", err)
	}
	if parts, err := s.blobs.Ingests(); err != nil || len(parts) > 0 {
		t.Errorf("parts %q are left, %v", parts, err)
	}
	log.alter(nil)
	mustPull(t, s, host+"/x:v1")
	sound(t, s)
}

type flipper struct{ http.ResponseWriter }

func (w flipper) Write(p []byte) (int, error) {
	p = slices.Clone(p)
	p[0] ^= 1
	return w.ResponseWriter.Write(p)
}

// writtenOf sums the extents of a part with gaps.
func writtenOf(t *testing.T, part string) (n int64) {
	t.Helper()
	b := make([]byte, 4096)
	got, err := unix.Getxattr(part, "user.berth.extents", b)
	if err != nil {
		return -1 // not yet
	}
	for b = b[:got]; len(b) > 0; b = b[16:] {
		n += int64(binary.LittleEndian.Uint64(b[8:]) - binary.LittleEndian.Uint64(b))
	}
	return n
}
