package idmap

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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
		{65536, 1000, 65534, 65534}, // not of the namespace
		{300000, 400000, 65534, 65534},
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

// maker is the environment variable that makes of the test program one that
// makes namespaces, tells of them, and waits to be killed.
const maker = "BERTH_TEST_IDMAP_MAKER"

func TestMain(m *testing.M) {
	if os.Getenv(maker) != "" {
		err := With(shifted, 0, func(path func(string) string) error {
			fmt.Println(path("user"))
			select {}
		})
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestWithDiesWithItsMaker kills the maker while the child is stopped: it must
// not go on, as what it would execute is the maker's own program.
func TestWithDiesWithItsMaker(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), maker+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	path, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(path, "/proc/") {
		t.Fatalf("the maker says %q, %v", path, err)
	}
	pid, err := strconv.Atoi(strings.Split(path, "/")[2])
	if err != nil {
		t.Fatal(err)
	}
	child, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(child) }()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	ended := []unix.PollFd{{Fd: int32(child), Events: unix.POLLIN}}
	if n, err := unix.Poll(ended, 10_000); err != nil || n != 1 {
		t.Errorf("process %d outlived its maker: %d, %v", pid, n, err)
		_ = unix.Kill(pid, unix.SIGKILL)
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
