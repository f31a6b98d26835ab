package imageservice

import (
	"context"
	"io"
	"log"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// tap is a registry that counts the bytes of each blob that it sends, and in
// one of them stops answering.
type tap struct {
	http.Handler
	mu    sync.Mutex
	sent  map[string]int64 // by the digest of the blob
	blob  string           // the one in which it stops; guarded by mu
	after int64            // so many bytes
	live  int              // blobs being sent; guarded by mu
	ended sync.Cond        // one of them was
}

func startTap(t *testing.T) (*tap, string) {
	t.Helper()
	r := &tap{Handler: ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))), sent: map[string]int64{}}
	r.ended.L = &r.mu
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	return r, strings.TrimPrefix(srv.URL, "http://")
}

func (r *tap) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if _, blob, ok := strings.Cut(req.URL.Path, "/blobs/sha256:"); ok && req.Method == http.MethodGet {
		w = &tapped{ResponseWriter: w, tap: r, blob: "sha256:" + blob, gone: req.Context().Done()}
		r.mu.Lock()
		r.live++
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			r.live--
			r.ended.Broadcast()
			r.mu.Unlock()
		}()
	}
	r.Handler.ServeHTTP(w, req)
}

// stop makes it stop answering after so many bytes of blob.
func (r *tap) stop(blob string, after int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blob, r.after = blob, after
}

// answer makes it answer again, once those whom it did not answer are gone:
// what it would send them would count, and nobody would get it.
func (r *tap) answer() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.live > 0 {
		r.ended.Wait()
	}
	r.blob = ""
}

func (r *tap) count(blob string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent[blob]
}

// sending is how many requests for blobs are under way.
func (r *tap) sending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live
}

type tapped struct {
	http.ResponseWriter
	tap  *tap
	blob string
	gone <-chan struct{}
}

func (w *tapped) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		r := w.tap
		r.mu.Lock()
		now := len(p)
		if w.blob == r.blob {
			now = int(min(int64(now), r.after-r.sent[w.blob]))
		}
		r.sent[w.blob] += int64(now)
		r.mu.Unlock()
		if now == 0 {
			w.ResponseWriter.(http.Flusher).Flush()
			<-w.gone
			return n, io.ErrClosedPipe
		}
		now, err = w.ResponseWriter.Write(p[:now])
		n, p = n+now, p[now:]
	}
	return n, err
}

// noise is a layer that compression does not make smaller.
func noise(t *testing.T, seed int64, size int) v1.Layer {
	t.Helper()
	content := make([]byte, size)
	rand.New(rand.NewSource(seed)).Read(content)
	return gzLayer(t, file("noise", string(content)))
}

func blobOf(t *testing.T, l v1.Layer) (blob string, size int64) {
	t.Helper()
	d, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if size, err = l.Size(); err != nil {
		t.Fatal(err)
	}
	return d.String(), size
}

// TestPullThatIsKilled is no test: it is the daemon that the next one kills.
func TestPullThatIsKilled(t *testing.T) {
	root, ref, ok := strings.Cut(os.Getenv("BERTH_TEST_PULL"), " ")
	if !ok {
		return // only the child process has something to do here
	}
	mustPull(t, openAt(t, root), ref)
}

func TestPullGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r, host := startTap(t)
	root := t.TempDir()
	whole, cut := noise(t, 1, 300<<10), noise(t, 2, 3<<20)
	push(t, host+"/x:v1", makeImage(t, whole, cut))
	wholeBlob, wholeSize := blobOf(t, whole)
	cutBlob, cutSize := blobOf(t, cut)
	r.stop(cutBlob, cutSize/2)

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPullThatIsKilled$")
	cmd.Env = append(os.Environ(), "BERTH_TEST_PULL="+root+" "+host+"/x:v1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	part := func(blob string) string {
		return filepath.Join(root, "ingest", strings.TrimPrefix(blob, "sha256:")+".part")
	}
	waitFor(t, func() bool { return sizeOf(part(cutBlob)) == r.after && sizeOf(part(wholeBlob)) == wholeSize })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	r.answer()
	s := openAt(t, root)
	image := mustPull(t, s, host+"/x:v1")
	for blob, want := range map[string]int64{wholeBlob: wholeSize, cutBlob: cutSize} {
		if got := r.count(blob); got != want {
			t.Errorf("the registry sent %d bytes of a blob of %d", got, want)
		}
		absent(t, part(blob))
	}
	if found := damage(t, s, false); len(found) > 0 {
		t.Errorf("the layers are not whole: %+v", found)
	}
	read(t, mountImage(t, s, "c", image.ID)+"/noise")
	sound(t, s)
}

