package main

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/cri/admin"
)

// manager is a service manager that listens.
func manager(t *testing.T) <-chan string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	heard := make(chan string, 1000)
	go func() {
		defer close(heard)
		buf := make([]byte, 64)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			heard <- string(buf[:n])
		}
	}()
	return heard
}

func TestTheWatchdogIsFedWhileTheDaemonAnswers(t *testing.T) {
	heard := manager(t)
	t.Setenv("WATCHDOG_PID", "")
	t.Setenv("WATCHDOG_USEC", "3000000")
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	admin.New(admin.Config{}).Register(s)
	go func() { _ = s.Serve(l) }()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		feedWatchdog(ctx, klog.Background(), socket)
		close(ended)
	}()
	for range 2 {
		if got := <-heard; got != "WATCHDOG=1" {
			t.Fatalf("told %q", got)
		}
	}
	stop()
	<-ended
	s.Stop()

	// Nobody answers: nothing is told, though it is tried.
	for len(heard) > 0 {
		<-heard
	}
	t.Setenv("WATCHDOG_USEC", "30000")
	ctx, stop = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	feedWatchdog(ctx, klog.Background(), socket)
	if len(heard) > 0 {
		t.Errorf("a daemon that does not answer told %q", <-heard)
	}
}

func TestNoWatchdogIsFedThatNobodyAskedFor(t *testing.T) {
	for _, env := range [][2]string{{"", ""}, {"1", "1000000"}, {"", "0"}, {"", "x"}} {
		t.Setenv("WATCHDOG_PID", env[0])
		t.Setenv("WATCHDOG_USEC", env[1])
		if _, wanted := watchdogInterval(); wanted {
			t.Errorf("%q: it is wanted", env)
		}
		feedWatchdog(t.Context(), klog.Background(), "/nowhere") // returns
	}
}
