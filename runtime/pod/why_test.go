package pod_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// hanging are hooks that hang at one turn until they are let go.
type hanging struct {
	at      pod.Turn
	reached chan struct{}
	goOn    chan struct{}
}

func (h *hanging) turn(t pod.Turn) error {
	if t == h.at {
		close(h.reached)
		<-h.goOn
	}
	return nil
}

func (h *hanging) Pod(_ context.Context, t pod.Turn, _ *pod.PodStatus) error { return h.turn(t) }
func (h *hanging) Container(_ context.Context, t pod.Turn, _ *pod.PodStatus, _ *pod.ContainerStatus) error {
	return h.turn(t)
}
func (h *hanging) Adjust(context.Context, *pod.PodStatus, *pod.ContainerStatus, *specs.Spec) error {
	return nil
}
func (h *hanging) Limit(_ context.Context, _ *pod.PodStatus, _ *pod.ContainerStatus, r spec.Resources) (spec.Resources, error) {
	return r, nil
}
func (h *hanging) Hold() func() { return func() {} }

// What hangs is shown with its step, also a pod that no list shows yet; what
// is done is shown no more.
func TestWorksShowsWhatHangs(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.Close()
	h := &hanging{at: pod.TurnRun, reached: make(chan struct{}), goOn: make(chan struct{})}
	n.cfg.Hooks = h
	n.boot(t)
	ran := make(chan error, 1)
	go func() {
		_, err := n.Run(t.Context(), pod.ViewAll, podConfig("slow"))
		ran <- err
	}()
	<-h.reached
	if listed := n.Pods(pod.ViewAll, pod.PodFilter{}); len(listed) != 0 {
		t.Errorf("listed: %v", listed)
	}
	works := n.Works()
	if len(works) != 1 || works[0].Pod.Name != "slow" || works[0].ContainerID != "" || len(works[0].Doing) != 1 {
		t.Fatalf("%+v", works)
	}
	if d := works[0].Doing[0]; d.Verb != "pod.run" || d.Step != "hook" || d.Undoing || d.Since.IsZero() || d.Since.Before(d.Began) {
		t.Errorf("%+v", d)
	}
	close(h.goOn)
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	if works := n.Works(); len(works) != 0 {
		t.Errorf("after it: %+v", works)
	}
}

// stuck is a store that cannot discard snapshots while it is told so.
type stuck struct {
	*images
	mu  sync.Mutex
	why error // guarded by mu
}

func (s *stuck) set(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = why
}

func (s *stuck) Discard(ctx context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why != nil {
		return s.why
	}
	return s.images.Discard(ctx, id)
}

// A removal that failed is remembered with its reason over a restart of the
// daemon, until one succeeds.
func TestTroubleIsRemembered(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.Close()
	store := &stuck{images: n.images}
	n.cfg.Images = store
	n.boot(t)
	podID, id := n.up(t, "stuck", "/bin/sleep", "1000")
	store.set(errors.New("the mount is busy"))
	if err := n.RemoveContainer(t.Context(), pod.ViewAll, id); err == nil {
		t.Fatal("it was removed")
	}
	remembered := func(when string) {
		t.Helper()
		works := n.Works()
		if len(works) != 1 || works[0].ContainerID != id || works[0].PodID != podID || works[0].Trouble == nil {
			t.Fatalf("%s: %+v", when, works)
		}
		if why := works[0].Trouble; why.Verb != "remove" || !strings.Contains(why.Why, "the mount is busy") || time.Since(why.At) > time.Hour {
			t.Errorf("%s: %+v", when, why)
		}
	}
	remembered("after the failure")
	n.Close()
	n.boot(t)
	remembered("after a restart")
	store.set(nil)
	if err := n.RemoveContainer(t.Context(), pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	if works := n.Works(); len(works) != 0 {
		t.Errorf("after the removal: %+v", works)
	}
}
