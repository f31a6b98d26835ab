package pod_test

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// An error passes through the shim and the daemon. It names the object once,
// and what could not be done to it once: people read it in events.
func TestErrorsNameTheirObjectOnce(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	ctx, v := t.Context(), pod.ViewAll
	podID, id := n.up(t, "errors", "/bin/sleep", "600")
	_, ended := n.up(t, "ended", "/bin/sh", "-c", "exit 0")
	n.ended(t, ended)
	absent, err := n.Create(ctx, v, podID, containerConfig("absent", "/no/such/file"))
	if err != nil {
		t.Fatal(err)
	}
	commandErr := n.Start(ctx, v, absent)
	privileged := containerConfig("privileged", "/bin/sleep", "1")
	privileged.Security.Privileged = true
	_, createErr := n.Create(ctx, v, podID, privileged)
	_, execErr := n.ExecSync(ctx, v, id, []string{"/no/such/file"}, 10*time.Second)
	_, endedErr := n.ExecSync(ctx, v, ended, []string{"/bin/echo"}, 10*time.Second)
	for what, c := range map[string]struct {
		err  error
		kind errkind.Kind
		says string // besides the object: why
	}{
		"command":           {commandErr, errkind.InvalidArgument, "no such file"},
		"create":            {createErr, errkind.FailedPrecondition, "its pod"},
		"exec":              {execErr, errkind.InvalidArgument, "no such file"},
		"exec in the ended": {endedErr, errkind.FailedPrecondition, "exited"},
		"update":            {n.Update(ctx, v, id, spec.Resources{CPUQuota: 1}), errkind.Unknown, "invalid argument"},
		"log":               {n.ReopenLog(ctx, v, ended), errkind.FailedPrecondition, "exited"},
		"second start":      {n.Start(ctx, v, id), errkind.FailedPrecondition, "running"},
	} {
		if c.err == nil {
			t.Errorf("%s succeeded", what)
			continue
		}
		text := c.err.Error()
		if errkind.Of(c.err) != c.kind || !strings.Contains(text, c.says) {
			t.Errorf("%s: %q is of kind %v and does not say %q", what, text, errkind.Of(c.err), c.says)
		}
		for _, once := range []string{"container " + id, "container " + ended, "container " + absent, "pod " + podID, "cannot "} {
			if strings.Count(text, once) > 1 {
				t.Errorf("%s: %q says %q twice", what, text, once)
			}
		}
	}
}
