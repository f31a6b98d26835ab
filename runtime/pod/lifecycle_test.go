package pod_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// file waits for a file that a container makes in its root and gives its text.
func (n *node) file(t *testing.T, id, name string) string {
	t.Helper()
	var text string
	eventually(t, "container "+id+" writes "+name, func() bool {
		b, err := os.ReadFile(filepath.Join(n.images.root, id, name))
		text = string(b)
		return err == nil && text != ""
	})
	return text
}

// counting is a container that counts its stop signals and goes on.
const counting = "trap 'echo x >>/stops' TERM; trap 'echo x >>/stops' USR1; echo up >/up; while :; do sleep 0.05; done"

func TestStopSignalsOnceAndTheShorterDeadlineWins(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "once", "/bin/sh", "-c", counting)
	n.file(t, id, "up")
	first := make(chan error, 2)
	for range 2 {
		go func() { first <- n.StopContainer(context.Background(), pod.ViewAll, id, time.Hour) }()
	}
	n.file(t, id, "stops")
	// The grace is for preStop hooks and probes too.
	n.wantSh(t, id, "echo in grace", "in grace")
	if st, err := n.Container(pod.ViewAll, id); err != nil || st.State != pod.StateRunning {
		t.Errorf("in grace: %+v, %v", st, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := n.StopContainer(short, pod.ViewAll, id, time.Hour); !errkind.Is(err, errkind.DeadlineExceeded) {
		t.Errorf("a stop whose caller has gone: %v, want DeadlineExceeded", err)
	}
	within(t, "the stop with the shorter grace", func() {
		if err := n.StopContainer(context.Background(), pod.ViewAll, id, time.Second); err != nil {
			t.Error(err)
		}
	})
	within(t, "the stops with the longer grace", func() {
		for range 2 {
			if err := <-first; err != nil {
				t.Error(err)
			}
		}
	})
	if st := n.ended(t, id); st.ExitCode != 137 {
		t.Errorf("exit %d, want 137", st.ExitCode)
	}
	if got := n.file(t, id, "stops"); got != "x\n" {
		t.Errorf("the stop signal came %d times", strings.Count(got, "x"))
	}
}

// The client's stop signal comes before the image's, the image's before TERM.
func TestStopSignalOfImageAndClient(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	const tells = "for s in TERM USR1 INT; do trap \"echo $s >/stop; exit 5\" $s; done; echo up >/up; while :; do sleep 0.05; done"
	for name, c := range map[string]struct{ image, client, want string }{
		"default":    {"", "", "TERM"},
		"the image":  {"SIGUSR1", "", "USR1"},
		"the client": {"SIGUSR1", "SIGINT", "INT"},
		"by number":  {"10", "", "USR1"},
	} {
		n.images.config.StopSignal = c.image
		_, id := n.start(t, "signal-"+c.want+c.image, func(_ *spec.Pod, ct *spec.Container) {
			ct.Command, ct.StopSignal = []string{"/bin/sh", "-c", tells}, c.client
		})
		n.file(t, id, "up")
		if st, err := n.Container(pod.ViewAll, id); err != nil || st.StopSignal != "SIG"+c.want {
			t.Errorf("%s: reported as %s, %v", name, st.StopSignal, err)
		}
		if err := n.StopContainer(t.Context(), pod.ViewAll, id, time.Minute); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(n.file(t, id, "stop")); got != c.want {
			t.Errorf("%s: stopped by %s, want %s", name, got, c.want)
		}
		if st := n.ended(t, id); st.ExitCode != 5 {
			t.Errorf("%s: exit %d", name, st.ExitCode)
		}
	}
}

// freezeGroup stops all processes of a container by its cgroup.
func (n *node) freezeGroup(t *testing.T, id string) {
	t.Helper()
	file, word, look := filepath.Join("/sys/fs/cgroup", n.group(id), "cgroup.freeze"), "1", "cgroup.events"
	frozen := "frozen 1"
	if !cgroup.Unified() {
		file, word, look, frozen = filepath.Join("/sys/fs/cgroup/freezer", n.group(id), "freezer.state"), "FROZEN", "freezer.state", "FROZEN"
	}
	if err := os.WriteFile(file, []byte(word), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the container is frozen", func() bool {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(file), look))
		return err == nil && strings.Contains(string(b), frozen)
	})
}