func TestCanceledPullGoesOn(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	r, host := startTap(t)
	layer := noise(t, 3, 1<<20)
	push(t, host+"/x:v1", makeImage(t, layer))
	blob, size := blobOf(t, layer)
	r.stop(blob, 100_000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := s.Pull(ctx, PullRequest{Ref: host + "/x:v1"})
		done <- err
	}()
	part := filepath.Join(s.cfg.Root, "ingest", strings.TrimPrefix(blob, "sha256:")+".part")
	waitFor(t, func() bool { return sizeOf(part) == r.after })
	cancel()
	if err := <-done; !errkind.Is(err, errkind.Canceled) {
		t.Errorf("the pull ended with %v", err)
	}
	// The caller has its answer before the download lets go of its part; a
	// pull in between would go without it.
	waitFor(t, func() bool {
		in, err := s.blobs.Ingest(digest.Digest(blob))
		return err == nil && in.Close() == nil
	})
	r.answer()
	mustPull(t, s, host+"/x:v1")
	if got := r.count(blob); got != size {
		t.Errorf("the registry sent %d bytes of a blob of %d", got, size)
	}
	sound(t, s)
}

func TestRottenPartIsDropped(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	layer := noise(t, 4, 1<<20)
	push(t, host+"/x:v1", makeImage(t, layer))
	blob, size := blobOf(t, layer)
	for _, rot := range []int64{size / 2, size} {
		in, err := s.blobs.Ingest(digest.Digest(blob))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(make([]byte, rot)); err != nil {
			t.Fatal(err)
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Pull(context.Background(), PullRequest{Ref: host + "/x:v1"}); !errkind.Is(err, errkind.DataLoss) {
			t.Errorf("on a part of %d rotten bytes: %v", rot, err)
		}
	}
	in, err := s.blobs.Ingest(digest.Digest(blob))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(make([]byte, size+1)); err != nil {
		t.Fatal(err)
	}
	// While another has the part, this one goes without; later it is too long.
	mustPull(t, s, host+"/x:v1")
	if err := s.Remove(context.Background(), host+"/x:v1"); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	mustPull(t, s, host+"/x:v1")
	sound(t, s)
}

func TestPartsOfAPowerCutAreDropped(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root := t.TempDir()
	s := openUnder(t, root, "1")
	in, err := s.blobs.Ingest(digest.FromString("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	crash(t, s)
	s = openUnder(t, root, "1")
	if parts, err := s.blobs.Ingests(); err != nil || len(parts) != 1 {
		t.Errorf("after a crash of the daemon there are %q, %v", parts, err)
	}
	crash(t, s)
	s = openUnder(t, root, "2")
	if parts, err := s.blobs.Ingests(); err != nil || len(parts) != 0 {
		t.Errorf("after a power cut there are %q, %v", parts, err)
	}
}

// waitFor waits until is holds.
func waitFor(t *testing.T, is func() bool) {
	t.Helper()
	for !is() {
		select {
		case <-t.Context().Done():
			t.Fatal("it did not come to pass")
		case <-time.After(time.Millisecond):
		}
	}
}

// sizeOf is the size of a file, -1 if it is absent.
func sizeOf(path string) int64 {
	fi, err := os.Lstat(path)
	if err != nil {
		return -1
	}
	return fi.Size()
}

// partsAt is an Observer that looks which parts there are after a step.
type partsAt struct {
	unobserved
	root, step string
	parts      []os.DirEntry
}

func (p *partsAt) Stepped(_, step string, _ time.Duration, _ error) {
	if step == p.step {
		p.parts, _ = os.ReadDir(filepath.Join(p.root, "ingest"))
	}
}

// What came quickly is dropped before it would be written to disk; what came
// long ago stays until the image is committed, for a kill in between. Of
// neither anything is left.
func TestOldPartsStayUntilTheCommit(t *testing.T) {
	t.Parallel()
	host := startRegistry(t)
	push(t, host+"/x:v1", makeImage(t, noise(t, 5, 100<<10)))
	for young, want := range map[time.Duration]int{time.Hour: 0, time.Nanosecond: 1} {
		s := openStore(t)
		s.youngPart = young
		for _, step := range []string{"sync", "commit"} {
			seen := &partsAt{root: s.cfg.Root, step: step}
			s.cfg.Observer = seen
			mustPull(t, s, host+"/x:v1")
			if len(seen.parts) != want {
				t.Errorf("parts younger than %v are dropped at once, and after the %s there are %d, want %d", young, step, len(seen.parts), want)
			}
			if left, err := os.ReadDir(filepath.Join(s.cfg.Root, "ingest")); err != nil || len(left) > 0 {
				t.Errorf("after the pull %d parts are left (%v)", len(left), err)
			}
			if err := s.Remove(t.Context(), host+"/x:v1"); err != nil {
				t.Fatal(err)
			}
		}
	}
}
