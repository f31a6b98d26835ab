package steps

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Board shows what is under way, to whoever asks why something takes so long.
// It lives in memory: what a crash interrupts is found by its records. The zero
// value is empty and ready, and nil shows nothing.
type Board struct {
	mu    sync.Mutex
	plans map[*Entry]struct{} // guarded by mu
}

// Doing is a verb under way on one object.
type Doing struct {
	Object  string // its id
	Verb    string
	Step    string
	Undoing bool      // the step is being undone
	Began   time.Time // the verb
	Since   time.Time // the step
	Failure string    // why it is undone
}

// Entry is one line of a board.
type Entry struct {
	board *Board
	now   Doing // guarded by board.mu
}

// Begin adds a line, which its End takes away.
func (b *Board) Begin(verb, object string) *Entry {
	e := &Entry{board: b, now: Doing{Object: object, Verb: verb, Began: time.Now()}}
	e.now.Since = e.now.Began
	if b == nil {
		return e
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.plans == nil {
		b.plans = map[*Entry]struct{}{}
	}
	b.plans[e] = struct{}{}
	return e
}

// At says which step it is at.
func (e *Entry) At(step string) { e.change(func(d *Doing) { d.Step = step }) }

// undo says which step is being undone.
func (e *Entry) undo(step string) { e.change(func(d *Doing) { d.Step, d.Undoing = step, true }) }

func (e *Entry) fail(err error) { e.change(func(d *Doing) { d.Failure = err.Error() }) }

func (e *Entry) change(to func(*Doing)) {
	if e.board == nil {
		return
	}
	e.board.mu.Lock()
	defer e.board.mu.Unlock()
	to(&e.now)
	e.now.Since = time.Now()
}

// End takes the line away.
func (e *Entry) End() {
	if e.board == nil {
		return
	}
	e.board.mu.Lock()
	defer e.board.mu.Unlock()
	delete(e.board.plans, e)
}

// List gives all lines, the oldest first.
func (b *Board) List() []Doing {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Doing, 0, len(b.plans))
	for e := range b.plans {
		out = append(out, e.now)
	}
	slices.SortFunc(out, func(x, y Doing) int {
		return cmp.Or(x.Began.Compare(y.Began), strings.Compare(x.Object, y.Object))
	})
	return out
}
