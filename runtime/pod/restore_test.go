package pod_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// savedPod is a checkpoint of a pod with two containers, and what it takes to
// restore it.
type savedPod struct {
	dir        string
	config     spec.Pod
	containers []spec.Container
}

func (n *node) savePod(t *testing.T, change func(*spec.Container)) savedPod {
	t.Helper()
	s := savedPod{dir: t.TempDir(), config: podConfig("saved")}
	podID, err := n.Run(t.Context(), pod.ViewAll, s.config)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, name := range []string{"main", "second"} {
		cfg := containerConfig(name, "/bin/sleep", "600")
		change(&cfg)
		id, err := n.Create(t.Context(), pod.ViewAll, podID, cfg)
		if err == nil {
			err = n.Start(t.Context(), pod.ViewAll, id)
		}
		if err != nil {
			t.Fatal(err)
		}
		ids, s.containers = append(ids, id), append(s.containers, cfg)
	}
	if err := n.CheckpointPod(t.Context(), pod.ViewAll, podID, s.dir, ids, nil); err != nil {
		t.Fatal(err)
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	s.config.Metadata.UID += "-restored"
	return s
}

func (n *node) restorePod(ctx context.Context, s savedPod) (string, []pod.Restored, error) {
	return n.RestorePod(ctx, pod.ViewAll, s.dir, s.config, s.containers, nil)
}

// restored restores a pod that can be.
func (n *node) restored(t *testing.T, s savedPod) (string, []pod.Restored) {
	t.Helper()
	podID, made, err := n.restorePod(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return podID, made
}

// removed removes a restored pod, of which nothing is left then.
func (n *node) removed(t *testing.T, podID string) {
	t.Helper()
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Error(err)
	}
	n.nothingLeft(t)
}

func (n *node) nothingLeft(t *testing.T) {
	t.Helper()
	if left := n.Pods(pod.ViewAll, pod.PodFilter{}); len(left) > 0 {
		t.Errorf("pods are left: %v", left[0].ID)
	}
	if problems, err := n.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("the check says %v, %v", problems, err)
	}
	for _, dir := range []string{"checkpoints", "volumes", "containers", "pods"} {
		if entries, err := os.ReadDir(filepath.Join(n.cfg.Root, dir)); err != nil && !errors.Is(err, os.ErrNotExist) || len(entries) > 0 {
			t.Errorf("left in %s: %v, %v", dir, entries, err)
		}
	}
}

