package imageservice

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// allocated fails the test if do allocates more than limit bytes in all.
func allocated(t *testing.T, limit uint64, do func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > limit {
		t.Errorf("allocated %d MiB, more than %d", took>>20, limit>>20)
	}
}

// A config that claims to be, or is, ten thousand times as large as may be is
// not read into memory. Not parallel, as memory is counted for the process.
func TestLIMConfig(t *testing.T) {
	s := openStore(t)
	var sent atomic.Int64
	for name, c := range map[string]struct {
		size int64
		kind errkind.Kind
	}{
		"claimed":   {80_000 << 20, errkind.ResourceExhausted},
		"overflows": {1<<63 - 1, errkind.ResourceExhausted},
		"hidden":    {100, errkind.DataLoss}, // a chunked answer says nothing of its length
	} {
		sent.Store(0)
		m := `{"schemaVersion":2,"config":{"mediaType":"` + v1.MediaTypeImageConfig + `","digest":"` + digest.FromString(name).String() +
			`","size":` + strconv.FormatInt(c.size, 10) + `},"layers":[]}`
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/manifests/") {
				_, _ = io.WriteString(w, m)
				return
			}
			for sent.Load() < 80_000<<20 {
				n, err := w.Write(make([]byte, 64<<10))
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		}))
		allocated(t, 32<<20, func() {
			_, err := s.Pull(context.Background(), PullRequest{Ref: strings.TrimPrefix(srv.URL, "http://") + "/x:v1"})
			if !errkind.Is(err, c.kind) || len(err.Error()) > 1000 {
				t.Errorf("%s: got %.1000v", name, err)
			}
		})
		srv.Close()
		if n := sent.Load(); n > 32<<20 {
			t.Errorf("%s: %d bytes were taken", name, n)
		}
	}
	nothingBut(t, s)
}

// Indexes that lead to indexes end, also where none repeats.
func TestLIMNestedIndexes(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	byName := map[string]string{}
	next := digest.FromString("the end").String()
	for range 10_000 * maxIndexes {
		index := `{"schemaVersion":2,"manifests":[{"mediaType":"` + v1.MediaTypeImageIndex + `","digest":"` + next + `","size":1}]}`
		next = digest.FromString(index).String()
		byName[next] = index
	}
	byName["v1"] = byName[next]
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked.Add(1)
		_, name, _ := strings.Cut(req.URL.Path, "/manifests/")
		_, _ = io.WriteString(w, byName[name])
	}))
	t.Cleanup(srv.Close)
	_, err := s.Pull(context.Background(), PullRequest{Ref: strings.TrimPrefix(srv.URL, "http://") + "/x:v1"})
	if !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), "nest") || asked.Load() > maxIndexes+1 {
		t.Errorf("got %v after %d questions", err, asked.Load())
	}
	nothingBut(t, s)
}

// An archive is small and names its one config ten thousand times.
func TestLIMArchive(t *testing.T) {
	s := openStore(t)
	config := `{"x":"` + strings.Repeat("x", 1<<20) + `"}`
	images := "[" + strings.Repeat(`{"Config":"c"},`, 9_999) + `{"Config":"c"}]`
	for name, b := range map[string][]byte{
		"configs": makeTar(t, file("manifest.json", images), file("c", config)),
		"members": makeTar(t, file("manifest.json", "["+strings.Repeat("{},", 2_000_000)+"{}]")),
		"index":   makeTar(t, file("oci-layout", "{}"), file("index.json", `{"schemaVersion":2,"manifests":[`+strings.Repeat("{},", 2_000_000)+"{}]}")),
		"bytes":   makeTar(t, file("manifest.json", strings.Repeat(" ", 16<<20))),
	} {
		packed := bytes.NewReader(gz(t, b))
		allocated(t, 512<<20, func() { // what is read is also grown into; without the limit it is 10 GiB and more
			if _, err := s.Load(context.Background(), packed, nil); !errkind.Is(err, errkind.ResourceExhausted) {
				t.Errorf("%s: got %.300v", name, err)
			}
		})
	}
	nothingBut(t, s)
}
