package shim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

func TestLife(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	cr := l.bundle("c", nil, "sh", "-c", "echo $GREETING; echo oops >&2; printf tail; exit 42")
	created, err := l.Create(ctx, cr)
	if err != nil {
		t.Fatal(err)
	}
	if !(pidfd.Process{Pid: created.Pid, StartTime: created.StartTime}).Alive() {
		t.Errorf("init %+v does not live", created)
	}
	if st, err := os.Stat(cr.LogPath); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("the log after Create: %v, %v", st, err)
	}
	if _, err := l.Create(ctx, cr); !errkind.Is(err, errkind.AlreadyExists) {
		t.Errorf("a second Create: %v", err)
	}
	if err := l.Shutdown(ctx); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("Shutdown with a container: %v", err)
	}
	if err := l.Start(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	e := l.exit("c")
	if e.Code != 42 || !e.Known || e.At.IsZero() {
		t.Errorf("exit %+v", e)
	}
	var onDisk shimrpc.Exited
	b, err := os.ReadFile(filepath.Join(cr.Bundle, shimrpc.ExitFile))
	if err != nil || json.Unmarshal(b, &onDisk) != nil || onDisk.Code != 42 || !onDisk.Known {
		t.Errorf("exit.json: %s, %v", b, err)
	}
	out := l.output(cr)
	for _, want := range []string{"stdout F hello\n", "stderr F oops\n", "stdout P tail\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("log lacks %q:\n%s", want, out)
		}
	}
	if err := l.Start(ctx, "c"); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("a second Start: %v", err)
	}
	if err := l.ReopenLog(ctx, "c"); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("ReopenLog after the end: %v", err)
	}
	if _, _, err := l.execOut("c", "true"); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("Exec after the end: %v", err)
	}
	for range 2 {
		if err := l.Delete(ctx, "c"); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(cr.Bundle, shimrpc.ExitFile)); err != nil {
		t.Errorf("Delete took the record of the exit: %v", err)
	}
}

func TestFailuresLeaveNothing(t *testing.T) {
	l := newLab(t)
	const unstartable = errkind.Kind(-1) // no error: the answer tells
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		args   []string
		kind   errkind.Kind
		text   string
	}{
		"no-program":  {nil, []string{"/bin/nothing"}, unstartable, "no such file or directory"},
		"not-in-path": {nil, []string{"nothing"}, unstartable, "not found"},
		"no-args":     {nil, nil, errkind.InvalidArgument, "no command"},
		"no-root":     {func(s *specs.Spec) { s.Root.Path = "/nonexistent" }, []string{"true"}, errkind.Unknown, "nonexistent"},
		"bad-netns": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/bin/busybox"})
		}, []string{"true"}, errkind.Unknown, ""},
		"bad-rlimit": {func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 2, Hard: 1}}
		}, []string{"true"}, errkind.InvalidArgument, "RLIMIT_NOFILE"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := l.Create(t.Context(), l.bundle(name, c.change, c.args...))
			if c.kind == unstartable {
				if err != nil || got.Pid != 0 || !strings.Contains(got.Unstartable, c.text) {
					t.Errorf("created as %+v, %v", got, err)
				}
			} else if err == nil || errkind.Of(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("kind %v: %v", errkind.Of(err), err)
			}
			if cgroup.Exists(l.parent + "/" + name) {
				t.Error("its cgroup is left")
			}
		})
	}
	l.eventually("zombies are reaped", func() bool { return len(children(l.pid)) == 0 })
}

func TestCreatedAndKilled(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", nil, "true")
	c, err := l.Create(t.Context(), cr)
	if err != nil {
		t.Fatal(err)
	}
	kill(t, c.Pid)
	if e := l.exit("c"); e.Code != 137 {
		t.Errorf("exit %+v", e)
	}
	if err := l.Start(t.Context(), "c"); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("Start of a dead init: %v", err)
	}
}

func TestSharedPIDLeavesNothing(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, "sh", "-c", "sleep 1000 & echo started")
	l.run(cr)
	if e := l.exit("c"); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	if pids, err := cgroup.Procs(l.parent + "/c"); err != nil || len(pids) > 0 {
		t.Errorf("processes left: %v, %v", pids, err)
	}
}

