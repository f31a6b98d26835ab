package imageservice

import (
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/berth-runtime/berth/imageservice/verifier"
)

// A pull tells where it hangs: at a verifier that does not answer, by its
// name, and then at layers that do not come.
func TestPullsTellWhereTheyHang(t *testing.T) {
	t.Parallel()
	s := inRanges(openStore(t))
	dir := t.TempDir()
	verdicts, pass := filepath.Join(dir, "verdicts"), filepath.Join(dir, "pass")
	if err := os.Mkdir(verdicts, 0o755); err != nil {
		t.Fatal(err)
	}
	program := "#!/bin/sh\nwhile ! [ -e '" + pass + "' ]; do sleep 0.02; done\n"
	if err := os.WriteFile(filepath.Join(verdicts, "10-slow"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	s.cfg.Verifiers = verifier.Programs{Dir: verdicts, Timeout: time.Minute}
	_, log, host := startRanges(t)
	img, err := random.Image(3<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	push(t, host+"/x:1", img)
	goOn := make(chan struct{})
	log.alter(func(w http.ResponseWriter, req *http.Request) http.ResponseWriter {
		if req.Header.Get("Range") != "" {
			<-goOn
		}
		return w
	})
	var puller sync.WaitGroup
	puller.Go(func() {
		if _, err := s.Pull(t.Context(), PullRequest{Ref: host + "/x:1"}); err != nil {
			t.Error(err)
		}
	})
	await := func(step PullStep, asking string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			running := s.Pulls()
			if len(running) == 1 && running[0].Step == step && running[0].Asking == asking && !running[0].Moved.Before(running[0].Began) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("under way: %+v", running)
			}
		}
	}
	await(PullVerify, "10-slow")
	if err := os.WriteFile(pass, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	await(PullLayers, "")
	close(goOn)
	puller.Wait()
}
