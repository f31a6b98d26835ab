//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/logload"
)

// TestLogUnderLoad rotates the log of a container that writes at full speed,
// kills the daemon twice meanwhile, and reads everything back. `make soak` does
// it with more.
func TestLogUnderLoad(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	load := logload.Load{Name: "logload", Bytes: 24 << 20, RotateEvery: 50 * time.Millisecond, DaemonKills: 2}
	r, err := load.Run(t.Context(), n.Lab, n.shell)
	t.Logf("%+v", r)
	if err != nil {
		t.Fatal(err)
	}
	if r.TakenBack == 0 || r.Rotations < 4 {
		t.Errorf("too little happened: %+v", r)
	}
}
