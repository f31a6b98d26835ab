package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReaders asks each place for what it has and for what it must not have.
func TestReaders(t *testing.T) {
	t.Parallel()
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "berth_pods 1\n") })
	cfg := defaultConfig()
	cfg.State = t.TempDir()
	debug := filepath.Join(cfg.State, debugSocket)
	own := filepath.Join(t.TempDir(), "metrics.sock")
	for _, address := range []string{"", own, "127.0.0.1:0"} {
		if err := os.Remove(own); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		cfg.Metrics.Address = address
		failed := make(chan error, 2)
		end, err := serveReaders(t.Context(), cfg, metrics, failed)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(debug); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the debug socket: %v, %v", st, err)
		}
		holds(t, debug, "/metrics", "berth_pods")
		holds(t, debug, "/debug/pprof/goroutine?debug=1", "goroutine profile")
		holds(t, debug, "/debug/pprof/cmdline", "Unknown profile")
		if address == own {
			holds(t, own, "/metrics", "berth_pods")
			holds(t, own, "/debug/pprof/goroutine?debug=1", "404")
			holds(t, own, "/", "404")
		}
		end()
		if _, err := os.Stat(debug); !os.IsNotExist(err) {
			t.Errorf("the debug socket stayed: %v", err)
		}
		select {
		case err := <-failed:
			t.Errorf("an orderly end is told as %v", err)
		default:
		}
	}
}

// TestReadersCanBeOff opens nothing that the configuration does not ask for.
func TestReadersCanBeOff(t *testing.T) {
	t.Parallel()
	cfg := defaultConfig()
	cfg.State = t.TempDir()
	cfg.Debug.Socket = false
	end, err := serveReaders(t.Context(), cfg, http.NotFoundHandler(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	if left, err := os.ReadDir(cfg.State); err != nil || len(left) > 0 {
		t.Errorf("got %v, %v", left, err)
	}
}

// TestReadersFailAsAWhole leaves no listener when one of them cannot be.
func TestReadersFailAsAWhole(t *testing.T) {
	t.Parallel()
	cfg := defaultConfig()
	cfg.State = t.TempDir()
	cfg.Metrics.Address = filepath.Join(t.TempDir(), "metrics.sock")
	if err := os.WriteFile(filepath.Join(cfg.State, debugSocket), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := serveReaders(t.Context(), cfg, http.NotFoundHandler(), make(chan error, 2)); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(cfg.Metrics.Address); !os.IsNotExist(err) {
		t.Errorf("the other socket stayed: %v", err)
	}
}

// holds asks the socket for path and wants text in the status or the answer.
func holds(t *testing.T, socket, path, text string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://berthd"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(resp.Status+string(body), text) {
		t.Errorf("%s%s: %s %q, %v", socket, path, resp.Status, body, err)
	}
}