// A pod and its containers come back created; each start brings one's
// processes back, which are the shim's children like all others.
func TestRestoreOfAPod(t *testing.T) {
	n, notes := newCheckpointNode(t)
	s := n.savePod(t, func(c *spec.Container) { c.LogPath, c.Security.NoNewPrivs = c.Metadata.Name+".log", true })
	s.config.LogDirectory = t.TempDir()
	slices.Reverse(s.containers)
	podID, made := n.restored(t, s)
	if len(made) != 2 || made[0].Name != "second" || made[1].Name != "main" || made[0].ID == made[1].ID {
		t.Fatalf("restored are %v", made)
	}
	for _, c := range made {
		st, err := n.Container(pod.ViewAll, c.ID)
		if err != nil || st.State != pod.StateCreated || st.PodID != podID || st.Config.Metadata.Name != c.Name {
			t.Errorf("container %s is %+v, %v", c.Name, st, err)
		}
		if _, err := os.Stat(filepath.Join(notes, "applied-"+c.ID)); err != nil {
			t.Errorf("the changes of %s: %v", c.Name, err)
		}
	}
	if calls := readFile(t, filepath.Join(notes, "calls")); strings.Contains(calls, "restore ") {
		t.Errorf("before any start CRIU was called: %s", calls)
	}
	second, main := made[0].ID, made[1].ID
	waiting, _ := n.Container(pod.ViewAll, main)
	if err := n.Start(t.Context(), pod.ViewAll, main); err != nil {
		t.Fatal(err)
	}
	st, err := n.Container(pod.ViewAll, main)
	if err != nil || st.State != pod.StateRunning || st.Pid == waiting.Pid {
		t.Fatalf("after the start it is %+v, %v", st, err)
	}
	eventually(t, "the log of the restored", func() bool {
		b, _ := os.ReadFile(filepath.Join(s.config.LogDirectory, "main.log"))
		return strings.Contains(string(b), "stdout F revived in ")
	})
	if group, err := cgroup.Of(st.Pid); err != nil || group != n.group(main) {
		t.Errorf("it is in cgroup %s, %v", group, err)
	}
	// CRIU 3.17 forgets it, and so does the stand-in.
	if status := readFile(t, fmt.Sprintf("/proc/%d/status", st.Pid)); !strings.Contains(status, "NoNewPrivs:\t1\n") {
		t.Errorf("it may have new privileges: %s", status)
	}
	for _, ns := range []string{"net", "ipc", "uts"} {
		theirs, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", st.Pid, ns))
		waits, _ := n.Container(pod.ViewAll, second)
		if own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", waits.Pid, ns)); err != nil || own != theirs {
			t.Errorf("its %s namespace is %s, the pod's %s, %v", ns, theirs, own, err)
		}
	}
	if res, err := n.ExecSync(t.Context(), pod.ViewAll, main, []string{"/bin/sh", "-c", "cat /proc/1/cmdline"}, time.Minute); err != nil || !strings.Contains(string(res.Stdout), "revived") {
		t.Errorf("an exec beside it: %q %q, %v", res.Stdout, res.Stderr, err)
	}
	if _, err := os.Stat(filepath.Join(n.cfg.Root, "volumes", main, "saved")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the checkpoint of the started: %v", err)
	}
	if problems, err := n.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("the check says %v, %v", problems, err)
	}
	if err := n.Start(t.Context(), pod.ViewAll, main); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("a second start: %v", err)
	}
	if err := n.StopContainer(t.Context(), pod.ViewAll, main, time.Minute); err != nil {
		t.Error(err)
	}
	if st := n.ended(t, main); st.ExitCode != 7 {
		t.Errorf("exit code %d, want the one that it ends with", st.ExitCode)
	}
	if err := n.StopContainer(t.Context(), pod.ViewAll, second, 0); err != nil { // which was never started
		t.Error(err)
	}
	if st := n.ended(t, second); st.ExitCode != 137 {
		t.Errorf("exit code %d of the one that only waited", st.ExitCode)
	}
	if _, _, err := n.restorePod(t.Context(), s); !errkind.Is(err, errkind.AlreadyExists) {
		t.Errorf("a second restore: %v", err)
	}
	n.removed(t, podID)
}

