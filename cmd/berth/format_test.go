package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func TestFamiliar(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"docker.io/library/nginx:1":   "nginx:1",
		"docker.io/team/app:1":        "team/app:1",
		"docker.io/library/a/b:1":     "library/a/b:1",
		"localhost:5000/web":          "localhost:5000/web",
		"registry.example.com/a/b:c":  "registry.example.com/a/b:c",
		"notdocker.io/library/nginx":  "notdocker.io/library/nginx",
		"docker.io/library/x@sha256:": "x@sha256:",
	} {
		if got := familiar(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
	for in, want := range map[string][2]string{
		"a/b:c":              {"a/b", "c"},
		"localhost:5000/web": {"localhost:5000/web", "<none>"},
		"h:1/w:2@sha256:ab":  {"h:1/w", "2"},
		"w@sha256:ab":        {"w", "<none>"},
	} {
		if repo, tag := splitTag(in); [2]string{repo, tag} != want {
			t.Errorf("%s: %s %s", in, repo, tag)
		}
	}
}

func TestPsText(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := &cli{out: &out, output: "table"}
	rows := []psRow{
		{
			ID: "0123456789ab", Image: "nginx:1.29", Command: commandText(`["nginx","-g","daemon off; and more"]`, false),
			createdAgo: "3 minutes ago", Status: "Up 3 minutes", Ports: "*:8080->80/tcp", Pod: "ba9876543210", Name: "web",
		},
		{ID: "fedcba987654", Image: "box", createdAgo: "2 hours ago", Status: "Exited (137) 2 hours ago", Pod: "ffffffffffff", Name: "kube-system/dns/server"},
	}
	if err := c.printPs(rows, &psFlags{}); err != nil {
		t.Fatal(err)
	}
	want := `
CONTAINER ID   IMAGE        COMMAND                  CREATED         STATUS                     PORTS            POD            NAMES
0123456789ab   nginx:1.29   "nginx -g daemon off…"   3 minutes ago   Up 3 minutes               *:8080->80/tcp   ba9876543210   web
fedcba987654   box                                   2 hours ago     Exited (137) 2 hours ago                    ffffffffffff   kube-system/dns/server
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("got:%swant:%s", got, want)
	}
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	at := func(d time.Duration) int64 { return now.Add(-d).UnixNano() }
	for want, s := range map[string]*criv1.ContainerStatus{
		"Created":                                {State: criv1.ContainerState_CONTAINER_CREATED},
		"Up 3 minutes":                           {State: criv1.ContainerState_CONTAINER_RUNNING, StartedAt: at(3 * time.Minute)},
		"Exited (0) 2 hours ago":                 {State: criv1.ContainerState_CONTAINER_EXITED, FinishedAt: at(2 * time.Hour)},
		"Exited (137) 5 days ago, out of memory": {State: criv1.ContainerState_CONTAINER_EXITED, ExitCode: 137, Reason: "OOMKilled", FinishedAt: at(120 * time.Hour)},
		"Unknown":                                {State: criv1.ContainerState_CONTAINER_UNKNOWN},
	} {
		if got := statusText(s, now, api.Local{}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestImagesText(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	var out bytes.Buffer
	c := &cli{out: &out, output: "table", now: func() time.Time { return now }}
	id := "sha256:0123456789abcdef"
	rows := imageRows(api.Image{ID: id, Tags: []string{"docker.io/library/web:2", "docker.io/library/web:1"}, Size: 187_654_321, Created: now.Add(-72 * time.Hour)}, false)
	rows = append(rows, imageRows(api.Image{ID: id, Digests: []string{"h:5000/app@sha256:ab"}, Size: 900}, false)...)
	rows = append(rows, imageRows(api.Image{ID: id, Size: 1_000}, false)...)
	if err := c.printImages(rows, false); err != nil {
		t.Fatal(err)
	}
	want := `
REPOSITORY   TAG      IMAGE ID       CREATED      SIZE
<none>       <none>   0123456789ab   -            1kB
h:5000/app   <none>   0123456789ab   -            900B
web          1        0123456789ab   3 days ago   188MB
web          2        0123456789ab   3 days ago   188MB
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("got:%swant:%s", got, want)
	}
}

