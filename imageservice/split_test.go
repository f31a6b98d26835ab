package imageservice

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// stackOf gives the layers of an image up to the i-th, topmost first.
func stackOf(s *Service, id string, i int) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	stack := slices.Clone(s.state.Images[id].Layers[:i+1])
	slices.Reverse(stack)
	return stack
}

func TestLayersGiveTheirTarAgain(t *testing.T) {
	t.Parallel()
	s, ctx := openStore(t), context.Background()
	tars := [][]byte{
		makeTar(t, dir("usr", 0o755), dir("usr/lib", 0o755), file("usr/lib/a", "a"), symlink("lib", "usr/lib"), file("etc", "gone")),
		// Completed on the one below: "lib" is a link there, "usr/lib/a" is there only.
		append(makeTar(t, file("lib/b", "bb"), hardlink("c", "usr/lib/a"), file(".wh.etc", ""), dir("x", 0o700), dir("x", 0o711)), make([]byte, 700)...),
	}
	ref := startRegistry(t) + "/tar:1"
	push(t, ref, makeImage(t, makeLayer(t, types.OCILayer, gz, tars[0]), makeLayer(t, types.OCILayerZStd, zst, tars[1])))
	image := mustPull(t, s, ref)
	for i, want := range tars {
		var got bytes.Buffer
		err := s.writeTar(ctx, &got, stackOf(s, image.ID, i), image.Layers[i].DiffID)
		if err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("layer %d: %d bytes for %d, %v", i, got.Len(), len(want), err)
		}
	}
	// What the images' size says includes it.
	if usage, _ := s.Usage(ctx); usage.Bytes < 2*4096 {
		t.Errorf("%+v", usage)
	}
	if err := os.WriteFile(filepath.Join(s.layerFS(stackOf(s, image.ID, 0)[0]), "usr/lib/a"), []byte("b"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.writeTar(ctx, &bytes.Buffer{}, stackOf(s, image.ID, 0), image.Layers[0].DiffID); !errkind.Is(err, errkind.DataLoss) {
		t.Errorf("a layer that changed: %v", err)
	}
	if err := s.writeTar(ctx, &bytes.Buffer{}, stackOf(s, image.ID, 1), digest.FromString("x")); !errkind.Is(err, errkind.DataLoss) {
		t.Errorf("another diff ID: %v", err)
	}
}

// Tars that a layer's files cannot give, since later entries took the names
// of earlier ones, are recorded with what is lost, from whatever source.
func TestOverwrittenFilesAreRecorded(t *testing.T) {
	t.Parallel()
	s, ctx := openStore(t), context.Background()
	tars := [][]byte{
		makeTar(t, file("a", "first"), file("b", "other"), file("a", strings.Repeat("second", 50000)), file("c/d", "gone"), symlink("c", "e")),
		makeTar(t, file("x/implied", "first"), hardlink("y", "b"), file("x/implied", "second")),
	}
	ref := startRegistry(t) + "/tar:1"
	img := makeImage(t, makeLayer(t, types.OCILayer, gz, tars[0]), makeLayer(t, types.OCILayerZStd, zst, tars[1]))
	push(t, ref, img)
	mustPull(t, s, ref)
	loaded := openStore(t)
	if _, err := loaded.Load(ctx, bytes.NewReader(save(t, s, ArchiveOCI, ref)), nil); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Service{s, loaded} {
		image, err := s.Status(ctx, ref)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range tars {
			var got bytes.Buffer
			if err := s.writeTar(ctx, &got, stackOf(s, image.ID, i), image.Layers[i].DiffID); err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("layer %d: %d bytes for %d, %v", i, got.Len(), len(want), err)
			}
		}
		if left, err := s.blobs.Ingests(); err != nil || len(left) > 0 {
			t.Errorf("parts are left: %v, %v", left, err)
		}
		sound(t, s)
	}
}

func TestLayersWithoutATarSayWhatToDo(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx := context.Background()
	s, err := Open(ctx, Config{Root: t.TempDir(), BootID: "test", NoTarSplit: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	ref := startRegistry(t) + "/none:1"
	push(t, ref, makeImage(t, gzLayer(t, file("a", "1"))))
	image := mustPull(t, s, ref)
	if err := s.writeTar(ctx, &bytes.Buffer{}, stackOf(s, image.ID, 0), image.Layers[0].DiffID); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("%v", err)
	}
}
