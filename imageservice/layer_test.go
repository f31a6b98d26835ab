package imageservice

import (
	"archive/tar"
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

func TestWhiteoutsShowThroughTheMount(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	root := run(t, s,
		gzLayer(t, dir("a", 0o755), file("a/one", "1"), file("a/two", "2"), dir("gone", 0o755), file("gone/x", "x"),
			dir("o", 0o755), file("o/low", "l"), dir("back", 0o755), file("back/low", "l"), file("was-file", "f")),
		gzLayer(t, dir("a", 0o755), file("a/.wh.one", ""), file(".wh.gone", ""),
			dir("o", 0o755), file("o/high", "h"), file("o/.wh..wh..opq", ""), file("o/.wh..wh.plnk", ""),
			dir("back", 0o755), file("back/high", "h"), file(".wh.back", ""),
			file(".wh.was-file", ""), dir("was-file", 0o700)),
	)
	absent(t, root+"/a/one")
	absent(t, root+"/gone")
	absent(t, root+"/o/low")
	absent(t, root+"/o/.wh..wh.plnk")
	absent(t, root+"/back/low")
	for _, name := range []string{"/a/two", "/o/high", "/back/high"} {
		read(t, root+name)
	}
	if st := stat(t, root+"/was-file"); st.Mode != unix.S_IFDIR|0o700 {
		t.Errorf("a directory over a whiteout has mode %o", st.Mode)
	}
}

func TestOpaqueRootHidesAllBelow(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	root := run(t, s, gzLayer(t, file("low", "l")), gzLayer(t, file(".wh..wh..opq", ""), file("high", "h")))
	absent(t, root+"/low")
	read(t, root+"/high")
}

func TestMetadataIsKept(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	when := time.Unix(1234567890, 0)
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	root := run(t, s, gzLayer(t,
		entry{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 5, Gid: 6, ModTime: when}},
		entry{Header: tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o2775, Uid: 7, Gid: 8, ModTime: when}},
		entry{Header: tar.Header{Name: "d/suid", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 9, Gid: 10, ModTime: when,
			PAXRecords: map[string]string{
				"SCHILY.xattr.security.capability":      caps,
				"SCHILY.xattr.user.note":                "kept",
				"SCHILY.xattr.trusted.overlay.opaque":   "y",
				"SCHILY.xattr.trusted.overlay.whiteout": "y",
			}}},
		entry{Header: tar.Header{Name: "d/link", Typeflag: tar.TypeSymlink, Linkname: "/nowhere", Uid: 11, Gid: 12, ModTime: when}},
		entry{Header: tar.Header{Name: "d/fifo", Typeflag: tar.TypeFifo, Mode: 0o622, ModTime: when}},
		entry{Header: tar.Header{Name: "d/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3, ModTime: when}},
		hardlink("d/hard", "d/suid"),
	))
	for _, c := range []struct {
		name     string
		mode     uint32
		uid, gid uint32
	}{
		{"", unix.S_IFDIR | 0o711, 5, 6},
		{"/d", unix.S_IFDIR | 0o2775, 7, 8},
		{"/d/suid", unix.S_IFREG | 0o4755, 9, 10},
		{"/d/hard", unix.S_IFREG | 0o4755, 9, 10},
		{"/d/link", unix.S_IFLNK | 0o777, 11, 12},
		{"/d/fifo", unix.S_IFIFO | 0o622, 0, 0},
		{"/d/null", unix.S_IFCHR | 0o666, 0, 0},
	} {
		st := stat(t, root+c.name)
		if st.Mode != c.mode || st.Uid != c.uid || st.Gid != c.gid || st.Mtim.Sec != when.Unix() {
			t.Errorf("%q: mode %o, owner %d:%d, time %d", c.name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		}
	}
	if st := stat(t, root+"/d/null"); st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("the device is %d", st.Rdev)
	}
	if a, b := stat(t, root+"/d/suid"), stat(t, root+"/d/hard"); a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("the hard link is another file")
	}
	buf := make([]byte, 256)
	if n, err := unix.Lgetxattr(root+"/d/suid", "user.note", buf); err != nil || string(buf[:n]) != "kept" {
		t.Errorf("user.note: %v", err)
	}
	if n, err := unix.Lgetxattr(root+"/d/suid", "security.capability", buf); err != nil || string(buf[:n]) != caps {
		t.Errorf("security.capability: %v", err)
	}
	fs := s.layerFS(s.state.Snapshots[s.Snapshots(context.Background())[0]].Layers[0])
	if _, err := unix.Lgetxattr(fs+"/d/suid", "trusted.overlay.opaque", buf); err == nil {
		t.Errorf("the tar could set an attribute of overlay's")
	}
}

