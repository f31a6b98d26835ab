package imageservice

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/berth-runtime/berth/imageservice/verifier"
)

// A verifier is asked before anything but manifests is fetched, and again for
// an image that is here.
func TestPullAsksTheVerifiers(t *testing.T) {
	s, host := openStore(t), startRegistry(t)
	dir := t.TempDir()
	program := "#!/bin/sh\ncat >${0%/*}/../seen\n[ \"$2\" = '" + host + "/good:1' ] || { echo unsigned; exit 1; }\n"
	verdicts := filepath.Join(dir, "verdicts")
	if err := os.Mkdir(verdicts, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(verdicts, "policy"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	s.cfg.Verifiers = verifier.Programs{Dir: verdicts}
	img, err := random.Image(1<<10, 2)
	if err != nil {
		t.Fatal(err)
	}
	push(t, host+"/good:1", img)
	push(t, host+"/bad:1", img)
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}

	refused := func() {
		t.Helper()
		var refusal *Refusal
		_, err := s.Pull(t.Context(), PullRequest{Ref: host + "/bad:1"})
		if !errors.As(err, &refusal) || refusal.Program != "policy" || refusal.Reason != "unsigned" {
			t.Errorf("got %v", err)
		}
	}
	refused()
	if all, err := s.List(t.Context()); err != nil || len(all) > 0 || len(s.state.Layers) > 0 {
		t.Errorf("a refused pull left %v, %v", all, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "seen"))
	if err != nil || !strings.Contains(string(b), d.String()) || !strings.Contains(string(b), `"mediaType":"application/vnd.`) {
		t.Errorf("the verifier read %s, %v", b, err)
	}
	image := mustPull(t, s, host+"/good:1")
	refused()
	if now, err := s.Status(t.Context(), image.ID); err != nil || len(now.Tags) != 1 {
		t.Errorf("a refused name was added: %v, %v", now.Tags, err)
	}
	sound(t, s)
}
