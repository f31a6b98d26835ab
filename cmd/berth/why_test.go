package main

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func TestWhyText(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for want, r := range map[string]reasons{
		"container web runs since 3 minutes: nothing waits\n":                             {Object: "container web", State: "running", Since: ago(3 * time.Minute)},
		"pod web is ready: nothing waits\n":                                               {Object: "pod web", State: "ready"},
		"image 0123 is on this node: nothing waits\n":                                     {Object: "image 0123", State: "here"},
		"container web was made 2 hours ago and waits to be started by whoever made it\n": {Object: "container web", State: "created", Since: ago(2 * time.Hour)},
		"container web ended 5 seconds ago: the kernel killed it (code 137) because its memory reached the limit\n": {
			Object: "container web", State: "exited", Since: ago(5 * time.Second), Exit: &exitReasons{Code: 137, Reason: "OOMKilled"},
		},
		"container web ended 5 seconds ago: it could not be started: exec: \"x\": not found; really\n": {
			Object: "container web", State: "exited", Since: ago(5 * time.Second), Exit: &exitReasons{Code: 128, Reason: "StartError", Message: "exec: \"x\": not found\nreally"},
		},
		"container web ended 5 seconds ago: code 143, as of a program that SIGTERM ends\n": {
			Object: "container web", State: "exited", Since: ago(5 * time.Second), Exit: &exitReasons{Code: 143, Reason: "Error"},
		},
		"container web ended 5 seconds ago: its program ended with code 3; its last words: berth logs --tail 20\n": {
			Object: "container web", State: "exited", Since: ago(5 * time.Second), Exit: &exitReasons{Code: 3, Reason: "Error"},
		},
		"container a/web/app is being made\n" +
			"  it is being made for 9 seconds: at the step \"hook\" for 8 seconds (plugins of NRI are asked)\n": {
			Object: "container a/web/app", State: "being made", self: "c",
			Works: []api.Work{{ContainerID: "c", Doing: []api.Doing{{Verb: "container.create", Step: "hook", Began: ago(9 * time.Second), Since: ago(8 * time.Second)}}}},
		},
		"pod web is stopped and waits to be removed\n" +
			"  it could not be made, nor wholly undone; its stop or removal tries again. It was tried 2 minutes ago: cannot undo files: busy\n" +
			"  the step \"files\" of what failed is being undone for 4 seconds (its files in /etc and /dev/shm); it failed because: no room\n": {
			Object: "pod web", State: "stopped", self: "p",
			Works: []api.Work{
				{PodID: "p", Trouble: &api.Trouble{At: ago(2 * time.Minute), Verb: "run", Why: "cannot undo files: busy"}},
				{PodID: "p", Doing: []api.Doing{{Verb: "pod.run", Step: "files", Undoing: true, Began: ago(time.Minute), Since: ago(4 * time.Second), Failure: "no room"}}},
			},
		},
		"pod web is ready\n" +
			"  its container a/web/app is being removed for 3 seconds: at the step \"rootfs\" for 2 seconds (the mount of its root file system)\n" +
			"  its container a/web/app could not be ended by the last remove; the next one tries again. It was tried 1 second ago: busy\n": {
			Object: "pod web", State: "ready", self: "p",
			Works: []api.Work{{
				PodID: "p", ContainerID: "c", Namespace: "a", Pod: "web", Container: "app",
				Doing:   []api.Doing{{Verb: "container.remove", Step: "rootfs", Began: ago(3 * time.Second), Since: ago(2 * time.Second)}},
				Trouble: &api.Trouble{At: ago(time.Second), Verb: "remove", Why: "busy"},
			}},
		},
		"image web:1 is being pulled\n" +
			"  the pull began 2 minutes ago; its layers are fetched; nothing new for 40 seconds\n" +
			"  layer aaaaaaaaaaaa: 3MB of 7MB\n": {
			Object: "image web:1", State: "being pulled",
			Pulls: []api.RunningPull{{Began: ago(2 * time.Minute), Step: "layers", Moved: ago(40 * time.Second), Layers: []api.Progress{
				{Layer: "sha256:" + strings.Repeat("a", 64), Done: 3e6, Total: 7e6, Status: "downloading"},
				{Layer: "sha256:" + strings.Repeat("b", 64), Done: 5, Total: 5, Status: "done"},
			}}},
		},
		"image web:1 is being pulled\n" +
			"  the pull began 2 minutes ago; the image verifier 10-signed is asked; nothing new for 9 seconds\n": {
			Object: "image web:1", State: "being pulled",
			Pulls: []api.RunningPull{{Began: ago(2 * time.Minute), Step: "verify", Asking: "10-signed", Moved: ago(9 * time.Second)}},
		},
	} {
		var out strings.Builder
		if err := r.print(&out, now); err != nil || out.String() != want {
			t.Errorf("got  %swant %s(%v)", out.String(), want, err)
		}
	}
}

func TestWhy(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "box", "sleep")
	n.must(t, "run", "--name", "done", "box", "echo")
	pod := n.containerNamed(t, "web").PodSandboxId
	step := []api.Doing{{Verb: "pod.run", Step: "network", Began: time.Now(), Since: time.Now()}}
	n.work = api.WorkResult{
		Works: []api.Work{
			{PodID: strings.Repeat("e", 64), Namespace: "default", Pod: "coming", Doing: step},
			{PodID: pod, Namespace: "default", Pod: "web", Trouble: &api.Trouble{At: time.Now(), Verb: "stop", Why: "it hangs"}},
		},
		Pulls: []api.RunningPull{{Ref: "docker.io/library/late:latest", Step: "resolve"}},
	}
	for name, want := range map[string]string{
		"web":                           "it hangs",
		"done":                          "its program was done",
		"coming":                        `at the step "network"`,
		"default/coming":                `pod default/coming is being made`,
		strings.Repeat("e", 6):          `pod default/coming is being made`,
		"late":                          "its registry is asked",
		"docker.io/library/late:latest": "its registry is asked",
		"box":                           "is on this node: nothing waits",
	} {
		if out := n.must(t, "why", name); !strings.Contains(out, want) {
			t.Errorf("%s: %q", name, out)
		}
	}
	if out := n.must(t, "why", "--output", "json", "web"); !strings.Contains(out, `"state": "running"`) || !strings.Contains(out, `"why": "it hangs"`) {
		t.Errorf("%s", out)
	}
	if code, _, errs := n.berth("why", "nothing"); code != exitOwn || !strings.Contains(errs, "cannot find container, pod or image nothing") {
		t.Errorf("%d %q", code, errs)
	}
}
