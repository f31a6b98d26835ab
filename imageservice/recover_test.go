package imageservice

import (
	"context"
	"os"
	"testing"
)

// A crash between a snapshot's row and its directories, on the way in or on
// the way out, leaves nothing to complain of, and both can be asked for again.
func TestOpenCompletesASnapshotThatWasCut(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root, host := t.TempDir(), startRegistry(t)
	ctx := context.Background()
	push(t, host+"/x:v1", makeImage(t, gzLayer(t, file("f", "whole"))))
	s := openUnder(t, root, "1")
	image := mustPull(t, s, host+"/x:v1")
	for _, id := range []string{"coming", "going"} {
		if err := s.Prepare(ctx, id, image.ID); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(s.snapshotDir(id)); err != nil {
			t.Fatal(err)
		}
	}
	crash(t, s)

	s = openUnder(t, root, "1")
	sound(t, s)
	if got := read(t, mountImage(t, s, "coming", image.ID)+"/f"); got != "whole" {
		t.Errorf("the container reads %q", got)
	}
	if err := s.Discard(ctx, "going"); err != nil {
		t.Error(err)
	}
	absent(t, s.snapshotDir("going"))
	sound(t, s)
}
