package verifier

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// programs makes a directory of shell scripts, by name. The tests are not
// parallel: another's fork would hold a script open for writing, and the
// kernel does not run such a file.
func programs(t *testing.T, scripts map[string]string) Programs {
	t.Helper()
	dir := t.TempDir()
	for name, body := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Programs{Dir: dir}
}

var image = v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: digest.FromString("x"), Size: 7}

func TestEveryVerifierMustAgree(t *testing.T) {
	for name, c := range map[string]struct {
		scripts map[string]string
		says    string // of the refusal; empty: it passes
	}{
		"none":             {nil, ""},
		"all agree":        {map[string]string{"a": "echo fine", "b": "exit 0"}, ""},
		"does not read":    {map[string]string{"a": "exec <&-; exit 0"}, ""},
		"the last refuses": {map[string]string{"a": "exit 0", "b": "echo no signature; echo detail >&2; exit 3"}, "image verifier b refuses it: no signature"},
		"no reason":        {map[string]string{"a": "exit 4"}, "exit status 4"},
		"killed":           {map[string]string{"a": "kill -9 $$"}, "killed"},
		"no end of words":  {map[string]string{"a": "head -c 1000000 /dev/zero | tr '\\0' x; exit 1"}, "xxx"},
		"cut":              {map[string]string{"a": "head -c 4097 /dev/zero | tr '\\0' x; exit 1"}, "x (truncated)"},
		"control":          {map[string]string{"a": "printf 'a\\033[2J\\rb'; exit 1"}, "a [2J b"},
		"no text":          {map[string]string{"a": "printf 'a\\377b'; exit 1"}, "a?b"},
	} {
		p := programs(t, c.scripts)
		err := p.Verify(t.Context(), "docker.io/library/a:1", image)
		var refusal *Refusal
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.says != "" && (!errors.As(err, &refusal) || !strings.Contains(err.Error(), c.says) || len(refusal.Reason) > maxOutput+len(" (truncated)")):
			t.Errorf("%s: got %.200v, want a refusal with %q", name, err, c.says)
		}
	}
}

func TestVerifierIsToldTheImage(t *testing.T) {
	p := programs(t, map[string]string{"a": `echo "$@"; cat; exit 1`})
	err := p.Verify(t.Context(), "docker.io/library/a:1", image)
	want := "image verifier a refuses it: -name docker.io/library/a:1 -digest " + image.Digest.String() +
		" -stdin-media-type application/vnd.oci.descriptor.v1+json\n" +
		`{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"` + image.Digest.String() + `","size":7}`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestNoVerdictIsARefusal(t *testing.T) {
	slow := programs(t, map[string]string{"a": "sleep 1000"})
	slow.Timeout = 50 * time.Millisecond
	broken := programs(t, map[string]string{"a": "exit 0"})
	if err := os.Chmod(filepath.Join(broken.Dir, "a"), 0o644); err != nil {
		t.Fatal(err)
	}
	crowd := map[string]string{}
	for i := range maxPrograms + 1 {
		crowd[fmt.Sprint(i)] = "exit 0"
	}
	for says, p := range map[string]Programs{
		"11 verifiers, more than 10": programs(t, crowd),
		"has not answered":           slow,
		"cannot be run":              broken,
		"cannot list the verifiers":  {Dir: filepath.Join(broken.Dir, "absent")},
	} {
		var refusal *Refusal
		if err := p.Verify(t.Context(), "a", image); !errors.As(err, &refusal) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want a refusal with %q", err, says)
		}
	}
}

func TestNothingOutlivesAVerifier(t *testing.T) {
	p := programs(t, map[string]string{"a": "sleep 1000 & echo $! >$0.pid"})
	if err := p.Verify(t.Context(), "a", image); err != nil {
		t.Error(err)
	}
	pid, err := os.ReadFile(filepath.Join(p.Dir, "a.pid"))
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		// Empty: a zombie, which whoever adopted it has yet to bury.
		if b, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/cmdline"); len(b) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %s is left", pid)
}

// A caller who goes away has not been refused.
func TestCancelledIsNoRefusal(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := programs(t, map[string]string{"a": "echo >$0.asked; sleep 1000"})
	go func() {
		defer cancel()
		for range 1000 {
			if _, err := os.Stat(filepath.Join(p.Dir, "a.asked")); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	var refusal *Refusal
	if err := p.Verify(ctx, "a", image); !errors.Is(err, context.Canceled) || errors.As(err, &refusal) {
		t.Errorf("got %v", err)
	}
}

// Whatever programs write, in whatever pieces, a message gets a bounded piece
// of text from it, and the same text however it was cut.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("no signature\n"), 3)
	f.Add([]byte("\xff\x1b[2J\r\x00"), 1)
	f.Add([]byte(strings.Repeat("x", maxOutput+1)), 4095)
	f.Add([]byte(strings.Repeat("\u00e4", maxOutput)), 7)
	f.Fuzz(func(t *testing.T, said []byte, piece int) {
		piece = max(1, piece)
		var whole, pieces head
		_, _ = whole.Write(said)
		for rest := said; len(rest) > 0; {
			n := min(piece, len(rest))
			if wrote, err := pieces.Write(rest[:n]); wrote != n || err != nil {
				t.Fatalf("took %d of %d bytes, %v", wrote, n, err)
			}
			rest = rest[n:]
		}
		text := whole.text()
		if text != pieces.text() {
			t.Fatalf("%q or, in pieces, %q", text, pieces.text())
		}
		if len(text) > maxOutput+len(" (truncated)") || !utf8.ValidString(text) || strings.ContainsAny(text, "\r\x1b\x00") {
			t.Fatalf("%q became %q", said, text)
		}
	})
}
