package idmap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var shifted = Map{UID: Range{Host: 300000, Length: 65536}, GID: Range{Host: 400000, Length: 1000}}

func TestOwner(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ uid, gid, wantUID, wantGID uint32 }{
		{0, 0, 300000, 400000},
		{65535, 999, 365535, 400999},
		{65536, 1000, 65536, 1000}, // not of the namespace
	} {
		if uid, gid := shifted.Owner(c.uid, c.gid); uid != int(c.wantUID) || gid != int(c.wantGID) {
			t.Errorf("%d:%d is %d:%d on the host, want %d:%d", c.uid, c.gid, uid, gid, c.wantUID, c.wantGID)
		}
	}
}

// TestWithLeavesNothing makes namespaces, looks at their mapping and owner,
// and finds no process of them afterwards.
func TestWithLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	var dir string
	err := With(shifted, unix.CLONE_NEWNET, func(path func(string) string) error {
		dir = filepath.Dir(filepath.Dir(path("user")))
		for file, want := range map[string]string{"uid_map": "0 300000 65536", "gid_map": "0 400000 1000", "setgroups": "allow"} {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if got := strings.Join(strings.Fields(string(b)), " "); err != nil || got != want {
				t.Errorf("%s is %q, %v, want %q", file, got, err, want)
			}
		}
		net, err := os.Open(path("net"))
		if err != nil {
			return err
		}
		defer func() { _ = net.Close() }()
		owner, err := unix.IoctlRetInt(int(net.Fd()), unix.NS_GET_USERNS)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(owner) }()
		var got, want unix.Stat_t
		if err := unix.Fstat(owner, &got); err != nil {
			return err
		}
		if err := unix.Stat(path("user"), &want); err != nil {
			return err
		}
		if got.Ino != want.Ino {
			t.Error("the network namespace belongs to another user namespace")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("process %s was left behind: %v", dir, err)
	}
}

func TestTreeShowsOwnersMapped(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "f"), 7, 8); err != nil {
		t.Fatal(err)
	}
	err := With(shifted, 0, func(path func(string) string) error {
		ns, err := Pinned{Path: path("user")}.Open()
		if err != nil {
			return err
		}
		defer func() { _ = ns.Close() }()
		tree, err := Tree(dir, ns)
		if err != nil {
			return err
		}
		defer func() { _ = tree.Close() }()
		var st unix.Stat_t
		if err := unix.Fstatat(int(tree.Fd()), "f", &st, 0); err != nil {
			return err
		}
		if st.Uid != 300007 || st.Gid != 400008 {
			t.Errorf("f belongs to %d:%d, want 300007:400008", st.Uid, st.Gid)
		}
		if _, err := Tree("/proc", ns); err == nil || !strings.Contains(err.Error(), "/proc") {
			t.Errorf("mapping a file system that cannot: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
