package steps_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/steps"
)

func plan(log *[]string, failAt, stuckAt string) steps.Plan {
	p := steps.Plan{Verb: "verb"}
	for _, name := range []string{"a", "b", "c"} {
		p.Steps = append(p.Steps, steps.Step{
			Name: name,
			Do: func(context.Context) error {
				*log = append(*log, "+"+name)
				if name == failAt {
					return errors.New(name + " broke")
				}
				return nil
			},
			Undo: func(ctx context.Context) error {
				*log = append(*log, "-"+name)
				if name == stuckAt {
					return errors.New(name + " is stuck")
				}
				return ctx.Err()
			},
		})
	}
	return p
}

func TestFailureUndoesInReverse(t *testing.T) {
	t.Parallel()
	var log []string
	undone, err := plan(&log, "b", "").Run(context.Background())
	if err == nil || !undone || !slices.Equal(log, []string{"+a", "+b", "-b", "-a"}) {
		t.Fatalf("undone %v, err %v, log %v", undone, err, log)
	}
}

func TestUndoGoesOnPastWhatIsStuckAndKeepsEveryReason(t *testing.T) {
	t.Parallel()
	var log []string
	undone, err := plan(&log, "c", "b").Run(context.Background())
	if undone || !strings.Contains(err.Error(), "c broke") || !strings.Contains(err.Error(), "cannot undo b: b is stuck") {
		t.Fatalf("undone %v, err %v", undone, err)
	}
	if log[len(log)-1] != "-a" {
		t.Fatalf("a was not undone: %v", log)
	}
}

func TestCanceledCallerDoesNotStopTheUndo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var log []string
	if undone, err := plan(&log, "c", "").Run(ctx); !undone {
		t.Fatalf("a canceled caller stopped the undo: %v", err)
	}
}

func TestNamesCoverBothSidesOfEveryStep(t *testing.T) {
	t.Parallel()
	want := []string{"verb/a/before", "verb/a/after", "verb/b/before", "verb/b/after", "verb/c/before", "verb/c/after"}
	if got := plan(new([]string), "", "").Names(); !slices.Equal(got, want) {
		t.Fatalf("got %v", got)
	}
}