func TestImagesNamed(t *testing.T) {
	t.Parallel()
	all := []api.Image{
		{ID: "1", Tags: []string{"docker.io/library/web:1", "docker.io/library/web:2", "quay.io/web:1"}, Digests: []string{"docker.io/library/web@sha256:a"}},
		{ID: "2", Tags: []string{"docker.io/team/web:1"}},
		{ID: "3", Digests: []string{"h:5000/app@sha256:b"}},
		{ID: "4"},
	}
	for name, want := range map[string]string{
		"web":                     "1[docker.io/library/web:1 docker.io/library/web:2]",
		"web:2":                   "1[docker.io/library/web:2]",
		"docker.io/library/web:1": "1[docker.io/library/web:1]",
		"quay.io/web":             "1[quay.io/web:1]",
		"team/web":                "2[docker.io/team/web:1]",
		"h:5000/app":              "3[]",
		"we":                      "",
		"web:3":                   "",
	} {
		got := ""
		for _, img := range imagesNamed(all, name) {
			got += fmt.Sprintf("%s%v", img.ID, img.Tags)
		}
		if got != want {
			t.Errorf("%s gives %q, want %q", name, got, want)
		}
	}
	if len(all[0].Tags) != 3 {
		t.Error("the list was changed")
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		code int
		text string
	}{
		{nil, 0, ""},
		{exitCode(3), 3, ""},
		{cannot(exitCode(3), "run x"), 3, ""},
		{
			cannot(status.Error(codes.NotFound, "cannot pull x: the registry has no such tag"), "pull x"), exitOwn,
			"berth: cannot pull x\n  why: the registry has no such tag\n  try: see what there is with: berth ps -a, berth pods, berth images\n",
		},
		{
			cannot(status.Error(codes.Unknown, "two\nlines"), "stop %s", "x"), exitOwn,
			"berth: cannot stop x\n  why: two; lines\n  try: look at the daemon's log: journalctl -u berthd\n",
		},
		{
			cannot(fmt.Errorf("wrapped: %w", context.Canceled), "run x"), exitOwn,
			"berth: cannot run x\n  why: it was interrupted\n  try: run the command again when you are ready\n",
		},
		{
			cannot(status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing"`), "run x"), exitOwn,
			"berth: cannot run x\n  why: the daemon went away meanwhile\n  try: try again; if it stays so, look at the daemon's log: journalctl -u berthd\n",
		},
		{
			cannot(status.Error(codes.Unavailable, "cannot pull x: connection refused by its registry"), "pull x"), exitOwn,
			"berth: cannot pull x\n  why: connection refused by its registry\n  try: try again; if it stays so, look at the daemon's log: journalctl -u berthd\n",
		},
		{
			cannotExecute(status.Error(codes.InvalidArgument, `cannot start x: exec: "/etc": is a directory`), "run x"), exitNotExecutable,
			"berth: cannot run x\n  why: \"/etc\": is a directory\n  try: name a program that may be executed, and is built for this machine\n",
		},
		{
			cannotExecute(status.Error(codes.NotFound, "there is no pod"), "run x"), exitOwn,
			"berth: cannot run x\n  why: there is no pod\n  try: see what there is with: berth ps -a, berth pods, berth images\n",
		},
		{
			cannot(advised(status.Error(codes.NotFound, "not there"), codes.NotFound, "look elsewhere"), "pull x"), exitOwn,
			"berth: cannot pull x\n  why: not there\n  try: look elsewhere\n",
		},
		{
			cannot(advised(status.Error(codes.NotFound, "not there"), codes.Unavailable, "look elsewhere"), "pull x"), exitOwn,
			"berth: cannot pull x\n  why: not there\n  try: see what there is with: berth ps -a, berth pods, berth images\n",
		},
		{
			cannot(status.Error(codes.Internal, ""), "run x"), exitOwn,
			"berth: cannot run x\n  why: the daemon gave no reason\n  try: look at the daemon's log: journalctl -u berthd\n",
		},
	} {
		var w strings.Builder
		if code := report(&w, tc.err); code != tc.code || w.String() != tc.text {
			t.Errorf("%v: %d\n%s", tc.err, code, w.String())
		}
	}
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		var w strings.Builder
		report(&w, cannot(status.Error(c, "so it is"), "do it"))
		if strings.Contains(w.String(), "rpc error") || strings.Count(w.String(), "\n") != 3 {
			t.Errorf("%v: %q", c, w.String())
		}
	}
}

func TestNoDaemon(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.server.Stop()
	_ = os.Remove(n.socket) // Stop has done so, unless it came before Serve
	code, out, errs := n.berth("ps")
	if code != exitOwn || out != "" || !strings.Contains(errs, "berthd is not running: there is no socket "+n.socket) || !strings.Contains(errs, "systemctl start berthd") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if code, out, _ = n.berth("version"); code != exitOwn || !strings.HasPrefix(out, "Client:") {
		t.Errorf("version: %d %q", code, out)
	}
}

func TestEveryVerbHasTwoExamples(t *testing.T) {
	t.Parallel()
	var c cli
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		lines := strings.Split(cmd.Example, "\n")
		if len(lines) != 2 || cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: %q %q", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&c))
}

// The bars draw nothing without a terminal, but they have to end, whole or not.
func TestBarsEnd(t *testing.T) {
	t.Parallel()
	for _, ok := range []bool{true, false} {
		b := newBars(t.Context(), &bytes.Buffer{})
		for _, p := range []api.Progress{
			{Status: "resolved"}, {Layer: "sha256:a", Status: "downloading"}, {Layer: "sha256:a", Done: 5, Total: 10},
			{Layer: "sha256:b", Done: 7, Total: 7}, {Layer: "sha256:a", Done: 10, Total: 10},
		} {
			b.report(&p)
		}
		b.end(ok)
	}
}
