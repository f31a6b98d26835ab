package imageservice

import (
	"context"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// disk is a file system whose device fails when it is full, which the kernel
// finds only when it writes back.
type disk struct{ memory, root string }

func newDisk(t *testing.T) disk {
	t.Helper()
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs loop devices")
	}
	d := disk{memory: t.TempDir(), root: t.TempDir()}
	if err := unix.Mount("tmpfs", d.memory, "tmpfs", 0, "size=128m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(d.memory, unix.MNT_DETACH) })
	image := filepath.Join(d.memory, "image")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run("truncate", "-s", "256M", image)
	// Without a journal, which would end all writing with the first error.
	run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-N", "2048", image)
	run("mount", "-o", "loop,errors=continue", image, d.root)
	t.Cleanup(func() { _ = unix.Unmount(d.root, unix.MNT_DETACH) })
	return d
}

// leave lets the device take so many bytes more.
func (d disk) leave(t *testing.T, room uint64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.memory, &st); err != nil {
		t.Fatal(err)
	}
	used := (st.Blocks - st.Bfree) * uint64(st.Bsize)
	if err := unix.Mount("", d.memory, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", used+room)); err != nil {
		t.Fatal(err)
	}
}

// Two pulls wait for one layer whose bytes do not all reach the disk. The kernel
// tells a descriptor of it once: when the first pull has heard it and is gone,
// the second must not believe that it has the layer.
func TestLostBytesAreToldToAllPullsOfALayer(t *testing.T) {
	needRoot(t)
	content := make([]byte, 24<<20)
	_, _ = rand.New(rand.NewSource(1)).Read(content) //nolint:gosec // noise
	shared, own := gzLayer(t, file("large", string(content))), gzLayer(t, file("own", "small"))
	gates := map[string]chan struct{}{} // by the digest of a blob that waits
	for _, l := range []v1.Layer{shared, own} {
		sum, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		gates[sum.String()] = make(chan struct{})
	}
	registry := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gate := gates[path.Base(r.URL.Path)]; gate != nil && r.Method == http.MethodGet {
			<-gate
		}
		registry.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	open := func(l v1.Layer) {
		sum, _ := l.Digest()
		close(gates[sum.String()])
	}
	host := strings.TrimPrefix(srv.URL, "http://")
	push(t, host+"/first:v1", makeImage(t, shared))
	push(t, host+"/second:v1", makeImage(t, shared, own))

	disk := newDisk(t)
	s := openAt(t, filepath.Join(disk.root, "store"))
	pull := func(ref string) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := s.Pull(context.Background(), PullRequest{Ref: host + ref})
			done <- err
		}()
		return done
	}
	first, second := pull("/first:v1"), pull("/second:v1")
	waitFor(t, func() bool { // one layer has both, the other one the second
		s.mu.Lock()
		defer s.mu.Unlock()
		refs := 0
		for _, f := range s.flights {
			refs += f.refs
		}
		return refs == 3
	})
	disk.leave(t, 4<<20)
	open(shared)
	const want = "cannot make layers durable"
	if err := <-first; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("bytes were lost, and the pull that heard of it first says %v", err)
	}
	disk.leave(t, 64<<20)
	open(own)
	if err := <-second; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("bytes were lost, and the pull that came to it second says %v", err)
	}
	if images, err := s.List(t.Context()); err != nil || len(images) > 0 {
		t.Errorf("there are images whose bytes are lost: %v, %v", images, err)
	}
	// What was lost is no part of what is fetched again.
	mustPull(t, s, host+"/second:v1")
	sound(t, s)
}
