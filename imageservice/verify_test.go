package imageservice

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// openUnder opens a store in a boot of its own.
func openUnder(t *testing.T, root, boot string) *Service {
	t.Helper()
	s, err := Open(context.Background(), Config{Root: root, BootID: boot})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// crash ends the store as a power cut would: without a word.
func crash(t *testing.T, s *Service) {
	t.Helper()
	s.endWatch()
	s.watch.Wait()
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
}

// flip changes one byte of a file and nothing else of it, its time neither.
func flip(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var b [1]byte
	if _, err := f.ReadAt(b[:], 2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b[:], 2); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, fi.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// place is where layer i of an image has the file name.
func place(s *Service, image Image, i int, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return filepath.Join(s.layerFS(s.state.Images[image.ID].Layers[i]), name)
}

func damage(t *testing.T, s *Service, quick bool) []Damage {
	t.Helper()
	found, err := s.Verify(context.Background(), quick)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestFlippedByteIsFoundAndRepaired(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	ctx := context.Background()
	shared := gzLayer(t, dir("etc", 0o755), file("etc/passwd", "root:x:0:0"), hardlink("etc/twin", "etc/passwd"))
	push(t, host+"/one:v1", makeImage(t, shared, gzLayer(t, file("etc/implied", "x"), hardlink("copy", "etc/passwd"))))
	push(t, host+"/two:v1", makeImage(t, shared))
	one, two := mustPull(t, s, host+"/one:v1"), mustPull(t, s, host+"/two:v1")
	running := mountImage(t, s, "running", one.ID)
	if found := damage(t, s, false); len(found) > 0 {
		t.Fatalf("a sound store has %+v", found)
	}

	old := place(s, one, 0, "etc/passwd")
	flip(t, old)
	if found := damage(t, s, true); len(found) > 0 {
		t.Errorf("the quick look reads contents: %+v", found)
	}
	found := damage(t, s, false)
	if len(found) != 2 || found[0].File != "etc/passwd" || found[1].File != "etc/twin" || found[0].What != "its content differs" ||
		found[0].DiffID != one.Layers[0].DiffID || len(found[0].Images) != 2 || !slices.Equal(found[0].Containers, []string{"running"}) {
		t.Fatalf("found %+v", found)
	}
	if found := damage(t, s, true); len(found) != 1 || found[0].File != "etc/passwd" {
		t.Errorf("the quick look forgets what is known: %+v", found)
	}

	if err := s.Repair(ctx, found, nil); err != nil {
		t.Fatal(err)
	}
	for _, image := range []Image{one, two} {
		if got := read(t, place(s, image, 0, "etc/passwd")); got != "root:x:0:0" {
			t.Errorf("after the repair it says %q", got)
		}
		now, err := s.Status(ctx, image.ID)
		if err != nil || !slices.Equal(now.Tags, image.Tags) || !slices.Equal(now.Digests, image.Digests) {
			t.Errorf("the image was %+v and is %+v, %v", image, now, err)
		}
	}
	// Who runs on the old layer keeps it, and it goes with them.
	read(t, running+"/etc/passwd")
	if found := damage(t, s, false); len(found) == 0 || len(found[0].Images) != 0 || !slices.Equal(found[0].Containers, []string{"running"}) {
		t.Errorf("while a container runs on it: %+v", found)
	}
	if err := s.Unmount(ctx, running); err != nil {
		t.Fatal(err)
	}
	if err := s.Mount(ctx, "running", running, nil, ""); !errkind.Is(err, errkind.DataLoss) || !strings.Contains(err.Error(), "etc/passwd") {
		t.Errorf("mounting the damaged layer gives %v", err)
	}
	if err := s.Discard(ctx, "running"); err != nil {
		t.Fatal(err)
	}
	absent(t, old)
	if found := damage(t, s, false); len(found) > 0 {
		t.Errorf("after all there is %+v", found)
	}
	sound(t, s)
}

// What is damaged in the layer of an image is not what another one brings.
func TestStartAndPullHealByThemselves(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	push(t, host+"/x:v1", makeImage(t, gzLayer(t, file("f", "whole")), gzLayer(t, file("g", "upper"))))
	image := mustPull(t, s, host+"/x:v1")

	flip(t, place(s, image, 0, "f"))
	damage(t, s, false)
	if got := read(t, mountImage(t, s, "c1", image.ID)+"/f"); got != "whole" {
		t.Errorf("the container reads %q", got)
	}
	flip(t, place(s, image, 1, "g"))
	damage(t, s, false)
	mustPull(t, s, host+"/x:v1")
	if got := read(t, mountImage(t, s, "c2", image.ID)+"/g"); got != "upper" {
		t.Errorf("the container reads %q", got)
	}
	sound(t, s)
}

func TestDamageThatCannotBeFetchedIsDataLoss(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	ctx := context.Background()
	archive := dockerArchive(t, "load.example/x:v1", makeImage(t, gzLayer(t, file("etc/f", "whole"))))
	load := func() Image {
		images, err := s.Load(ctx, strings.NewReader(string(archive)), nil)
		if err != nil {
			t.Fatal(err)
		}
		return images[0]
	}
	image := load()
	flip(t, place(s, image, 0, "etc/f"))
	found := damage(t, s, false)
	if err := s.Repair(ctx, found, nil); !errkind.Is(err, errkind.DataLoss) || !strings.Contains(err.Error(), "load that again") {
		t.Errorf("repair gives %v", err)
	}
	err := s.Prepare(ctx, "c", image.ID)
	if !errkind.Is(err, errkind.DataLoss) || !strings.Contains(err.Error(), "etc/f") || !strings.Contains(err.Error(), string(found[0].DiffID)) {
		t.Errorf("a container on it gives %v", err)
	}
	load()
	if err := s.Prepare(ctx, "c", image.ID); err != nil {
		t.Error(err)
	}
	sound(t, s)
}

// A blob is as much a part of an image as its layers are.
func TestDamagedBlobsAreFoundAndRepaired(t *testing.T) {
	t.Parallel()
	s, host := keeper(t, t.TempDir()), startRegistry(t)
	ctx := context.Background()
	layer := gzLayer(t, file("f", "whole"))
	index := mutate.AppendManifests(emptyIndex(), mutate.IndexAddendum{Add: makeImage(t, layer)})
	r, err := name.ParseReference(host + "/x:v1")
	if err == nil {
		err = remote.WriteIndex(r, index)
	}
	if err != nil {
		t.Fatal(err)
	}
	image := mustPull(t, s, host+"/x:v1")
	blobs := s.state.Images[image.ID].Blobs
	if len(blobs) != 4 {
		t.Fatalf("blobs %v, want index, manifest, config and layer", blobs)
	}
	for _, d := range blobs {
		flip(t, s.blobs.Path(d))
		if found := damage(t, s, true); len(found) > 0 {
			t.Errorf("the quick look reads contents: %+v", found)
		}
		found := damage(t, s, false)
		if len(found) != 1 || found[0].Blob != d || !slices.Equal(found[0].Images, []string{image.ID}) || len(found[0].Registries) != 1 {
			t.Fatalf("flipped %s, found %+v", d, found)
		}
		if err := s.Repair(ctx, found, nil); err != nil {
			t.Fatal(err)
		}
		if found := damage(t, s, false); len(found) > 0 {
			t.Errorf("after the repair of %s: %+v", d, found)
		}
	}
	for _, d := range blobs {
		if err := os.Remove(s.blobs.Path(d)); err != nil {
			t.Fatal(err)
		}
	}
	found := damage(t, s, true)
	if len(found) != 4 || found[0].What != "it is gone" {
		t.Errorf("all gone, found %+v", found)
	}
	// One is found by what another says, in whatever order they come.
	if err := s.Repair(ctx, found, nil); err != nil {
		t.Error(err)
	}
	if found := damage(t, s, false); len(found) > 0 {
		t.Errorf("after all there is %+v", found)
	}
	sound(t, s)
}

// Without the record of its tar a layer runs, but cannot leave the store.
func TestTheRecordOfATarIsVerifiedAndRepaired(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	ctx := context.Background()
	ref := host + "/x:v1"
	push(t, ref, makeImage(t, gzLayer(t, file("f", "whole"))))
	image := mustPull(t, s, ref)
	for name, breakIt := range map[string]func(string) error{
		"gone": os.Remove,
		"cut":  func(file string) error { return os.Truncate(file, 30) },
	} {
		seq := s.state.Images[image.ID].Layers[0]
		if err := breakIt(s.splitFile(seq)); err != nil {
			t.Fatal(err)
		}
		found := damage(t, s, false)
		if len(found) != 1 || found[0].Layer != seq || !strings.Contains(found[0].What, "tar") {
			t.Fatalf("%s: found %+v", name, found)
		}
		if got := read(t, mountImage(t, s, name, image.ID)+"/f"); got != "whole" {
			t.Errorf("%s: the container reads %q", name, got)
		}
		if s.state.Images[image.ID].Layers[0] != seq {
			t.Errorf("%s: a container's start fetched what it has no use for", name)
		}
		if err := s.Repair(ctx, found, nil); err != nil {
			t.Fatal(err)
		}
		save(t, s, ArchiveOCI, ref)
	}
	sound(t, s)
}

// Credentials come with the one who asks for a repair, and are never kept.
func TestRepairFromAPrivateRegistry(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	ctx := context.Background()
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	var private atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); private.Load() && user+password != "joesecret" {
			w.Header().Set("Www-Authenticate", `Basic realm="private"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	push(t, host+"/x:v1", makeImage(t, gzLayer(t, file("f", "whole"))))
	private.Store(true)
	auth := &Auth{Username: "joe", Password: "secret"}
	image, err := s.Pull(ctx, PullRequest{Ref: host + "/x:v1", Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	flip(t, place(s, image, 0, "f"))
	found := damage(t, s, false)
	if len(found) != 1 || !slices.Equal(found[0].Registries, []string{host}) {
		t.Fatalf("found %+v", found)
	}
	for what, err := range map[string]error{
		"the repair": s.Repair(ctx, found, map[string]*Auth{"other.example": auth}),
		"the start":  s.Prepare(ctx, "c", image.ID),
	} {
		if !errkind.Is(err, errkind.DataLoss) || !strings.Contains(err.Error(), "pull it again with credentials") {
			t.Errorf("without credentials %s gives %v", what, err)
		}
	}
	if err := s.Repair(ctx, found, map[string]*Auth{host: auth}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, mountImage(t, s, "c", image.ID)+"/f"); got != "whole" {
		t.Errorf("the container reads %q", got)
	}
	sound(t, s)
}

func TestAfterAPowerCutWhatCameLastIsVerified(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root, host := t.TempDir(), startRegistry(t)
	ctx := context.Background()
	push(t, host+"/old:v1", makeImage(t, gzLayer(t, file("f", "old"))))
	push(t, host+"/new:v1", makeImage(t, gzLayer(t, file("f", "new")), gzLayer(t, file("d/g", "implied"))))
	s := openUnder(t, root, "1")
	older := mustPull(t, s, host+"/old:v1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openUnder(t, root, "1")
	newer := mustPull(t, s, host+"/new:v1")
	crash(t, s)

	// The daemon alone was killed: the kernel kept all.
	s = openUnder(t, root, "1")
	if n := len(s.layers(func(l meta.Layer) bool { return l.Suspect })); n > 0 {
		t.Errorf("%d layers are suspect after a crash of the daemon", n)
	}
	crash(t, s)

	flip(t, place(s, older, 0, "f"))
	flip(t, place(s, newer, 0, "f"))
	s = openUnder(t, root, "2")
	if got := read(t, mountImage(t, s, "c", newer.ID)+"/f"); got != "new" {
		t.Errorf("the container reads %q", got)
	}
	<-s.verified
	if n := len(s.layers(func(l meta.Layer) bool { return l.Suspect || l.Broken != "" })); n > 0 {
		t.Errorf("%d layers are suspect or broken still", n)
	}
	if found := damage(t, s, false); len(found) != 1 || !slices.Equal(found[0].Images, []string{older.ID}) {
		t.Errorf("what came before the last shutdown was looked at, or not now: %+v", found)
	}
	if err := s.Repair(ctx, damage(t, s, false), nil); err != nil {
		t.Fatal(err)
	}
	sound(t, s)
}

// Doubt outlives the store that had it.
func TestSuspectsSurviveARestart(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root, host := t.TempDir(), startRegistry(t)
	push(t, host+"/x:v1", makeImage(t, gzLayer(t, file("f", "whole"))))
	s := openUnder(t, root, "1")
	image := mustPull(t, s, host+"/x:v1")
	seq := s.state.Images[image.ID].Layers[0]
	err := s.change(func(tx *meta.Tx, st *meta.State) error {
		row := st.Layers[seq]
		row.Suspect = true
		tx.PutLayer(row)
		st.Layers[seq] = row
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, place(s, image, 0, "f"))
	s = openUnder(t, root, "1")
	<-s.verified
	if got := read(t, place(s, image, 0, "f")); got != "whole" {
		t.Errorf("the layer says %q", got)
	}
	sound(t, s)
}