// A frozen container, with a command that hangs in it, holds up no other; and
// it can be stopped.
func TestAFrozenContainerHoldsUpNobody(t *testing.T) {
	groups(t, func(t *testing.T, g pod.ShimGroup) {
		n := newNode(t, g)
		frozenPod, frozen := n.up(t, "frozen", "/bin/sleep", "600")
		_, other := n.up(t, "other", "/bin/sh", "-c", "trap 'exit 4' TERM; echo up >/up; while :; do sleep 0.05; done")
		n.file(t, other, "up")
		n.freezeGroup(t, frozen)
		hung := make(chan error, 1)
		go func() {
			_, err := n.ExecSync(context.Background(), pod.ViewAll, frozen, []string{"/bin/echo"}, time.Second)
			hung <- err
		}()
		within(t, "what others do", func() {
			n.wantSh(t, other, "echo alive", "alive")
			if got := n.Containers(pod.ViewAll, pod.ContainerFilter{State: pod.StateRunning}); len(got) != 2 {
				t.Errorf("%d containers run, want 2", len(got))
			}
			_, third := n.up(t, "third", "/bin/sh", "-c", "exit 6")
			if st := n.ended(t, third); st.ExitCode != 6 {
				t.Errorf("exit %d, want 6", st.ExitCode)
			}
			if err := n.StopContainer(context.Background(), pod.ViewAll, other, time.Minute); err != nil {
				t.Error(err)
			}
			if st := n.ended(t, other); st.ExitCode != 4 {
				t.Errorf("exit %d, want 4", st.ExitCode)
			}
		})
		within(t, "the exec's timeout", func() {
			if err := <-hung; !errkind.Is(err, errkind.DeadlineExceeded) {
				t.Errorf("an exec in a frozen container: %v, want DeadlineExceeded", err)
			}
		})
		within(t, "the stop of the frozen container", func() {
			if err := n.StopContainer(context.Background(), pod.ViewAll, frozen, time.Second); err != nil {
				t.Error(err)
			}
		})
		if st := n.ended(t, frozen); st.ExitCode != 137 {
			t.Errorf("exit %d, want 137", st.ExitCode)
		}
		within(t, "the removal of the frozen container's pod", func() {
			if err := n.Remove(context.Background(), pod.ViewAll, frozenPod); err != nil {
				t.Error(err)
			}
		})
	})
}

// When a container stops, so does all that it started, whoever its parent is
// by then and whichever PID namespace it is in.
func TestNothingOfAContainerOutlivesIt(t *testing.T) {
	for name, mode := range map[string]spec.NamespaceMode{"own": spec.ModeContainer, "pod": spec.ModePod, "host": spec.ModeNode} {
		t.Run(name+" PIDs", func(t *testing.T) {
			n := newNode(t, pod.GroupNode)
			podID, id := n.start(t, "left", func(p *spec.Pod, c *spec.Container) {
				p.Namespaces.PID, c.Security.Namespaces.PID = mode, mode
				// One ignores TERM, and its parent has gone.
				c.Command = []string{"/bin/sh", "-c", "(trap '' TERM HUP; sleep 611 & ) ; trap 'exit 0' TERM; echo up >/up; while :; do sleep 0.05; done"}
			})
			n.file(t, id, "up")
			if err := n.StopContainer(t.Context(), pod.ViewAll, id, time.Minute); err != nil {
				t.Fatal(err)
			}
			if st := n.ended(t, id); st.ExitCode != 0 {
				t.Errorf("exit %d", st.ExitCode)
			}
			eventually(t, "all processes of the container end", func() bool {
				pids, err := cgroup.Procs(n.group(id))
				return err == nil && len(pids) == 0
			})
			if st, err := n.Pod(pod.ViewAll, podID); err != nil || !st.Ready {
				t.Errorf("the pod went with its container: %+v, %v", st, err)
			}
		})
	}
}

// Every verb that ends something may be repeated, and has nothing to do for
// what does not exist.
func TestEndingsAreIdempotent(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, id := n.up(t, "twice", "/bin/sleep", "600")
	ctx, v := t.Context(), pod.ViewAll
	absent := strings.Repeat("0", 64)
	for range 2 {
		for what, err := range map[string]error{
			"stop of a container":        n.StopContainer(ctx, v, id, 0),
			"stop of a pod":              n.Stop(ctx, v, podID),
			"stop of no container":       n.StopContainer(ctx, v, absent, time.Second),
			"removal of no container":    n.RemoveContainer(ctx, v, absent),
			"stop of no pod":             n.Stop(ctx, v, absent),
			"removal of no pod":          n.Remove(ctx, v, absent),
			"removal of a container":     n.RemoveContainer(ctx, v, id),
			"stop after the removal":     n.StopContainer(ctx, v, id, time.Second),
			"stop of a pod that stopped": n.Stop(ctx, v, podID),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if _, err := n.Container(v, id); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("status of a removed container: %v, want NotFound", err)
	}
	if err := n.Start(ctx, v, id); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("start of a removed container: %v, want NotFound", err)
	}
	if _, err := n.Create(ctx, v, podID, containerConfig("late", "/bin/sleep", "1")); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("create in a stopped pod: %v, want FailedPrecondition", err)
	}
	for range 2 {
		if err := n.Remove(ctx, v, podID); err != nil {
			t.Error(err)
		}
	}
}

