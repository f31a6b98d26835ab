package main

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func TestEvents(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	at, code := time.Now().Add(-time.Hour), int32(137)
	id := strings.Repeat("ab", 32)
	whose := api.Event{At: at, Type: api.EventContainer, ID: id, PodID: strings.Repeat("cd", 32), Namespace: "default", Pod: "web", Container: "app", Image: "docker.io/library/box:1"}
	started, oom := whose, whose
	started.Action = "started"
	oom.At, oom.Action, oom.ExitCode = at.Add(30*time.Minute), "oom", &code
	n.events = []api.Event{
		started, oom,
		{At: at, Type: api.EventPod, Action: "stopped", ID: whose.PodID, PodID: whose.PodID, Namespace: "default", Pod: "web"},
		{At: at, Type: api.EventImage, Action: "failed", Image: "docker.io/library/x\x1b:1", Error: "no\nsuch"},
		{At: at, Type: api.EventJournal, Action: "missed", Missed: 7},
	}
	when := at.Local().Format("2006-01-02T15:04:05.000Z07:00")
	lines := []string{
		when + " container started default/web/app id=abababababab image=box:1\n",
		oom.At.Local().Format("2006-01-02T15:04:05.000Z07:00") + " container oom default/web/app id=abababababab image=box:1 code=137\n",
		when + " pod stopped default/web id=cdcdcdcdcdcd\n",
		when + " image failed x?:1: no; such\n",
		when + " journal missed events=7\n",
	}
	for args, want := range map[string]string{
		"":                        strings.Join(lines, ""),
		"--filter type=container": lines[0] + lines[1] + lines[4],
		"--filter container=app --filter event=oom":   lines[1] + lines[4],
		"--filter container=ababa --filter event=oom": lines[1] + lines[4],
		"--filter event=oom --filter event=stopped":   lines[1] + lines[2] + lines[4],
		"--filter image=b*x:1":                        lines[0] + lines[1] + lines[4],
		"--filter pod=default/web --filter type=pod":  lines[2] + lines[4],
		"--filter namespace=kube-system":              lines[4],
		"--since 45m":                                 lines[1],
	} {
		if out := n.must(t, append([]string{"events"}, strings.Fields(args)...)...); out != want {
			t.Errorf("%s: got:\n%swant:\n%s", args, out, want)
		}
	}
	if out := n.must(t, "events", "--output", "json", "--filter", "event=oom"); strings.Count(out, "\n") != 2 || !strings.Contains(out, `"exit_code":137`) {
		t.Errorf("%s", out)
	}
	if out := n.must(t, "events", "--no-trunc"); !strings.Contains(out, id) {
		t.Errorf("%s", out)
	}
	for _, args := range []string{"--filter x=y", "--filter type", "--filter pod=", "--filter pod=[", "--since yesterday"} {
		if code, _, errs := n.berth(append([]string{"events"}, strings.Fields(args)...)...); code != exitOwn || strings.Count(errs, "\n") != 3 {
			t.Errorf("%s: %d %q", args, code, errs)
		}
	}
}
