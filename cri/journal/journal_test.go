package journal_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/cri/journal"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// all is what is kept, each event as the words of text.
func all(t *testing.T, j *journal.Journal, since time.Time, text func(*api.Event) string) (out []string) {
	t.Helper()
	if err := j.Read(t.Context(), since, false, func(e *api.Event) error { out = append(out, text(e)); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func action(e *api.Event) string { return e.Action }

func TestReadGivesWhatIsKeptAndThenWhatComes(t *testing.T) {
	t.Parallel()
	j := journal.New()
	now := time.Now()
	for i := range journal.Size + 5 {
		j.Add(api.Event{At: now.Add(time.Duration(i) * time.Second), Action: fmt.Sprint(i)})
	}
	if got := all(t, j, time.Time{}, action); len(got) != journal.Size || got[0] != "5" || got[len(got)-1] != fmt.Sprint(journal.Size+4) {
		t.Errorf("%d events from %s on", len(got), got[0])
	}
	since := now.Add(journal.Size * time.Second)
	if got := all(t, j, since, action); len(got) != 5 {
		t.Errorf("since: %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var got []string
	err := j.Read(ctx, since.Add(4*time.Second), true, func(e *api.Event) error {
		switch got = append(got, e.Action); len(got) {
		case 1:
			go j.Add(api.Event{At: since.Add(time.Hour), Action: "later"})
		case 2:
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || !slices.Equal(got, []string{fmt.Sprint(journal.Size + 4), "later"}) {
		t.Errorf("%v, %v", got, err)
	}
}

// A reader that takes nothing holds up nobody, and learns how many it missed.
func TestSlowReaderMissesEvents(t *testing.T) {
	t.Parallel()
	j := journal.New()
	j.Add(api.Event{Action: "first"})
	var got []string
	enough := errors.New("enough")
	err := j.Read(t.Context(), time.Time{}, true, func(e *api.Event) error {
		if e.Action == "first" {
			for i := range 3 * journal.Size { // which would hang if they waited for us
				j.Add(api.Event{Action: fmt.Sprint(i)})
			}
			return nil
		}
		got = append(got, fmt.Sprintf("%s %s %d", e.Type, e.Action, e.Missed))
		if len(got) == 2 {
			return enough
		}
		return nil
	})
	want := []string{fmt.Sprintf("journal missed %d", 2*journal.Size), fmt.Sprintf(" %d 0", 2*journal.Size)}
	if !errors.Is(err, enough) || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFollowTellsOfPodsContainersAndImages(t *testing.T) {
	t.Parallel()
	j := journal.New()
	p := &pod.PodStatus{ID: "p", Config: &spec.Pod{Metadata: spec.PodMetadata{Name: "web", Namespace: "default"}}}
	c := func(state pod.State, reason string) []*pod.ContainerStatus {
		return []*pod.ContainerStatus{{ID: "c", State: state, Reason: reason, ExitCode: 137, Config: &spec.Container{Metadata: spec.ContainerMetadata{Name: "app"}, Image: "img"}}}
	}
	events := make(chan pod.Event, 9)
	for _, e := range []pod.Event{
		{Kind: pod.EventCreated, ContainerID: "p", Pod: p},
		{Kind: pod.EventStarted, ContainerID: "c", Pod: p, Containers: c(pod.StateRunning, "")},
		{Kind: pod.EventStopped, ContainerID: "c", Pod: p, Containers: c(pod.StateExited, "OOMKilled")},
		{Kind: pod.EventDeleted, ContainerID: "c", Pod: p}, // it is in no list any more
		{Kind: pod.EventDeleted, ContainerID: "unknown", Pod: p},
	} {
		events <- e
	}
	close(events)
	ctx, cancel := context.WithCancel(t.Context())
	j.Follow(ctx, func(context.Context) <-chan pod.Event { cancel(); return events })
	j.Image(imageservice.Event{Kind: imageservice.EventFailed, Ref: "r", Err: errors.New("no")})
	want := []string{
		"pod created p web  ", "container started c web app img", "container oom c web app img 137", "container stopped c web app img 137",
		"container deleted c web app img", "container deleted unknown web  ", "image failed    r no",
	}
	got := all(t, j, time.Time{}, func(e *api.Event) string {
		text := fmt.Sprintf("%s %s %s %s %s %s", e.Type, e.Action, e.ID, e.Pod, e.Container, e.Image)
		if e.ExitCode != nil {
			text += fmt.Sprintf(" %d", *e.ExitCode)
		}
		if e.Error != "" {
			text += " " + e.Error
		}
		return text
	})
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
