//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
	"github.com/berth-runtime/berth/imageservice/meta"
)

// pushStory pushes an image of two layers, one gzip and one zstd, that has
// the file /story.
func (n *node) pushStory() (ref string) {
	n.t.Helper()
	base, err := testimage.Busybox()
	if err != nil {
		n.t.Fatal(err)
	}
	img, err := testimage.Image{Layers: []testimage.Layer{base, {
		Zstd: true, Files: []testimage.File{{Path: "/story", Data: "once upon a time\n"}, {Path: "/dir/twin", Link: "/story"}},
	}}}.Build()
	if err != nil {
		n.t.Fatal(err)
	}
	ref = n.Registry + "/story:1"
	if _, err := testimage.Push(n.t.Context(), ref, img); err != nil {
		n.t.Fatal(err)
	}
	return ref
}

// flipStory flips one bit in the layers' file story.
func (n *node) flipStory() {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.Root, "images/l/*/fs/story"))
	if err != nil || len(files) != 1 {
		n.t.Fatalf("the story is at %q, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		n.t.Fatal(err)
	}
	text[3] ^= 1
	f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(text, 0); err != nil {
		n.t.Fatal(err)
	}
}

// tell runs a container that prints the story to its log.
func (n *node) tell(pod, ref string) {
	n.t.Helper()
	sandbox, container := n.run(pod, lab.ContainerConfig("c", ref, "/bin/cat", "/story"))
	n.eventually(func() error { return exited(n, container, 0) })
	log, err := os.ReadFile(filepath.Join(n.Logs, pod, "c.log"))
	if err != nil || !strings.HasSuffix(string(log), " F once upon a time\n") {
		n.t.Errorf("the container said %q, %v", log, err)
	}
	if err := n.RemovePod(n.t.Context(), sandbox); err != nil {
		n.t.Error(err)
	}
}

// TestDamagedLayer flips a bit on the disk under the real daemon: check names
// it, a repair fetches it again, and after an unclean shutdown of the machine
// a container's start does so by itself.
func TestDamagedLayer(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref := n.pushStory()
	n.crictl("pull", ref)

	n.flipStory()
	out, err := n.Berth(t.Context(), "check")
	if err == nil || !strings.Contains(out, "layer") || !strings.Contains(out, `file "story": its content differs`) {
		t.Errorf("check: %q, %v", out, err)
	}
	if out := n.berth("check", "--repair"); !strings.Contains(out, `repaired: file "story"`) {
		t.Errorf("check --repair: %q", out)
	}
	if out := n.berth("check"); out != "everything is as recorded" {
		t.Errorf("after the repair: %q", out)
	}
	n.tell("repaired", ref)

	n.Kill()
	n.asAfterAPowerCut()
	n.flipStory()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.tell("by-itself", ref)
	n.berth("check")
}

// asAfterAPowerCut makes the store of a dead daemon one of another boot.
func (n *node) asAfterAPowerCut() {
	n.t.Helper()
	db, err := meta.Open(filepath.Join(n.Root, "images/meta.db"))
	if err != nil {
		n.t.Fatal(err)
	}
	err = db.Update(func(tx *meta.Tx) error {
		tx.SetBoot("the boot before")
		return nil
	})
	if closeErr := db.Close(); err != nil || closeErr != nil {
		n.t.Fatal(err, closeErr)
	}
}

// TestKeptBlobs takes an image through two nodes and two registries: pulled,
// saved, loaded, pushed, pulled. With its blobs kept all digests stay, without
// them the image does.
func TestKeptBlobs(t *testing.T) {
	for _, keep := range []bool{true, false} {
		t.Run(fmt.Sprintf("keep_blobs=%t", keep), func(t *testing.T) {
			o := lab.Options{Config: fmt.Sprintf("image.keep_blobs = %t\n", keep)}
			a, b := newNode(t, o), newNode(t, o)
			from := a.pushStory()
			id := a.pulled(from)
			archive := filepath.Join(a.Dir, "story.tar")
			a.berth("save", "--format", "oci", "-o", archive, from)
			b.berth("load", "--input", archive)
			to := b.Registry + "/other/story:2"
			b.berth("tag", from, to)
			b.berth("push", to)
			loaded := b.image(from)
			if loaded.Id != id {
				t.Errorf("loaded as %s, want %s", loaded.Id, id)
			}
			b.berth("rmi", "--force", id)
			if got := b.pulled(to); got != id {
				t.Errorf("pulled again it is %s, want %s", got, id)
			}
			b.tell("told", to)
			if same := slices.Equal(a.digests(from), b.digests(to)); same != keep {
				t.Errorf("the registries have %q and %q", a.digests(from), b.digests(to))
			}
		})
	}
}

func (n *node) pulled(ref string) string {
	n.t.Helper()
	id, err := n.Pull(n.t.Context(), ref)
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

func (n *node) image(ref string) *criv1.Image {
	n.t.Helper()
	r, err := n.images().ImageStatus(n.t.Context(), &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: ref}})
	if err != nil || r.Image == nil {
		n.t.Fatalf("image %s: %v, %v", ref, r, err)
	}
	return r.Image
}

// digests are those of the layers and the manifest that a registry has.
func (n *node) digests(ref string) (all []string) {
	n.t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		n.t.Fatal(err)
	}
	img, err := remote.Image(r)
	if err != nil {
		n.t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, l := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		all = append(all, l.Digest.String())
	}
	sum, err := img.Digest()
	if err != nil {
		n.t.Fatal(err)
	}
	return append(all, sum.String())
}
