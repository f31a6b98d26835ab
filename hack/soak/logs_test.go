//go:build soak

package soak

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/logload"
	"github.com/berth-runtime/berth/hack/testimage"
)

// TestLogs has a container write a large log at full speed, on both streams,
// while a kubelet rotates it ten times a second, takes some rotations back and
// compresses old files, and while the daemon is killed five times, or the shim
// once. It is read back byte for byte, from its files and by a berth logs -f
// that has followed through all of it.
func TestLogs(t *testing.T) {
	l := start(t)
	shell, err := testimage.Shell()
	if err != nil {
		t.Fatal(err)
	}
	image := l.Registry + "/shell:1"
	if _, err := testimage.Push(t.Context(), image, shell); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Pull(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	for name, load := range map[string]logload.Load{
		"daemon killed": {DaemonKills: 5},
		"shim killed":   {ShimKills: 1},
	} {
		t.Run(name, func(t *testing.T) {
			load.Name, load.Bytes, load.RotateEvery = strings.ReplaceAll(name, " ", "-"), 200_000_000, 100*time.Millisecond
			r, err := load.Run(t.Context(), l, image)
			t.Logf("%+v", r)
			if err != nil {
				t.Fatal(err)
			}
			for stream, lost := range r.Lost {
				// One read of the shim and the line begun before it.
				if limit := int64(load.ShimKills) * (80 << 10); lost > limit {
					t.Errorf("%s lacks %d bytes, want at most %d", stream, lost, limit)
				}
			}
		})
	}
}
