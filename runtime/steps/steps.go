// Package steps runs a verb as a table of named do/undo steps.
//
// Law. A step's Undo is idempotent and tolerates that its Do never happened,
// or happened in part. So no position has to be recorded: whoever finds a
// half-done verb after a crash undoes the whole table in reverse, or, for a
// verb that only moves forward (stop, remove), does the whole table again.
// Undo gets a context of its own: a caller that went away does not stop a
// clean-up.
//
// Before and after every step there is a failpoint named
// "verb/step/before|after"; the crash test is generated from those names.
package steps

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-runtime/berth/runtime/sys/fail"
)

// UndoTimeout bounds the undoing of one table.
const UndoTimeout = 30 * time.Second

// Step is one effect with its opposite.
type Step struct {
	Name string
	Do   func(context.Context) error
	Undo func(context.Context) error // nil: nothing to undo
	// Holds keeps what came before it as it is while it cannot be undone: it is
	// needed to try again.
	Holds bool
}

// Plan is a verb applied to one object.
type Plan struct {
	Verb    string
	Steps   []Step
	Observe Observe // nil: nobody

	Object string // id of what it is applied to, for the board
	Board  *Board // shows where it is; may be nil
}

// Observe is told of a step before it is done. The context that it returns is
// the step's, and the function is told of its end, with its error.
type Observe func(ctx context.Context, verb, step string) (context.Context, func(error))

// Run does the steps in order. At the first that fails it undoes that one and
// all before it, in reverse, and returns the failure joined with what the
// undoing could not do; undone tells whether everything was undone.
func (p Plan) Run(ctx context.Context) (undone bool, err error) {
	shown := p.Board.Begin(p.Verb, p.Object)
	defer shown.End()
	for i, s := range p.Steps {
		fail.Hit(p.Verb + "/" + s.Name + "/before")
		shown.At(s.Name)
		if err := p.do(ctx, s); err != nil {
			shown.fail(err)
			undoErr := undo(ctx, p.Steps[:i+1], shown)
			return undoErr == nil, errors.Join(err, undoErr)
		}
		fail.Hit(p.Verb + "/" + s.Name + "/after")
	}
	return false, nil
}

func (p Plan) do(ctx context.Context, s Step) (err error) {
	if p.Observe != nil {
		var done func(error)
		ctx, done = p.Observe(ctx, p.Verb, s.Name)
		defer func() { done(err) }()
	}
	return s.Do(ctx)
}

// Undo undoes the whole table in reverse, whatever was done of it.
func (p Plan) Undo(ctx context.Context) error {
	shown := p.Board.Begin(p.Verb, p.Object)
	defer shown.End()
	return undo(ctx, p.Steps, shown)
}

// Names lists the failpoints of the plan.
func (p Plan) Names() []string {
	out := make([]string, 0, 2*len(p.Steps))
	for _, s := range p.Steps {
		out = append(out, p.Verb+"/"+s.Name+"/before", p.Verb+"/"+s.Name+"/after")
	}
	return out
}

// undo goes on after a step that cannot be undone, unless that one holds: the
// more is gone the better, and every reason is kept.
func undo(ctx context.Context, steps []Step, shown *Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), UndoTimeout)
	defer cancel()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i].Undo == nil {
			continue
		}
		shown.undo(steps[i].Name)
		if err := steps[i].Undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("cannot undo %s: %w", steps[i].Name, err))
			if steps[i].Holds {
				break
			}
		}
	}
	return errors.Join(errs...)
}
