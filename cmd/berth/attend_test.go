package main

import (
	"testing"
	"time"
)

// A command that waits for hours lives through any number of restarts: only a
// daemon that is away for all of its patience ends it.
func TestADaemonThatComesBackIsWaitedForAnew(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	var away absence
	for _, step := range []struct {
		after time.Duration
		met   int64
		want  bool
	}{
		{0, 1, false},
		{patience / 2, 1, false},
		{2 * time.Hour, 2, false}, // it came back, and has gone again just now
		{patience / 2, 2, false},
		{patience, 3, false},
		{patience + time.Second, 3, true},
	} {
		now = now.Add(step.after)
		if got := away.tooLong(now, step.met); got != step.want {
			t.Errorf("%v later, reached %d times: too long is %v", step.after, step.met, got)
		}
	}
}
