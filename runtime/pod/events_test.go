package pod_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/berth-runtime/berth/runtime/pod"
)

// Of each change there is one event, in the order of the changes, and it tells
// all of the pod and its containers.
func TestEventsTellTheWholeLife(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := n.Subscribe(ctx)
	podID, id := n.up(t, "told", "/bin/sh", "-c", "exit 3")
	n.ended(t, id)
	if err := n.RemoveContainer(ctx, pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	if err := n.Remove(ctx, pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	want := []struct {
		kind  pod.EventKind
		id    string
		state pod.State // of the container, if the event tells of it
		ready bool      // of the pod
	}{
		{pod.EventCreated, podID, "", true},
		{pod.EventStarted, podID, "", true},
		{pod.EventCreated, id, pod.StateCreated, true},
		{pod.EventStarted, id, pod.StateRunning, true},
		{pod.EventStopped, id, pod.StateExited, true},
		{pod.EventDeleted, id, "", true},
		{pod.EventStopped, podID, "", false},
		{pod.EventDeleted, podID, "", false},
	}
	for i, w := range want {
		var e pod.Event
		within(t, fmt.Sprintf("event %d", i), func() { e = <-events })
		if e.Kind != w.kind || e.ContainerID != w.id {
			t.Fatalf("event %d: %s of %s, want %s of %s", i, e.Kind, e.ContainerID, w.kind, w.id)
		}
		if e.At.IsZero() || e.Pod == nil || e.Pod.ID != podID || e.Pod.Ready != w.ready || e.Pod.Config.Metadata.Name != "told" {
			t.Errorf("event %d tells of the pod %+v at %v", i, e.Pod, e.At)
		}
		at := slices.IndexFunc(e.Containers, func(c *pod.ContainerStatus) bool { return c.ID == id })
		if (at >= 0) != (w.state != "") {
			t.Errorf("event %d tells of %d containers", i, len(e.Containers))
			continue
		}
		if at < 0 {
			continue
		}
		c := e.Containers[at]
		if c.State != w.state || c.Image.Ref == "" || c.CreatedAt.IsZero() || (w.state == pod.StateExited) != (c.ExitCode == 3 && !c.FinishedAt.IsZero()) {
			t.Errorf("event %d tells of the container %+v", i, c)
		}
	}
}
