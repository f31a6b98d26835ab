package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestArchive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ImagesDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		Put(dir, ConfigFile, Config{ID: "c"}), Put(dir, DescriptorsFile, []string{"/dev/null"}),
		os.WriteFile(filepath.Join(dir, RootfsDiffFile), bytes.Repeat([]byte("d"), 5000), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := Archive(t.Context(), &b, dir); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode&0o077 != 0 || h.Uid != 0 {
			t.Errorf("%s has mode %o and owner %d", h.Name, h.Mode, h.Uid)
		}
		got = append(got, h.Name)
	}
	if want := []string{"checkpoint/", DescriptorsFile, ConfigFile, RootfsDiffFile}; !slices.Equal(got, want) {
		t.Errorf("the archive has %q, want %q", got, want)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Archive(ended, io.Discard, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("after its caller had gone: %v", err)
	}
	// Nobody put a link there, and one would lead elsewhere.
	if err := os.Symlink("/etc/shadow", filepath.Join(dir, ImagesDir, "core-1.img")); err != nil {
		t.Fatal(err)
	}
	if err := Archive(t.Context(), io.Discard, dir); err == nil || !strings.Contains(err.Error(), "core-1.img is no regular file") {
		t.Errorf("with a link: %v", err)
	}
}

// The texts are those of CRIU 3.17.
func TestReason(t *testing.T) {
	t.Parallel()
	probes := "(00.31) Error (criu/util.c:642): exited, status=1\n(00.57) Error (criu/tun.c:85): tun: Unable to create tun: No such file or directory\n"
	for log, want := range map[string]string{
		"": "",
		"Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds\nError (criu/vdso.c:613): vdso: Failed to fill self vdso symtable\n": "vdso: Unexpected rt vDSO area bounds",
		probes + "(00.61) Dumping processes (pid: 227)\n(00.45) Lock network\n(00.46) Error (criu/util.c:642): exited, status=1\n" +
			"(00.46) Error (criu/net.c:3071): Locking network failed\n(00.47) Error (criu/cr-dump.c:2053): Dumping FAILED.\n": "Locking network failed",
		probes + "(00.61) Dumping processes (pid: 227)\n(00.62) Dumping finished successfully\n": "",
		"(00.52)      1: Error (criu/fifo.c:104): Can't open fifo 0x3\n":                         "Can't open fifo 0x3",
		strings.Repeat("(00.61) nothing\n", 100_000) + "(00.62) Error (criu/x.c:1): last\n":      "last",
	} {
		if got := Reason([]byte(log)); got != want {
			t.Errorf("of %.80q the reason is %q, want %q", log, got, want)
		}
	}
}
