package imageservice

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/imageservice/unpack"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// The kubelet removes up to five images at a time and measures at once.
func TestFiveRemovalsAtOnce(t *testing.T) {
	t.Parallel()
	s, host := keeper(t, t.TempDir()), startRegistry(t)
	ctx := context.Background()
	shared := gzLayer(t, file("shared", strings.Repeat("s", 10000)))
	var images []Image
	for i := range 5 {
		ref := fmt.Sprintf("%s/x%d:v1", host, i)
		push(t, ref, makeImage(t, shared, gzLayer(t, file("own", ref))))
		mustPull(t, s, ref)
		if err := s.Tag(ctx, ref, fmt.Sprintf("other.example/y%d:v2", i)); err != nil {
			t.Fatal(err)
		}
		image, err := s.Status(ctx, ref)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, image)
	}
	layers := map[string]uint64{}
	for _, image := range images {
		layers[image.ID] = s.state.Images[image.ID].Layers[1]
	}
	var wg sync.WaitGroup
	for _, image := range images {
		for _, name := range []string{image.ID, image.Tags[0], image.Tags[1]} {
			wg.Go(func() {
				if err := s.Remove(ctx, name); err != nil {
					t.Error(err)
				}
				for _, name := range append(image.Tags, image.ID) {
					if _, err := s.Status(ctx, name); !errkind.Is(err, errkind.NotFound) {
						t.Errorf("%s is there when its removal was answered: %v", name, err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, image := range images {
		absent(t, s.layerDir(layers[image.ID]))
	}
	if left := inStore(t, s); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	if u, _ := s.Usage(ctx); u.Bytes != 0 || u.Inodes != 0 {
		t.Errorf("the usage of nothing is %+v", u)
	}
	sound(t, s)
}

// A removal has freed what it frees when it answers: nobody is faster who asks
// the disk afterwards.
func TestRemovalIsAnsweredWhenTheSpaceIsFree(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	var many []entry
	for i := range 2000 {
		many = append(many, file(fmt.Sprintf("f%d", i), "x"))
	}
	push(t, host+"/many:v1", makeImage(t, gzLayer(t, many...)))
	image := mustPull(t, s, host+"/many:v1")
	dir := s.layerDir(s.state.Images[image.ID].Layers[0])
	if err := s.Remove(context.Background(), image.ID); err != nil {
		t.Fatal(err)
	}
	absent(t, dir)
}

// inStore lists what images have on disk.
func inStore(t *testing.T, s *Service) (paths []string) {
	t.Helper()
	for _, dir := range []string{s.layersDir(), filepath.Join(s.cfg.Root, "blobs/sha256"), filepath.Join(s.cfg.Root, "ingest"), s.spoolDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

// A tag that moves leaves an image behind, which stays for those who name it
// by id or digest, and for its containers.
func TestATagMovesAndTheImageItLeftStays(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	ctx := context.Background()
	ref := host + "/x:latest"
	push(t, ref, makeImage(t, gzLayer(t, file("f", "old"))))
	old := mustPull(t, s, ref)
	if err := s.Prepare(ctx, "c", old.ID); err != nil {
		t.Fatal(err)
	}
	push(t, ref, makeImage(t, gzLayer(t, file("f", "new"))))
	fresh := mustPull(t, s, ref)
	if fresh.ID == old.ID || !slices.Equal(fresh.Tags, []string{ref}) {
		t.Fatalf("the tag leads to %+v", fresh)
	}
	for _, name := range []string{old.ID, old.Digests[0]} {
		if got, err := s.Status(ctx, name); err != nil || got.ID != old.ID || len(got.Tags) != 0 {
			t.Errorf("%s is %+v, %v", name, got, err)
		}
	}
	// Nobody who removes by the tag means the image that it left.
	if err := s.Remove(ctx, ref); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Status(ctx, fresh.ID); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("the image under the tag: %v", err)
	}
	if p, err := s.Prune(ctx, PruneUntagged); err != nil || len(p.Images) != 0 {
		t.Errorf("prune took the image of a container: %+v, %v", p, err)
	}
	if err := s.Discard(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Prune(ctx, PruneUntagged); err != nil || len(p.Images) != 1 || p.Images[0].ID != old.ID {
		t.Errorf("pruned %+v, %v", p, err)
	}
	sound(t, s)
}

// What df, prune and removal say is what the disk has: layers with all that
// lies beside them, and blobs.
func TestUsageIsWhatTheDiskHas(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) *Service{
		"tar split":  openStore,
		"keep blobs": func(t *testing.T) *Service { return keeper(t, t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			s, host := open(t), startRegistry(t)
			ctx := context.Background()
			base := gzLayer(t, dir("d", 0o755), file("d/small", "x"), file("d/large", strings.Repeat("large", 100000)), hardlink("twin", "d/small"),
				symlink("link", "d/small"), file("empty", ""))
			push(t, host+"/a:1", makeImage(t, base, gzLayer(t, hardlink("copy", "d/large"), file("implied/f", "y"))))
			push(t, host+"/b:1", makeImage(t, base, gzLayer(t, file("over", "1"), file("over", strings.Repeat("2", 9000)), file(".wh.d", ""))))
			names := []string{host + "/a:1", host + "/b:1"}
			for _, name := range names {
				mustPull(t, s, name)
			}
			for i := 0; ; i++ {
				bytes, inodes := onTheDisk(t, inStore(t, s))
				if u, _ := s.Usage(ctx); u.Bytes != bytes || u.Inodes != inodes {
					t.Errorf("with %d of %d images gone usage says %d bytes in %d files, the disk %d in %d", i, len(names), u.Bytes, u.Inodes, bytes, inodes)
				}
				if i == len(names) {
					break
				}
				image, err := s.Status(ctx, names[i])
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Remove(ctx, names[i]); err != nil {
					t.Fatal(err)
				}
				if after, _ := onTheDisk(t, inStore(t, s)); bytes-after != image.Size {
					t.Errorf("the removal of %s freed %d bytes, it said %d", names[i], bytes-after, image.Size)
				}
			}
		})
	}
}

// onTheDisk adds up files as du does, each once and in whole blocks.
func onTheDisk(t *testing.T, paths []string) (bytes, inodes uint64) {
	t.Helper()
	seen := map[uint64]bool{}
	for _, path := range paths {
		err := filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil || seen[st.Ino] {
				return err
			}
			seen[st.Ino] = true
			inodes++
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFREG:
				bytes += unpack.OnDisk(st.Size)
			case unix.S_IFDIR:
				bytes += 4096
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return bytes, inodes
}
