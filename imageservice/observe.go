package imageservice

import (
	"cmp"
	"io"
	"slices"
	"strings"
	"time"
)

// Observer is told what the store has done, by who counts it. Its methods are
// called from many goroutines at once, some of them under the store's lock:
// they must not block, nor call the store.
type Observer interface {
	// Pulled tells that a pull has ended; equal pulls at a time are one.
	Pulled(took time.Duration, err error)
	// Stepped tells that a step of a verb has ended; see StepNames. What happens
	// many times in a pull, as bytes come, is not told.
	Stepped(verb, step string, took time.Duration, err error)
	// Received tells that n more bytes of layers, or of blobs that are fetched
	// again, came from a registry.
	Received(n int)
	// Collected tells that garbage was collected: so many layers that nobody
	// used any more, and the bytes that went with them and with blobs.
	Collected(layers int, bytes uint64)
	// Repaired tells that so many damaged layers and blobs were fetched again.
	Repaired(layers, blobs int)
}

// unobserved is the Observer of a store that has none.
type unobserved struct{}

func (unobserved) Pulled(time.Duration, error)                  {}
func (unobserved) Stepped(string, string, time.Duration, error) {}
func (unobserved) Received(int)                                 {}
func (unobserved) Collected(int, uint64)                        {}
func (unobserved) Repaired(int, int)                            {}

// received counts what is read from a registry.
type received struct {
	io.ReadCloser
	observer Observer
}

func (r received) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.observer.Received(n)
	return n, err
}

// observed is body, counted; an error passes.
func (s *Service) observed(body io.ReadCloser, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	return received{body, s.cfg.Observer}, nil
}

// Event is something that happened to an image.
type Event struct {
	Kind  EventKind
	Ref   string // in full, or as it was asked for; empty where only the id is known
	ID    string // of the image, where it is known
	Layer string // digest, of EventLayer
	Err   error  // of EventFailed
}

// EventKind is what happened.
type EventKind string

// The kinds of events.
const (
	EventPulling EventKind = "pulling" // a pull begins
	EventLayer   EventKind = "layer"   // one of its layers is there
	EventPulled  EventKind = "pulled"
	EventFailed  EventKind = "failed" // the pull has
	EventRemoved EventKind = "removed"
)

func (s *Service) happened(e Event) {
	if s.cfg.Happened != nil {
		s.cfg.Happened(e)
	}
}

// PullStep is what a pull is at.
type PullStep string

// The steps of a pull, in their order.
const (
	PullResolve PullStep = "resolve" // the registry is asked for the manifest
	PullVerify  PullStep = "verify"  // the image verifiers are asked
	PullConfig  PullStep = "config"  // the configuration comes
	PullLayers  PullStep = "layers"  // the layers come, and the image is recorded
)

// RunningPull is a pull under way.
type RunningPull struct {
	Ref    string // in full
	Began  time.Time
	Step   PullStep
	Asking string     // the program that is asked, at PullVerify
	Moved  time.Time  // when the step began, or a layer last told something
	Layers []Progress // what each layer last told, by digest; one that another pull brings too
}

// Pulls lists the pulls under way, the oldest first.
func (s *Service) Pulls() []RunningPull {
	s.mu.Lock()
	var running []*pull
	for _, p := range s.pulls {
		running = append(running, p)
	}
	s.mu.Unlock()
	var out []RunningPull
	for _, p := range running {
		out = append(out, p.status())
	}
	slices.SortFunc(out, func(a, b RunningPull) int {
		return cmp.Or(a.Began.Compare(b.Began), strings.Compare(a.Ref, b.Ref))
	})
	return out
}

func (p *pull) status() RunningPull {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := RunningPull{Ref: p.ref, Began: p.began, Step: p.step, Asking: p.asking, Moved: p.moved}
	for _, l := range p.layers {
		r.Layers = append(r.Layers, l)
	}
	slices.SortFunc(r.Layers, func(a, b Progress) int { return strings.Compare(a.Layer, b.Layer) })
	return r
}
