package shim_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// ownCgroup gives a container its cgroup to write to.
func ownCgroup(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/sys", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup"})
}

// TestExecFrozen is of a container that freezes itself: an exec in it says so,
// and everybody else's containers take no notice. A host that delegates
// namespaces lets it freeze a group of its own only, into which it drives execs
// by passing a controller down.
func TestExecFrozen(t *testing.T) {
	l := newLabOn(t, true)
	l.run(l.bundle("cold", ownCgroup, "sh", "-ec", `cd /sys/fs/cgroup; mkdir own; echo 0 >own/cgroup.procs
		read first rest <cgroup.controllers; echo +$first >cgroup.subtree_control; echo 1 >own/cgroup.freeze; sleep 1000`))
	freeze := filepath.Join(l.group("cold"), "own/cgroup.freeze")
	// A shim that is held up must be so no longer when it is asked to end: the
	// execs then succeed, which fails the test.
	thaw := func() { _ = os.WriteFile(freeze, []byte("0"), 0) }
	t.Cleanup(thaw)
	defer time.AfterFunc(time.Minute, thaw).Stop()
	l.eventually("the container freezes itself", func() bool { return cgroup.Frozen(l.parent + "/cold/own") })

	var stuck sync.WaitGroup
	for range 3 {
		stuck.Go(func() {
			if _, _, err := l.execOut("cold", "true"); !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "frozen") {
				t.Errorf("an exec in a frozen container: %v", err)
			}
		})
	}
	l.eventually("an exec is cloned into the frozen cgroup", func() bool { return l.processes("cold") > 1 })
	l.othersGoOn()
	stuck.Wait()
	l.eventually("only its first process is left in the container", func() bool { return l.processes("cold") == 1 })

	if err := os.WriteFile(freeze, []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	if out, e, err := l.execOut("cold", "echo", "again"); err != nil || e.Code != 0 || out != "again\n" {
		t.Errorf("exec after the thaw: %q, %+v, %v", out, e, err)
	}
}

// TestExecStarved is of a container whose busy loops use up the little CPU
// time that it may have: an exec in it comes to nothing in bounded time, and
// everybody else's containers take no notice.
func TestExecStarved(t *testing.T) {
	l := newLabOn(t, true)
	if !l.controls("cpu") {
		t.Skip("the host's v2 hierarchy has no cpu controller: make test-vm has")
	}
	l.run(l.bundle("hungry", nil, "sh", "-c", "while :; do :; done & while :; do :; done"))
	l.eventually("its loops run", func() bool { return l.processes("hungry") > 1 })
	// A thousandth of a CPU, from now on.
	limit := filepath.Join(l.group("hungry"), "cpu.max")
	if err := os.WriteFile(limit, []byte("1000 1000000"), 0); err != nil {
		t.Fatal(err)
	}
	// To end its processes need CPU time too.
	feed := func() { _ = os.WriteFile(limit, []byte("max"), 0) }
	t.Cleanup(feed)
	defer time.AfterFunc(time.Minute, feed).Stop()
	l.eventually("it is throttled", func() bool {
		b, err := os.ReadFile(filepath.Join(l.group("hungry"), "cpu.stat"))
		return err == nil && !strings.Contains(string(b), "nr_throttled 0\n")
	})

	var stuck sync.WaitGroup
	for range 3 {
		stuck.Go(func() {
			if _, _, err := l.execOut("hungry", "true"); !errkind.Is(err, errkind.DeadlineExceeded) || !strings.Contains(err.Error(), "starved") {
				t.Errorf("an exec in a starved container: %v", err)
			}
		})
	}
	l.eventually("an exec is cloned into the starved cgroup", func() bool { return l.processes("hungry") > 2 })
	l.othersGoOn()
	stuck.Wait()

	feed()
	l.eventually("only its loops are left in the container", func() bool { return l.processes("hungry") == 2 })
	if out, e, err := l.execOut("hungry", "echo", "again"); err != nil || e.Code != 0 || out != "again\n" {
		t.Errorf("exec with CPU time again: %q, %+v, %v", out, e, err)
	}
}

// TestExecSlow is of an exec that takes long to start and whose container is
// held back by nothing, as on a node that has no CPU time to spare: it starts.
func TestExecSlow(t *testing.T) {
	l := newLabOn(t, true)
	l.run(l.bundle("c", nil, "sleep", "1000"))
	run := func(word string) {
		if out, e, err := l.execOut("c", "echo", word); err != nil || e.Code != 0 || out != word+"\n" {
			t.Errorf("exec: %q, %+v, %v", out, e, err)
		}
	}
	run("first")
	f := l.forkers()
	if len(f) != 1 {
		t.Fatalf("forkers after an exec: %v", f)
	}
	if err := unix.Kill(f[0], unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() { _ = unix.Kill(f[0], unix.SIGCONT) }
	t.Cleanup(goOn)
	// Longer than a container may take that stops it.
	defer time.AfterFunc(13*time.Second, goOn).Stop()
	run("late")
	if again := l.forkers(); len(again) != 1 || again[0] != f[0] {
		t.Errorf("the exec was forked by %v, not by %v", again, f)
	}
}

// controls tells whether the v2 hierarchy has the controller.
func (l *lab) controls(controller string) bool {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(l.group("c"))), "cgroup.controllers"))
	if err != nil {
		l.t.Fatal(err)
	}
	return slices.Contains(strings.Fields(string(b)), controller)
}

