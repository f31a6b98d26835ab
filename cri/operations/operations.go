// Package operations remembers the last calls with their steps and how they
// ended, for whoever has to find out what went wrong.
//
// Model. A Recorder is a ring of calls that have ended, and a set of those that
// are under way. It is told of calls and steps by the hooks that traces use, so
// that a step belongs to the call whose context it has; what the daemon does by
// itself, such as recovering, is a call of that step alone.
//
// Law. It holds names, times and errors, never a request. Calls that only read
// are kept if they failed.
package operations

import (
	"cmp"
	"context"
	"path"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/admin/api"
)

const (
	// Size is how many calls that have ended are kept.
	Size = 256
	// mostSteps bounds those of one call.
	mostSteps = 100
	// mostText bounds an error in bytes.
	mostText = 4 << 10
)

// Recorder keeps the last calls. New makes one.
type Recorder struct {
	reads func(verb string) bool

	mu      sync.Mutex
	running map[*api.Operation]struct{} // guarded by mu, with what they point to
	ended   []api.Operation             // grows to Size; guarded by mu
	next    int                         // where the next one goes; guarded by mu
}

// New makes an empty Recorder. reads tells which verbs only look.
func New(reads func(verb string) bool) *Recorder {
	return &Recorder{reads: reads, running: map[*api.Operation]struct{}{}}
}

type key struct{}

// Call begins a call; it is a cri.Trace.
func (r *Recorder) Call(ctx context.Context, method, object string) (context.Context, func(error)) {
	o := &api.Operation{Verb: path.Base(method), Object: object, Began: time.Now()}
	reads := r.reads(o.Verb)
	if !reads {
		r.begin(o)
		ctx = context.WithValue(ctx, key{}, o)
	}
	return ctx, func(err error) {
		if !reads || err != nil {
			r.end(o, err)
		}
	}
}

// Step begins a step of a verb; it is a steps.Observe.
func (r *Recorder) Step(ctx context.Context, verb, step string) (context.Context, func(error)) {
	began := time.Now()
	o, called := ctx.Value(key{}).(*api.Operation)
	if !called {
		o = &api.Operation{Verb: verb, Began: began, Own: true}
		r.begin(o)
	}
	return ctx, func(err error) {
		r.mu.Lock()
		if len(o.Steps) < mostSteps {
			o.Steps = append(o.Steps, api.OperationStep{Verb: verb, Step: step, Took: time.Since(began), Error: text(err)})
		}
		r.mu.Unlock()
		if !called {
			r.end(o, err)
		}
	}
}

func (r *Recorder) begin(o *api.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[o] = struct{}{}
}

func (r *Recorder) end(o *api.Operation, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, o)
	o.Took, o.Code, o.Error = time.Since(o.Began), status.Code(err).String(), text(err)
	// A copy: a step that outlives its call must not write into what is read.
	kept := *o
	kept.Steps = slices.Clone(o.Steps)
	if len(r.ended) < Size {
		r.ended = append(r.ended, kept)
		return
	}
	r.ended[r.next] = kept
	r.next = (r.next + 1) % Size
}

// List gives the calls in the order in which they began; those under way have
// no code.
func (r *Recorder) List() []api.Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.ended)
	for o := range r.running {
		now := *o
		now.Steps, now.Took = slices.Clone(o.Steps), time.Since(o.Began)
		out = append(out, now)
	}
	slices.SortStableFunc(out, func(a, b api.Operation) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.Verb, b.Verb))
	})
	return out
}

func text(err error) string {
	if err == nil {
		return ""
	}
	s := err.Error()
	if st, ok := status.FromError(err); ok {
		s = st.Message()
	}
	return s[:min(len(s), mostText)]
}
