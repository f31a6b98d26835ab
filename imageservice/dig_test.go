package imageservice

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// liar is a registry that sends other bytes than it has.
type liar struct {
	http.Handler
	mu     sync.Mutex
	lie    func(*http.Request) bool // guarded by mu; nil for never
	lies   int                      // guarded by mu
	broken bool                     // a blob that is not asked for by range ends in its middle; guarded by mu
}

func startLiar(t *testing.T) (*liar, string) {
	t.Helper()
	l := &liar{Handler: ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))}
	srv := httptest.NewServer(l)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(srv.Close)
	return l, strings.TrimPrefix(srv.URL, "http://")
}

// tell makes it lie when lie says so, and break blobs if asked to.
func (l *liar) tell(lie func(*http.Request) bool, broken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lie, l.lies, l.broken = lie, 0, broken
}

func (l *liar) told() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lies
}

func (l *liar) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	l.mu.Lock()
	lies := req.Method == http.MethodGet && l.lie != nil && l.lie(req)
	if lies {
		l.lies++
	}
	half := l.broken && req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") && req.Header.Get("Range") == ""
	l.mu.Unlock()
	if !lies && !half {
		l.Handler.ServeHTTP(w, req)
		return
	}
	rec := httptest.NewRecorder()
	l.Handler.ServeHTTP(rec, req)
	for key, values := range rec.Header() {
		w.Header()[key] = values
	}
	body := rec.Body.Bytes()
	if lies {
		body = flipped(body)
	}
	w.WriteHeader(rec.Code)
	if half {
		_, _ = w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(body)
}

// flipped is b with other bytes in its middle.
func flipped(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

// nothingBut fails the test unless the store has exactly these images, and no
// blob under a digest that is not its own.
func nothingBut(t *testing.T, s *Service, ids ...string) {
	t.Helper()
	all, err := s.List(t.Context())
	if err != nil || len(all) != len(ids) {
		t.Errorf("the store has the images %+v, %v, want %v", all, err, ids)
	}
	err = filepath.WalkDir(filepath.Join(s.cfg.Root, "blobs/sha256"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if got := digest.FromString(read(t, path)).Encoded(); got != filepath.Base(path) {
			t.Errorf("the blob %s has digest %s", filepath.Base(path), got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if layers, _ := os.ReadDir(s.layersDir()); len(ids) == 0 && len(layers) > 0 {
		t.Errorf("%d layers are left", len(layers))
	}
	sound(t, s)
}

// Every kind of document that a pull reads is held to the digest that led to
// it, with kept blobs and without.
func TestDIGPull(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		needRoot(t)
		s := openAt(t, t.TempDir())
		s.cfg.KeepBlobs = keep
		reg, host := startLiar(t)
		img := makeImage(t, gzLayer(t, file("f", strings.Repeat("x", 1<<16))), gzLayer(t, file("g", "y")))
		push(t, host+"/x:v1", img)
		top, child, config, layer := pushIndex(t, host+"/x:index", img)
		for name, c := range map[string]struct{ ref, asked string }{
			"manifest by tag":    {":v1", "/manifests/v1"}, // the registry states its digest
			"manifest by digest": {"@" + child, "/manifests/" + child},
			"index by tag":       {":index", "/manifests/index"},
			"index by digest":    {"@" + top, "/manifests/" + top},
			"manifest of index":  {":index", "/manifests/" + child},
			"config":             {":v1", "/blobs/" + config},
			"layer":              {":v1", "/blobs/" + layer},
		} {
			reg.tell(func(req *http.Request) bool { return strings.HasSuffix(req.URL.Path, c.asked) }, false)
			_, err := s.Pull(context.Background(), PullRequest{Ref: host + "/x" + c.ref})
			if !errkind.Is(err, errkind.DataLoss) || reg.told() == 0 {
				t.Errorf("%s: got %v after %d lies", name, err, reg.told())
			}
			nothingBut(t, s)
		}
		reg.tell(nil, false)
		nothingBut(t, s, mustPull(t, s, host+"/x@"+top).ID)
	}
}

// pushIndex pushes img in an index, and gives the digests of both, of the
// config and of the first layer.
func pushIndex(t *testing.T, ref string, img v1.Image) (top, child, config, layer string) {
	t.Helper()
	index := mutate.AppendManifests(emptyIndex(), mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: "linux", Architecture: "amd64"},
	}})
	r, err := name.ParseReference(ref)
	if err == nil {
		err = remote.WriteIndex(r, index)
	}
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var sums []string
	for _, of := range []func() (v1.Hash, error){index.Digest, img.Digest, img.ConfigName, layers[0].Digest} {
		sum, err := of()
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sum.String())
	}
	return sums[0], sums[1], sums[2], sums[3]
}