// processes counts those of a container, stages of starts included.
func (l *lab) processes(id string) int {
	pids, err := cgroup.Procs(l.parent + "/" + id)
	if err != nil {
		l.t.Error(err)
	}
	return len(pids)
}

// othersGoOn makes the shim collect garbage more than once, with execs, and
// wants the output and the end of another container.
func (l *lab) othersGoOn() {
	l.t.Helper()
	cr := l.bundle("other", nil, "sh", "-c", "echo before; read x; echo after; exit 5")
	cr.Stdin = true
	l.run(cr)
	for range 10 {
		if out, e, err := l.execOut("other", "echo", "hi"); err != nil || e.Code != 0 || out != "hi\n" {
			l.t.Fatalf("exec in another container: %q, %+v, %v", out, e, err)
		}
	}
	for i := range 3 {
		more := l.bundle("more", nil, "true")
		l.run(more)
		if e := l.exit("more"); e.Code != 0 {
			l.t.Errorf("exit of container %d: %+v", i, e)
		}
		if err := l.Delete(l.t.Context(), "more"); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := l.EndStdin(l.t.Context(), "other"); err != nil {
		l.t.Fatal(err)
	}
	if e := l.exit("other"); e.Code != 5 {
		l.t.Errorf("exit of another container: %+v", e)
	}
	if out := l.output(cr); out != "stdout F before\nstdout F after\n" {
		l.t.Errorf("log of another container: %q", out)
	}
}

// TestForkers proves that one process forks exec after exec, that a burst
// leaves one, and that the loss of that one is not noticed.
func TestForkers(t *testing.T) {
	l := newLabOn(t, true)
	l.run(l.bundle("c", nil, "sleep", "1000"))
	if f := l.forkers(); len(f) > 0 {
		t.Errorf("there are forkers before the first exec: %v", f)
	}
	run := func() {
		if _, e, err := l.execOut("c", "sh", "-c", "exit 3"); err != nil || e.Code != 3 {
			t.Errorf("exec: %+v, %v", e, err)
		}
	}
	run()
	first := l.forkers()
	run()
	if again := l.forkers(); len(first) != 1 || len(again) != 1 || first[0] != again[0] {
		t.Errorf("a second exec was forked by %v, the first by %v", again, first)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(run)
	}
	wg.Wait()
	l.eventually("one forker is kept", func() bool { return len(l.forkers()) == 1 })
	spare := l.forkers()[0]
	kill(t, spare)
	l.eventually("it is reaped", func() bool { return len(children(l.pid)) == 1 }) // the container stays
	run()
}

// TestForkerDies is of an exec that outlives its parent.
func TestForkerDies(t *testing.T) {
	l := newLabOn(t, true)
	l.run(l.bundle("c", nil, "sleep", "1000"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	p, err := l.Exec(t.Context(), "c", shimrpc.Exec{Args: []string{"sh", "-c", "read x; exit 9"}, Stdin: true}, []*os.File{r})
	_ = r.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	forkers := l.forkers()
	if len(forkers) != 1 {
		t.Fatalf("forkers: %v", forkers)
	}
	kill(t, forkers[0])
	l.eventually("the forker is reaped", func() bool { return len(l.forkers()) == 0 })
	if !alive(p.Pid) {
		t.Error("the exec ended with its forker")
	}
	if _, err := w.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	e, err := p.Wait(t.Context())
	switch {
	case err != nil, e.Known && e.Code != 9, !e.Known && e.Code != 255:
		t.Errorf("exit %+v, %v", e, err)
	case !e.Known:
		t.Log("the kernel or the reaper of orphans does not tell the status here")
	}
}

// TestForkerEndsWithTheShim is of a shim that is killed, with an exec under way.
func TestForkerEndsWithTheShim(t *testing.T) {
	l := newLabOn(t, true)
	l.run(l.bundle("c", nil, "sleep", "1000"))
	p, err := l.Exec(t.Context(), "c", shimrpc.Exec{Args: []string{"sleep", "1000"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	forkers := l.forkers()
	kill(t, l.pid)
	l.eventually("the forker ends", func() bool { return len(forkers) == 1 && !alive(forkers[0]) })
	if !alive(p.Pid) {
		t.Error("the exec ended with its shim")
	}
	l.launch()
	if err := l.Delete(t.Context(), "c"); err != nil {
		t.Error(err)
	}
	for _, n := range []string{shimrpc.StdoutFile, shimrpc.StderrFile} {
		_ = os.Remove(filepath.Join(l.dir, "b/c", n))
	}
}
