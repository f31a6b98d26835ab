package main

import "testing"

func TestTop(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "box", "sleep")
	want := "USER         PID   PPID   TIME       COMMAND\n" +
		"root         42    7      01:01:01   server --listen\n" +
		"4000000001   43    42     00:00:00   evil?[2Jtitle?\n"
	if out := n.must(t, "top", "web"); out != want {
		t.Errorf("got:\n%swant:\n%s", out, want)
	}
}
