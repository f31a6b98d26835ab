package operations

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestRecorder(t *testing.T) {
	t.Parallel()
	r := New(func(verb string) bool { return strings.HasPrefix(verb, "List") })
	ctx, done := r.Call(t.Context(), "/runtime.v1.RuntimeService/RunPodSandbox", "ns/web")
	_, end := r.Step(ctx, "pod.run", "netns")
	end(nil)
	// A step goes on when its caller has left.
	_, end = r.Step(context.WithoutCancel(ctx), "pod.run", "network")
	if list := r.List(); len(list) != 1 || list[0].Code != "" || len(list[0].Steps) != 1 {
		t.Errorf("under way: %+v", list)
	}
	end(errors.New("no route"))
	done(status.Error(codes.Unavailable, "cannot attach: no route"))
	_, end = r.Step(context.WithoutCancel(ctx), "pod.run", "late")
	end(nil)

	_, end = r.Step(t.Context(), "pod.stop", "shim")
	end(nil)
	for _, err := range []error{nil, errors.New("broken")} {
		_, done := r.Call(t.Context(), "/runtime.v1.RuntimeService/ListContainers", "")
		done(err)
	}
	list := r.List()
	var got []string
	for _, o := range list {
		s := fmt.Sprintf("%s %s %s %q own=%v:", o.Verb, o.Object, o.Code, o.Error, o.Own)
		for _, step := range o.Steps {
			s += fmt.Sprintf(" %s/%s %q", step.Verb, step.Step, step.Error)
		}
		got = append(got, s)
	}
	want := []string{
		`RunPodSandbox ns/web Unavailable "cannot attach: no route" own=false: pod.run/netns "" pod.run/network "no route"`,
		`pod.stop  OK "" own=true: pod.stop/shim ""`,
		`ListContainers  Unknown "broken" own=false:`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestBounds makes ten thousand calls with long errors and many steps, from
// several goroutines.
func TestBounds(t *testing.T) {
	t.Parallel()
	r := New(func(string) bool { return false })
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			for range 1000 {
				ctx, done := r.Call(t.Context(), "/s/Verb", "x")
				for range mostSteps + 5 {
					_, end := r.Step(ctx, "verb", "step")
					end(nil)
				}
				done(errors.New(strings.Repeat("x", mostText+1)))
			}
		})
	}
	all.Wait()
	list := r.List()
	if len(list) != Size || len(list[0].Steps) != mostSteps || len(list[0].Error) != mostText {
		t.Errorf("%d calls, %d steps, %d bytes of error", len(list), len(list[0].Steps), len(list[0].Error))
	}
}