// A layer that leaves out what only those below know shows the same as if it
// had been unpacked on top of them.
func TestLayerThatNeedsThoseBelow(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	when := time.Unix(1111111111, 0)
	base := gzLayer(t,
		entry{Header: tar.Header{Name: "srv", Typeflag: tar.TypeDir, Mode: 0o1770, Uid: 33, Gid: 44, ModTime: when}},
		dir("usr", 0o755), dir("usr/lib", 0o755), file("usr/lib/old", "old"),
		symlink("lib", "usr/lib"), symlink("loop", "loop"),
		entry{Header: tar.Header{Name: "bin", Typeflag: tar.TypeReg, Mode: 0o4711, Uid: 3, ModTime: when}, content: "program"},
	)
	root := run(t, s, base, gzLayer(t, file("unrelated", "")), gzLayer(t,
		file("srv/data/x", "x"),
		file("lib/new", "new"), file("lib/deep/er", "deeper"), file("usr/lib/deep/est", "deepest"),
		hardlink("srv/bin2", "bin"), hardlink("bin3", "bin"),
		file("loop/y", "y"),
	))
	if st := stat(t, root+"/srv"); st.Mode != unix.S_IFDIR|0o1770 || st.Uid != 33 || st.Gid != 44 || st.Mtim.Sec != when.Unix() {
		t.Errorf("the implied directory has mode %o, owner %d:%d, time %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
	}
	if st := stat(t, root+"/srv/data"); st.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("the new directory has mode %o", st.Mode)
	}
	if st := stat(t, root+"/lib"); st.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("/lib is no link any more: mode %o", st.Mode)
	}
	for name, want := range map[string]string{
		"/lib/new": "new", "/usr/lib/new": "new", "/lib/old": "old", "/lib/deep/er": "deeper", "/lib/deep/est": "deepest",
		"/srv/bin2": "program", "/bin": "program", "/loop/y": "y",
	} {
		if got := read(t, root+name); got != want {
			t.Errorf("%s says %q", name, got)
		}
	}
	a, b, c := stat(t, root+"/bin"), stat(t, root+"/srv/bin2"), stat(t, root+"/bin3")
	if a.Ino != b.Ino || b.Ino != c.Ino || a.Nlink != 3 || b.Mode != unix.S_IFREG|0o4711 || b.Uid != 3 || b.Mtim.Sec != when.Unix() {
		t.Errorf("hard links into the layer below: %+v %+v %+v", a, b, c)
	}
	sound(t, s)
}

// Such a layer is right on its own stack only: on another it is another one.
func TestLayerThatNeedsThoseBelowIsNotShared(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	needy := gzLayer(t, file("d/x", "x"))
	for name, mode := range map[string]int64{"/one:v1": 0o700, "/two:v1": 0o711, "/none:v1": 0} {
		layers := []v1.Layer{needy}
		if mode != 0 {
			layers = []v1.Layer{gzLayer(t, dir("d", mode)), needy}
		} else {
			mode = 0o755
		}
		push(t, host+name, makeImage(t, layers...))
		root := mountImage(t, s, "c"+name[1:4], mustPull(t, s, host+name).ID)
		if st := stat(t, root+"/d"); st.Mode != unix.S_IFDIR|uint32(mode) {
			t.Errorf("%s: the directory has mode %o", name, st.Mode)
		}
	}
	sound(t, s)
}

func TestHardLinkToNothingIsRefused(t *testing.T) {
	t.Parallel()
	s, host := openStore(t), startRegistry(t)
	push(t, host+"/x:v1", makeImage(t, gzLayer(t, file("a", "")), gzLayer(t, hardlink("h", "nothing"))))
	_, err := s.Pull(context.Background(), PullRequest{Ref: host + "/x:v1"})
	if !errkind.Is(err, errkind.InvalidArgument) {
		t.Fatalf("got %v", err)
	}
	sound(t, s)
}

func TestManyLayersMount(t *testing.T) {
	t.Parallel()
	for _, n := range []int{130, 500} {
		s := openStore(t)
		var layers []v1.Layer
		for i := range n {
			layers = append(layers, gzLayer(t, file("f", string(rune('a'+i%26))), file("f"+time.Duration(i).String(), "")))
		}
		root := run(t, s, layers...)
		if got := read(t, root+"/f"); got != string(rune('a'+(n-1)%26)) {
			t.Errorf("%d layers: the topmost is not on top: %q", n, got)
		}
		read(t, root+"/f"+time.Duration(0).String())
	}
}

func TestSameLayerTwice(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	l := gzLayer(t, file("f", "x"))
	root := run(t, s, l, gzLayer(t, file("f", "y")), l)
	if got := read(t, root+"/f"); got != "x" {
		t.Errorf("got %q", got)
	}
}

func TestWritableLayer(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	ctx := context.Background()
	root := run(t, s, gzLayer(t, file("f", "image")))
	id := s.Snapshots(ctx)[0]
	if err := os.WriteFile(root+"/f", []byte("container"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/big", make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(root+"/big", root+"/big2"); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	bytes, inodes, err := s.SnapshotUsage(ctx, id)
	if err != nil || bytes < 1<<20 || bytes > 1<<20+1<<16 || inodes != 3 {
		t.Errorf("usage is %d bytes, %d inodes (%v)", bytes, inodes, err)
	}
	// The mount comes and goes; what was written stays.
	for range 2 {
		if err := s.Mount(ctx, id, root, nil, ""); err != nil {
			t.Fatal(err)
		}
		if got := read(t, root+"/f"); got != "container" {
			t.Errorf("got %q", got)
		}
		for range 2 {
			if err := s.Unmount(ctx, root); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.MountReadOnly(ctx, id, root, nil, ""); err != nil {
		t.Fatal(err)
	}
	if got := read(t, root+"/f"); got != "image" {
		t.Errorf("read-only: got %q", got)
	}
	if err := os.WriteFile(root+"/f", nil, 0o644); err == nil {
		t.Error("the read-only mount can be written")
	}
	if err := s.Unmount(ctx, root); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := s.Mount(ctx, id, root, nil, ""); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("mounting what was discarded gives %v", err)
	}
	if err := s.Prepare(ctx, "other", "sha256:abcdef"); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("a snapshot of no image gives %v", err)
	}
	if err := s.Prepare(ctx, "../x", "sha256:abcdef"); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("a container id that climbs gives %v", err)
	}
	if got := s.Snapshots(ctx); slices.Contains(got, id) {
		t.Errorf("snapshots are %q", got)
	}
	sound(t, s)
}
