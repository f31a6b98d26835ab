package pidfd_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

func start(t *testing.T, script string) (*exec.Cmd, pidfd.Process) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := pidfd.Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, p
}

func TestExitStatusOfAReapedProcess(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]int{"read x; exit 7": 7, "read x; kill -9 $$": 137, "read x": 1} {
		cmd := exec.Command("/bin/sh", "-c", script)
		gate, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p, err := pidfd.Find(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		f, err := p.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if ended, err := pidfd.Wait(f, 0); ended || err != nil {
			t.Errorf("%q has ended before its gate opened: %v", script, err)
		}
		if _, err := pidfd.ExitStatus(f); !errors.Is(err, pidfd.ErrNoStatus) {
			t.Errorf("a living process has an exit status: %v", err)
		}
		_ = gate.Close()
		_ = cmd.Wait() // reaps it
		if ended, err := pidfd.Wait(f, time.Minute); !ended || err != nil {
			t.Errorf("%q has not ended: %v", script, err)
		}
		ws, err := pidfd.ExitStatus(f)
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
			t.Skip("the kernel cannot tell a stranger's exit status (needs Linux 6.15)")
		}
		if err != nil || pidfd.Code(ws) != want {
			t.Errorf("%q: code %d, %v; want %d", script, pidfd.Code(ws), err, want)
		}
	}
}

func TestARecycledPidIsSomebodyElse(t *testing.T) {
	t.Parallel()
	self, err := pidfd.Find(os.Getpid())
	if err != nil || !self.Alive() {
		t.Fatalf("we are not alive: %v", err)
	}
	other := pidfd.Process{Pid: self.Pid, StartTime: self.StartTime + 1}
	if other.Alive() {
		t.Error("a process of another start time is alive")
	}
	if _, err := other.Open(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("opening it: %v, want ESRCH", err)
	}
	if err := other.Signal(unix.SIGKILL); err != nil { // would end this test
		t.Errorf("signalling it: %v, want success, since it has ended", err)
	}
	for _, p := range []pidfd.Process{{}, {Pid: -1}} {
		if p.Alive() || p.Signal(unix.SIGKILL) != nil {
			t.Errorf("%+v is alive or can be signalled", p)
		}
	}
}

func TestZombieIsNotAlive(t *testing.T) {
	t.Parallel()
	cmd, p := start(t, "exit 0")
	for end := time.Now().Add(time.Minute); p.Alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a process that has ended is alive")
		}
	}
	f, err := p.Open() // still has its pid
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	_ = cmd.Wait()
	if _, err := p.Open(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("opening a reaped process: %v, want ESRCH", err)
	}
}
