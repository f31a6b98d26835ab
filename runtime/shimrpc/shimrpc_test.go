package shimrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// pair is two connected ends.
func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = NewConn(c.(*net.UnixConn))
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	return ends[0], ends[1]
}

func TestPackets(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"small": 10, "spilled": MaxPacket, "large": maxSpill - 1000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			arg := strings.Repeat("x", size)
			if err := a.Send(Request{Verb: VerbExec, Exec: &Exec{Args: []string{arg}}}, w); err != nil {
				t.Fatal(err)
			}
			_ = w.Close()
			var req Request
			files, err := b.Recv(&req)
			if err != nil || len(files) != 1 || req.Exec.Args[0] != arg {
				t.Fatalf("%d files, %v", len(files), err)
			}
			_, _ = files[0].WriteString("through")
			CloseAll(files)
			if got, err := io.ReadAll(r); err != nil || string(got) != "through" {
				t.Errorf("%q, %v", got, err)
			}
			_ = a.Close()
			if _, err := b.Recv(&req); !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	err := a.Send(Request{ID: strings.Repeat("x", maxSpill)})
	if !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("Send: %v", err)
	}
	// A peer that keeps to no limits.
	if _, err := a.c.Write(make([]byte, MaxPacket+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recv(&Request{}); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("Recv: %v", err)
	}
}

func TestRubbish(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	for _, text := range []string{"@", "x", "{"} {
		if _, err := a.c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Recv(&Request{}); err == nil {
			t.Errorf("%q was received", text)
		}
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	t.Parallel()
	err := WireError(errkind.New(errkind.FailedPrecondition, "cannot do it: %w", fmt.Errorf("why"))).Err()
	if !errkind.Is(err, errkind.FailedPrecondition) || err.Error() != "cannot do it: why" {
		t.Errorf("%v", err)
	}
	if long := WireError(errors.New(strings.Repeat("x", maxMessage*10000))).Message; len(long) > maxMessage+3 {
		t.Errorf("a message of %d bytes", len(long))
	}
}

func TestNoShim(t *testing.T) {
	t.Parallel()
	c := Dial(filepath.Join(t.TempDir(), "absent"))
	if _, err := c.Info(t.Context()); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("no socket: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Info(ctx); !errkind.Is(err, errkind.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestShimDies is of one that takes the call and ends.
func TestShimDies(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() {
		for {
			conn, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			_, _ = NewConn(conn).Recv(&Request{})
			_ = conn.Close()
		}
	}()
	c := Dial(path)
	if err := c.Start(t.Context(), "x"); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("Start: %v", err)
	}
	if err := c.Watch(t.Context(), func(Exited) {}); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("Watch: %v", err)
	}
}

func TestLaunchOfWhatIsNoShim(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := LaunchConfig{Binary: "/bin/false", Socket: filepath.Join(dir, "s"), Dir: filepath.Join(dir, "d")}
	if _, err := Launch(t.Context(), cfg); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("Launch: %v", err)
	}
	st, err := os.Stat(cfg.Dir)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", st, err)
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	f, err := Seal("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || got&seals != seals {
		t.Errorf("seals %#x, %v", got, err)
	}
	if _, err := f.WriteAt([]byte{0}, 0); err == nil {
		t.Error("it can be written")
	}
}