// A restored container outlives the daemon and the shim like any other, before
// its start and after it.
func TestRestoredOutliveDaemonAndShim(t *testing.T) {
	n, _ := newCheckpointNode(t)
	s := n.savePod(t, func(*spec.Container) {})
	podID, made := n.restored(t, s)
	n.Close()
	n.boot(t)
	for _, c := range made {
		if err := n.Start(t.Context(), pod.ViewAll, c.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Kill(n.shim(t).Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another shim", func() bool {
		_, err := n.ExecSync(t.Context(), pod.ViewAll, made[0].ID, []string{"/bin/echo"}, time.Minute)
		return err == nil
	})
	n.goesOn(t, made[0].ID, made[1].ID)
	n.Close()
	n.boot(t)
	n.goesOn(t, made[0].ID, made[1].ID)
	if err := n.StopContainer(t.Context(), pod.ViewAll, made[0].ID, time.Minute); err != nil {
		t.Error(err)
	}
	n.ended(t, made[0].ID)
	n.removed(t, podID)
}

// Whatever is not exactly what a node with this key wrote is refused, before
// CRIU or anything else sees it, and nothing is left.
func TestRestoresThatAreRefused(t *testing.T) {
	n, notes := newCheckpointNode(t)
	s := n.savePod(t, func(*spec.Container) {})
	for what, c := range map[string]struct {
		change func(*savedPod)
		kind   errkind.Kind
		says   string
	}{
		"a changed index": {func(s *savedPod) { edit(t, s.dir, "pod.json", `"name": "main"`, `"name": "evil"`) }, errkind.InvalidArgument, "seal"},
		"another's seal": {func(s *savedPod) {
			writeFile(t, filepath.Join(s.dir, "pod.mac"), "%s\n", strings.Repeat("0", 64))
		}, errkind.InvalidArgument, "another key"},
		"no seal":           {func(s *savedPod) { _ = os.Remove(filepath.Join(s.dir, "pod.mac")) }, errkind.InvalidArgument, "no such file"},
		"a changed archive": {func(s *savedPod) { flip(t, s.dir, true) }, errkind.InvalidArgument, "digest"},
		"a longer archive":  {func(s *savedPod) { flip(t, s.dir, false) }, errkind.InvalidArgument, "bytes, not the"},
		"a relative path":   {func(s *savedPod) { s.dir = "checkpoint" }, errkind.InvalidArgument, "absolute"},
		"no checkpoint":     {func(s *savedPod) { s.dir = filepath.Join(s.dir, "none") }, errkind.InvalidArgument, "no such file"},
		"one too few":       {func(s *savedPod) { s.containers = s.containers[:1] }, errkind.InvalidArgument, "not asked for"},
		"one too many":      {func(s *savedPod) { s.containers = append(s.containers, containerConfig("third", "/bin/sleep", "600")) }, errkind.InvalidArgument, "third"},
		"one twice":         {func(s *savedPod) { s.containers[1] = s.containers[0] }, errkind.InvalidArgument, "twice"},
		"another command":   {func(s *savedPod) { s.containers[1].Command = []string{"/bin/sleep", "6"} }, errkind.FailedPrecondition, "process.args[1]"},
		"another user":      {func(s *savedPod) { s.containers[1].Security.RunAsUser = new(int64(1000)) }, errkind.FailedPrecondition, "process."},
		"fewer rights":      {func(s *savedPod) { s.containers[1].Security.NoNewPrivs = true }, errkind.FailedPrecondition, "process.noNewPrivileges"},
		"a terminal":        {func(s *savedPod) { s.containers[1].TTY = true }, errkind.FailedPrecondition, "process."},
		"an absent image":   {func(s *savedPod) { s.containers[1].Image = "none" }, errkind.NotFound, "none"},
	} {
		t.Run(what, func(t *testing.T) {
			bad := s
			bad.containers, bad.dir = slices.Clone(s.containers), t.TempDir()
			if err := os.CopyFS(bad.dir, os.DirFS(s.dir)); err != nil {
				t.Fatal(err)
			}
			c.change(&bad)
			_, _, err := n.restorePod(t.Context(), bad)
			if !errkind.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("%v, want %v that says %q", err, c.kind, c.says)
			}
			if strings.Contains(fmt.Sprint(err), "undo") {
				t.Errorf("what was begun could not be undone: %v", err)
			}
			n.nothingLeft(t)
		})
	}
	if _, _, err := n.RestorePod(t.Context(), pod.ViewAll, s.dir, s.config, s.containers, map[string]string{"k": ""}); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("an option: %v", err)
	}
	key := filepath.Join(notes, "key")
	writeFile(t, key, "%s", strings.Repeat("k", 32))
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	own := n.cfg.Checkpoint.Key
	n.with(t, func(cfg *pod.Config) { cfg.Checkpoint.Key = key })
	if _, _, err := n.restorePod(t.Context(), s); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("on a node with another key: %v", err)
	}
	if calls := readFile(t, filepath.Join(notes, "calls")); strings.Contains(calls, "restore ") {
		t.Errorf("CRIU was called for what is refused: %s", calls)
	}
	n.nothingLeft(t)
	n.with(t, func(cfg *pod.Config) { cfg.Checkpoint.Key = own })
	podID, _, err := n.restorePod(t.Context(), s)
	if err == nil {
		err = n.Remove(t.Context(), pod.ViewAll, podID)
	}
	if err != nil {
		t.Errorf("what was not changed: %v", err)
	}
}

