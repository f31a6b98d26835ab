package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestListenReplacesOnlyWhatIsStale(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	first, err := listen(t.Context(), path, socketMode)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != socketMode {
		t.Errorf("got %v, %v", st, err)
	}
	if _, err := listen(t.Context(), path, socketMode); err == nil || !strings.Contains(err.Error(), "answers") {
		t.Errorf("a live socket gave %v", err)
	}
	// As after SIGKILL: the file stays, nobody listens.
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := listen(t.Context(), path, socketMode)
	if err != nil {
		t.Fatalf("a stale socket gave %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket stayed behind an orderly end: %v", err)
	}
}

func TestListenRefusesWhatIsNoSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir} {
		if _, err := listen(t.Context(), path, socketMode); err == nil || !strings.Contains(err.Error(), "no socket") {
			t.Errorf("%s gave %v", path, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file changed: %q, %v", b, err)
	}
	if _, err := listen(t.Context(), "/tmp/"+strings.Repeat("x", maxSocketPath), socketMode); err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("a long path gave %v", err)
	}
}

func TestADirectoryHasOneDaemon(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm()&0o077 != 0o011 {
		t.Errorf("got %v, %v", st, err)
	}
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), "another berthd") {
		t.Errorf("a second daemon gave %v", err)
	}
	// A shim that we start must not inherit the lock, or it would outlive us.
	flags, err := unix.FcntlInt(lock.Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the lock is inherited: %x, %v", flags, err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lockDir(dir)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	_ = again.Close()
}

func TestNotifyReachesTheManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	notify(setUpProcess(defaultConfig()), "READY=1")
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}