// What comes by range after a broken connection is of the same blob or of
// none: a mix of two is found out, and dropped, so that the next pull succeeds.
func TestDIGResumeWithAChangedBlob(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	reg, host := startLiar(t)
	layer := noise(t, 9, 1<<20)
	img := makeImage(t, layer)
	push(t, host+"/x:v1", img)
	blob, _ := blobOf(t, layer)
	reg.tell(func(req *http.Request) bool {
		return strings.HasSuffix(req.URL.Path, blob) && req.Header.Get("Range") != ""
	}, true)
	if _, err := s.Pull(context.Background(), PullRequest{Ref: host + "/x:v1"}); !errkind.Is(err, errkind.DataLoss) || reg.told() == 0 {
		t.Errorf("got %v after %d lies", err, reg.told())
	}
	nothingBut(t, s)
	reg.tell(nil, true) // still broken in the middle, but honest
	nothingBut(t, s, mustPull(t, s, host+"/x:v1").ID)
}

// A byte of any file of a layout that is loaded, from a directory or a tar.
func TestDIGLoad(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	dir := t.TempDir()
	p, err := layout.Write(dir, emptyIndex())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(makeImage(t, gzLayer(t, file("f", "x")))); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	if err != nil || len(blobs) != 3 {
		t.Fatalf("the layout has %v, %v", blobs, err)
	}
	for _, blob := range blobs {
		good := read(t, blob)
		if err := os.WriteFile(blob, flipped([]byte(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.LoadDir(context.Background(), dir); !errkind.Is(err, errkind.DataLoss) {
			t.Errorf("%.40q: loading the directory gives %v", good, err)
		}
		entries := []entry{}
		for _, name := range []string{"oci-layout", "index.json"} {
			entries = append(entries, file(name, read(t, filepath.Join(dir, name))))
		}
		for _, b := range blobs {
			entries = append(entries, file("blobs/sha256/"+filepath.Base(b), read(t, b)))
		}
		if _, err := s.Load(context.Background(), bytes.NewReader(makeTar(t, entries...)), nil); !errkind.Is(err, errkind.DataLoss) {
			t.Errorf("%.40q: loading the tar gives %v", good, err)
		}
		nothingBut(t, s)
		if err := os.WriteFile(blob, []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	images, err := s.LoadDir(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	nothingBut(t, s, images[0].ID)
}

// What one reader takes for an image and another for an index is refused also
// where no header speaks for it, in an archive.
func TestDIGAmbiguousArchive(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	const config = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}`
	for name, m := range map[string]string{
		"both":             `{"schemaVersion":2,"manifests":[],"layers":[],` + config + `}`,
		"both, other case": `{"schemaVersion":2,"Manifests":[],"layers":[],` + config + `}`,
		"index by type":    `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[],` + config + `}`,
		"image by type":    `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}`,
	} {
		sum := digest.FromString(m)
		for _, sent := range []string{"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"} {
			index := `{"schemaVersion":2,"manifests":[{"mediaType":"` + sent + `","digest":"` + sum.String() + `","size":` + strconv.Itoa(len(m)) + `}]}`
			_, err := s.Load(context.Background(), bytes.NewReader(makeTar(t,
				file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", index),
				file("blobs/sha256/"+sum.Encoded(), m), file("blobs/sha256/44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "{}"),
			)), nil)
			if !errkind.Is(err, errkind.InvalidArgument) {
				t.Errorf("%s as %s: got %v", name, sent, err)
			}
		}
	}
	nothingBut(t, s)
}

// A tag stays where a pull put it, whatever its registry says meanwhile, when
// pods are made, started, repaired and removed.
func TestDIGTagsStay(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	ctx := context.Background()
	push(t, host+"/x:v1", makeImage(t, gzLayer(t, file("f", "first"))))
	first := mustPull(t, s, host+"/x:v1")
	push(t, host+"/x:v1", makeImage(t, gzLayer(t, file("f", "second"))))

	flip(t, place(s, first, 0, "f"))
	damage(t, s, false)
	if got := read(t, mountImage(t, s, "c1", host+"/x:v1")+"/f"); got != "first" {
		t.Errorf("a container on the repaired image reads %q", got)
	}
	if got := read(t, mountImage(t, s, "c2", first.ID)+"/f"); got != "first" {
		t.Errorf("a container by the id reads %q", got)
	}
	now, err := s.Status(ctx, host+"/x:v1")
	if err != nil || now.ID != first.ID || len(now.Tags) != 1 {
		t.Errorf("the tag is at %+v, %v, want %s", now, err, first.ID)
	}
	nothingBut(t, s, first.ID)
	if next := mustPull(t, s, host+"/x:v1"); next.ID == first.ID {
		t.Error("a pull does not move the tag: the test shows nothing")
	}
}
