package steps_test

import (
	"context"
	"errors"
	"fmt"
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

func TestAStepThatHoldsKeepsWhatCameBefore(t *testing.T) {
	var undone []string
	step := func(name string, holds bool, err error) steps.Step {
		return steps.Step{Name: name, Do: func(context.Context) error { return nil }, Holds: holds,
			Undo: func(context.Context) error { undone = append(undone, name); return err }}
	}
	stuck := errors.New("stuck")
	p := steps.Plan{Verb: "v", Steps: []steps.Step{step("a", true, nil), step("b", true, stuck), step("c", false, stuck), step("d", true, nil)}}
	if err := p.Undo(context.Background()); !errors.Is(err, stuck) || strings.Join(undone, "") != "dcb" {
		t.Errorf("undone %q, %v", undone, err)
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

// Whoever observes is told of each step once, before and after it, and gives it
// its context; the undo has the verb's own.
func TestStepsAreObservedAroundTheirDo(t *testing.T) {
	t.Parallel()
	type key struct{}
	var log []string
	p := plan(&log, "b", "")
	p.Observe = func(ctx context.Context, verb, step string) (context.Context, func(error)) {
		log = append(log, "begin "+verb+"/"+step)
		return context.WithValue(ctx, key{}, step), func(err error) { log = append(log, fmt.Sprintf("end %s %v", step, err)) }
	}
	do, undo := p.Steps[0].Do, p.Steps[0].Undo
	p.Steps[0].Do = func(ctx context.Context) error {
		if got := ctx.Value(key{}); got != "a" {
			t.Errorf("the step has the context of %v", got)
		}
		return do(ctx)
	}
	p.Steps[0].Undo = func(ctx context.Context) error {
		if got := ctx.Value(key{}); got != nil {
			t.Errorf("the undo has the context of step %v", got)
		}
		return undo(ctx)
	}
	_, _ = p.Run(t.Context())
	if want := []string{"begin verb/a", "+a", "end a <nil>", "begin verb/b", "+b", "end b b broke", "-b", "-a"}; !slices.Equal(log, want) {
		t.Errorf("got %q, want %q", log, want)
	}
}

func TestNamesCoverBothSidesOfEveryStep(t *testing.T) {
	t.Parallel()
	want := []string{"verb/a/before", "verb/a/after", "verb/b/before", "verb/b/after", "verb/c/before", "verb/c/after"}
	if got := plan(new([]string), "", "").Names(); !slices.Equal(got, want) {
		t.Fatalf("got %v", got)
	}
}

func TestBoardShowsStepsAndUndoing(t *testing.T) {
	t.Parallel()
	var b steps.Board
	var seen []string
	look := func() {
		for _, d := range b.List() {
			seen = append(seen, fmt.Sprintf("%s %s/%s %v %s", d.Object, d.Verb, d.Step, d.Undoing, d.Failure))
		}
	}
	p := steps.Plan{Verb: "verb", Object: "id", Board: &b, Steps: []steps.Step{
		{Name: "a", Do: func(context.Context) error { look(); return nil }, Undo: func(context.Context) error { look(); return nil }},
		{Name: "b", Do: func(context.Context) error { look(); return errors.New("broke") }},
	}}
	if _, err := p.Run(t.Context()); err == nil {
		t.Fatal("it went well")
	}
	if want := []string{"id verb/a false ", "id verb/b false ", "id verb/a true broke"}; !slices.Equal(seen, want) {
		t.Errorf("%q", seen)
	}
	if left := b.List(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