func edit(t *testing.T, dir, name, old, by string) {
	t.Helper()
	path := filepath.Join(dir, name)
	writeFile(t, path, "%s", strings.Replace(readFile(t, path), old, by, 1))
}

// flip changes a byte in the middle of an archive, or adds one.
func flip(t *testing.T, dir string, inside bool) {
	t.Helper()
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil || len(archives) == 0 {
		t.Fatal(err)
	}
	b := []byte(readFile(t, archives[0]))
	if inside {
		i := strings.Index(string(b), "/bin/sleep")
		b[i+1] = 'B'
	} else {
		b = append(b, 0)
	}
	if err := os.WriteFile(archives[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A start that CRIU fails is a failed start: EXITED with CRIU's reason. One that
// hangs ends when the container is killed. The other container starts all the same.
func TestRestoresThatFailAtTheirStart(t *testing.T) {
	n, notes := newCheckpointNode(t)
	s := n.savePod(t, func(*spec.Container) {})
	podID, made := n.restored(t, s)
	writeFile(t, filepath.Join(notes, "mode"), "fail")
	if err := n.Start(t.Context(), pod.ViewAll, made[0].ID); err == nil || !strings.Contains(err.Error(), "File f has bad size") {
		t.Errorf("a start that CRIU fails: %v", err)
	}
	if st := n.ended(t, made[0].ID); st.ExitCode != 128 || st.Reason != "StartError" || !strings.Contains(st.Message, "File f has bad size") {
		t.Errorf("after it the container is %+v", st)
	}
	writeFile(t, filepath.Join(notes, "mode"), "hang")
	result := make(chan error, 1)
	go func() { result <- n.Start(context.WithoutCancel(t.Context()), pod.ViewAll, made[1].ID) }()
	eventually(t, "CRIU", func() bool { _, err := os.Stat(filepath.Join(notes, "hangs")); return err == nil })
	if err := n.StopContainer(t.Context(), pod.ViewAll, made[1].ID, 0); err != nil {
		t.Error(err)
	}
	if err := <-result; err == nil {
		t.Error("a start that hung succeeded")
	}
	n.ended(t, made[1].ID)
	n.removed(t, podID)
}

// A caller who goes away leaves nothing of a restore behind.
func TestRestoreWhoseCallerGoes(t *testing.T) {
	n, _ := newCheckpointNode(t)
	s := n.savePod(t, func(*spec.Container) {})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := n.restorePod(ctx, s); !errkind.Is(err, errkind.Canceled) {
		t.Errorf("a restore whose caller has gone: %v", err)
	}
	n.nothingLeft(t)
}

// What a daemon that was killed during a restore has left is undone: the pod
// was shown to nobody.
func TestRestoreIsUndoneAfterACrash(t *testing.T) {
	n, _ := newCheckpointNode(t)
	s := n.savePod(t, func(*spec.Container) {})
	podID, made := n.restored(t, s)
	n.Close()
	// The row as it is before the last step.
	row := filepath.Join(n.cfg.Root, "pods", podID+".json")
	writeFile(t, row, "%s", strings.Replace(readFile(t, row), `"phase":"ready"`, `"phase":"creating"`, 1))
	if !strings.Contains(readFile(t, row), `"phase":"creating"`) {
		t.Fatalf("the row is %s", readFile(t, row))
	}
	if err := os.MkdirAll(filepath.Join(n.cfg.Root, "checkpoints", podID, strings.Repeat("a", 64)), 0o700); err != nil {
		t.Fatal(err)
	}
	n.boot(t)
	for _, c := range made {
		if _, err := n.Container(pod.ViewAll, c.ID); !errkind.Is(err, errkind.NotFound) {
			t.Errorf("container %s: %v", c.Name, err)
		}
	}
	n.nothingLeft(t)
}