func TestDeleteRunning(t *testing.T) {
	l := newLab(t)
	c := l.run(l.bundle("c", nil, "sleep", "1000"))
	if err := l.Delete(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if alive(c.Pid) {
		t.Error("it is alive")
	}
}

func TestDeleteFrozen(t *testing.T) {
	onBoth(t, func(t *testing.T, l *lab) {
		l.run(l.bundle("c", nil, "sleep", "1000"))
		file, word := filepath.Join(l.group("c"), "cgroup.freeze"), "1"
		if !l.v2 {
			file, word = filepath.Join("/sys/fs/cgroup/freezer", l.parent, "c/freezer.state"), "FROZEN"
		}
		if err := os.WriteFile(file, []byte(word), 0); err != nil {
			t.Fatal(err)
		}
		if err := l.Delete(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStdin(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", nil, "cat")
	cr.Stdin = true
	l.run(cr)
	w, err := os.OpenFile(filepath.Join(cr.Bundle, shimrpc.StdinFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("one\ntwo\n"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // not the end: the shim keeps it open
	l.eventually("cat copies", func() bool { return strings.Contains(l.output(cr), "stdout F two\n") })
	for range 2 {
		if err := l.EndStdin(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
	}
	if e := l.exit("c"); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
}

func TestTTY(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", func(s *specs.Spec) { s.Process.Terminal = true }, "sh", "-c", "tty; read x; echo got $x; exit 3")
	cr.TTY = true
	c := l.run(cr)
	defer func() { _ = c.Console.Close() }()
	again, err := l.Console(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if _, err := again.WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	if e := l.exit("c"); e.Code != 3 {
		t.Errorf("exit %+v", e)
	}
	out := l.output(cr)
	if !strings.Contains(out, "stdout F got word\n") || !strings.Contains(out, "stdout F /dev/") {
		t.Errorf("log:\n%q", out)
	}
}

func TestAttach(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", nil, "sh", "-c", "read x; echo out $x; echo err $x >&2; read y")
	cr.Stdin = true
	l.run(cr)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	attached, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- l.Attach(t.Context(), "c", w, w, func() { close(attached) })
		_ = w.Close()
	}()
	<-attached
	in, err := os.OpenFile(filepath.Join(cr.Bundle, shimrpc.StdinFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if _, err := in.WriteString("1\n2\n"); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if _, err := r.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if s := out.String(); !strings.Contains(s, "out 1\n") || !strings.Contains(s, "err 1\n") {
		t.Errorf("attached reader got %q", s)
	}
}

func TestReopenLog(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", nil, "sh", "-c", "echo before; read x; echo after")
	cr.Stdin = true
	l.run(cr)
	l.eventually("first line", func() bool { return strings.Contains(l.output(cr), "before") })
	if err := os.Rename(cr.LogPath, cr.LogPath+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.ReopenLog(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if err := l.EndStdin(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	l.exit("c")
	if out := l.output(cr); out != "stdout F after\n" {
		t.Errorf("new log: %q", out)
	}
}

// TestLogOnFullDisk is of a container that goes on while its log cannot be
// written. What is lost is told once when it begins and once when it is over.
func TestLogOnFullDisk(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", nil, "sh", "-c", "seq 1 20000; seq 1 20000 >&2; read x; echo room; read x; exit 5")
	cr.Stdin = true
	dir := filepath.Dir(cr.LogPath)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	l.run(cr)
	in, err := os.OpenFile(filepath.Join(cr.Bundle, shimrpc.StdinFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	says := func(text string) int {
		b, _ := os.ReadFile(filepath.Join(l.dir, "shim.log"))
		return strings.Count(string(b), text)
	}
	l.eventually("the loss is told", func() bool { return says("output is lost until it can be written") > 0 })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteString("\n\n"); err != nil {
		t.Fatal(err)
	}
	if e := l.exit("c"); e.Code != 5 {
		t.Errorf("exit %+v", e)
	}
	if begun, over := says("output is lost until it can be written"), says("of output in"); begun != over || begun > 2 {
		t.Errorf("the beginning of a loss was told %d times and its end %d times", begun, over)
	}
	for line := range strings.Lines(l.output(cr)) {
		if !strings.HasPrefix(line, "stdout F ") && !strings.HasPrefix(line, "stderr F ") || !strings.HasSuffix(line, "\n") {
			t.Fatalf("a torn entry: %q", line)
		}
	}
}

// TestLogInTheWay is of a link that a pod has put in the place of its log.
func TestLogInTheWay(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", nil, "true")
	victim := filepath.Join(l.dir, "victim")
	if err := os.MkdirAll(filepath.Dir(cr.LogPath), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, cr.LogPath); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Create(t.Context(), cr); !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("created: %v", err)
	}
	if _, err := os.Lstat(victim); err == nil {
		t.Error("a file was made where the link points")
	}
}

func TestUpdate(t *testing.T) {
	l := newLab(t)
	l.run(l.bundle("c", nil, "sleep", "1000"))
	file := filepath.Join(l.dir, "r.json")
	if err := os.WriteFile(file, []byte(`{"memory":{"limit":33554432},"cpu":{"shares":512}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Update(t.Context(), "c", file); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"memory/%s/memory.limit_in_bytes": "33554432", "cpu/%s/cpu.shares": "512"}
	if cgroup.Unified() {
		// 1024 shares are the default weight of 100, and 2 the least, 1.
		want = map[string]string{"%s/memory.max": "33554432", "%s/cpu.weight": "59"}
	}
	for path, value := range want {
		b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", fmt.Sprintf(path, l.parent+"/c")))
		if strings.TrimSpace(string(b)) != value {
			t.Errorf("%s: %q, want %s, %v", path, b, value, err)
		}
	}
	if _, e, err := l.execOut("c", "true"); err != nil || e.Code != 0 {
		t.Errorf("exec after update: %+v, %v", e, err)
	}
}

func TestSeccompAndDevices(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", nil, "sh", "-c", "unshare -U true; echo unshare $?; mknod /tmp/x b 7 0; echo mknod $?")
	l.run(cr)
	l.exit("c")
	out := l.output(cr)
	if strings.Contains(out, "unshare 0") || strings.Contains(out, "mknod 0") || !strings.Contains(out, "mknod ") {
		t.Errorf("what the default profile forbids was done:\n%s", out)
	}
}

// TestMany is ten at a time, and counts what is left.
func TestMany(t *testing.T) {
	l := newLab(t)
	var wg sync.WaitGroup
	room := make(chan struct{}, 10)
	for i := range 50 {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			cr := l.bundle(fmt.Sprintf("c%d", i), nil, "sh", "-c", fmt.Sprintf("echo I am %d; exit %d", i, i))
			if _, err := l.Create(t.Context(), cr); err != nil {
				t.Error(err)
				return
			}
			if err := l.Start(t.Context(), cr.ID); err != nil {
				t.Error(err)
				return
			}
			if e := l.exit(cr.ID); int(e.Code) != i {
				t.Errorf("exit %+v", e)
			}
			if out := l.output(cr); out != fmt.Sprintf("stdout F I am %d\n", i) {
				t.Errorf("log of %s: %q", cr.ID, out)
			}
			if err := l.Delete(t.Context(), cr.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", l.pid))
	if err != nil || len(fds) > 20 {
		t.Errorf("%d descriptors left, %v", len(fds), err)
	}
}

// TestFlood writes more than any buffer holds and loses nothing.
func TestFlood(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", nil, "sh", "-c", "seq 1 200000; dd if=/dev/zero bs=40000 count=1 2>/dev/null; echo")
	l.run(cr)
	l.exit("c")
	out := l.output(cr)
	if n := strings.Count(out, "\n"); n != 200000+3 {
		t.Errorf("%d entries", n)
	}
	if !strings.Contains(out, "stdout F 200000\n") || strings.Count(out, "stdout P ") != 2 {
		t.Error("lines are missing or badly cut")
	}
}

func TestSIGTERM(t *testing.T) {
	l := newLab(t)
	l.run(l.bundle("c", nil, "sleep", "1000"))
	if err := unix.Kill(l.pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if err := l.Delete(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(l.pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.eventually("the shim ends", func() bool { return !alive(l.pid) })
	if _, err := l.Info(t.Context()); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("Info of a shim that has ended: %v", err)
	}
}

// Started by hand, without what berthd says, it makes nothing and says why.
func TestWithoutSocket(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // one that serves would not end
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(l.tools, "berth-shim"), "version")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no --socket") {
		t.Errorf("it ended with %v: %s", err, out)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