// The state is the kernel's, and the times of a container never run backwards.
func TestStatesAndTimesAreInOrder(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("order"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("main", "/bin/sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	status := func() *pod.ContainerStatus {
		t.Helper()
		st, err := n.Container(pod.ViewAll, id)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	created := status()
	if created.State != pod.StateCreated || !created.StartedAt.IsZero() || !created.FinishedAt.IsZero() || created.Reason != "" {
		t.Errorf("created: %+v", created)
	}
	if err := n.Start(t.Context(), pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	running := status()
	if running.State != pod.StateRunning || running.StartedAt.Before(created.CreatedAt) || !running.FinishedAt.IsZero() || !running.CreatedAt.Equal(created.CreatedAt) {
		t.Errorf("running: %+v", running)
	}
	if err := n.Start(t.Context(), pod.ViewAll, id); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("a second start: %v, want FailedPrecondition", err)
	}
	// Killed by somebody else: the state is the kernel's.
	if err := unix.Kill(running.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exited := n.ended(t, id)
	if exited.ExitCode != 137 || exited.Reason != "Error" || exited.FinishedAt.Before(running.StartedAt) || !exited.StartedAt.Equal(running.StartedAt) || exited.Pid != 0 {
		t.Errorf("exited: %+v", exited)
	}
	n.Close()
	n.boot(t)
	if after := status(); !after.FinishedAt.Equal(exited.FinishedAt) || !after.StartedAt.Equal(exited.StartedAt) || !after.CreatedAt.Equal(exited.CreatedAt) {
		t.Errorf("the times changed with a restart: %+v; before %+v", after, exited)
	}
}

// A program that cannot be executed fails the start, not the creation, as
// clients expect: the container ends with code 128, StartError and the reason,
// also if the daemon is another one by then.
func TestAProgramThatCannotBeStarted(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	ctx, v := t.Context(), pod.ViewAll
	podID, err := n.Run(ctx, v, podConfig("absent"))
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string, command ...string) string {
		t.Helper()
		id, err := n.Create(ctx, v, podID, containerConfig(name, command...))
		if err != nil {
			t.Fatal(err)
		}
		if st, err := n.Container(v, id); err != nil || st.State != pod.StateCreated || st.Pid != 0 {
			t.Fatalf("created: %+v, %v", st, err)
		}
		return id
	}
	absent, dir := create("absent", "/no/such/file"), create("dir", "/bin")
	stopped, removed := create("stopped", "nosuch"), create("removed", "nosuch")
	if again, err := n.Create(ctx, v, podID, containerConfig("absent", "/no/such/file")); err != nil || again != absent {
		t.Errorf("the retry gave %s, %v", again, err)
	}
	if err := n.Update(ctx, v, absent, spec.Resources{Memory: 64 << 20}); err != nil {
		t.Error(err)
	}
	n.Close()
	n.boot(t)
	n.Repair()
	if problems, err := n.Check(ctx); err != nil || len(problems) > 0 {
		t.Errorf("found %v, %v", problems, err)
	}
	for id, why := range map[string]string{absent: "no such file", dir: "is a directory"} {
		err := n.Start(ctx, v, id)
		if !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), why) {
			t.Errorf("start: %v, want InvalidArgument with %q", err, why)
		}
		if st := n.ended(t, id); st.ExitCode != 128 || st.Reason != "StartError" || !strings.Contains(st.Message, why) || st.FinishedAt.Before(st.CreatedAt) {
			t.Errorf("ended with %d, %s, %q at %v", st.ExitCode, st.Reason, st.Message, st.FinishedAt)
		}
		if err := n.Start(ctx, v, id); !errkind.Is(err, errkind.FailedPrecondition) {
			t.Errorf("a second start: %v, want FailedPrecondition", err)
		}
	}
	for range 2 {
		if err := n.StopContainer(ctx, v, stopped, time.Minute); err != nil {
			t.Error(err)
		}
	}
	if st := n.ended(t, stopped); st.ExitCode != 137 {
		t.Errorf("stopped before its start: exit %d", st.ExitCode)
	}
	if err := n.RemoveContainer(ctx, v, removed); err != nil {
		t.Error(err)
	}
}

// A clock that is set back while a container lives does not turn its times around.
func TestTimesAreInOrderAlsoIfTheClockIsSetBack(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, running := n.up(t, "clock", "/bin/sleep", "600")
	created, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("created", "/bin/sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
	for _, id := range []string{running, created} { // to this clock they were made in an hour
		file := filepath.Join(n.cfg.Root, "containers", id+".json")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		row := map[string]any{}
		if err := json.Unmarshal(b, &row); err != nil {
			t.Fatal(err)
		}
		row["created_at"] = time.Now().Add(time.Hour)
		if id == running {
			row["started_at"] = time.Now().Add(2 * time.Hour)
		}
		if b, err = json.Marshal(row); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.boot(t)
	if err := n.Start(t.Context(), pod.ViewAll, created); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{running, created} {
		if err := n.StopContainer(t.Context(), pod.ViewAll, id, 0); err != nil {
			t.Fatal(err)
		}
		if st := n.ended(t, id); st.StartedAt.Before(st.CreatedAt) || st.FinishedAt.Before(st.StartedAt) || st.CreatedAt.Before(time.Now()) {
			t.Errorf("created %v, started %v, finished %v", st.CreatedAt, st.StartedAt, st.FinishedAt)
		}
	}
}
