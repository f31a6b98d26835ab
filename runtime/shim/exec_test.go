package shim_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestExec(t *testing.T) { onBoth(t, testExec) }

func testExec(t *testing.T, l *lab) {
	l.run(l.bundle("c", nil, "sleep", "1000"))
	out, e, err := l.execOut("c", "sh", "-c", "echo $GREETING; echo oops >&2; exit 7")
	if err != nil || e.Code != 7 || !strings.Contains(out, "hello\n") || !strings.Contains(out, "oops\n") {
		t.Errorf("exec: %q, %+v, %v", out, e, err)
	}
	long := strings.Repeat("x", 100<<10) // beyond a packet
	if out, _, err := l.execOut("c", "sh", "-c", "echo ${#1}", "sh", long); err != nil || out != "102400\n" {
		t.Errorf("exec with a long argument: %q, %v", out, err)
	}
	for _, bad := range []string{"nothing", "/bin/nothing", "/etc"} {
		if _, _, err := l.execOut("c", bad); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("exec of %s: %v", bad, err)
		}
	}
	if _, _, err := l.execOut("absent", "true"); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("exec in no container: %v", err)
	}
	p, err := l.Exec(t.Context(), "c", shimrpc.Exec{Args: []string{"sleep", "1000"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	kill(t, p.Pid)
	if e, err := p.Wait(t.Context()); err != nil || e.Code != 137 {
		t.Errorf("killed exec: %+v, %v", e, err)
	}
}

// TestExecAtTheEnd executes in containers while they are killed, as probes do:
// that a container has ended is all that is said of it.
func TestExecAtTheEnd(t *testing.T) { onBoth(t, testExecAtTheEnd) }

func testExecAtTheEnd(t *testing.T, l *lab) {
	for i := range 5 {
		id := fmt.Sprint("c", i)
		// All of these must end before the first process has.
		c := l.run(l.bundle(id, nil, "sh", "-c", "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; wait"))
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					if _, _, err := l.execOut(id, "true"); err != nil {
						if !errkind.Is(err, errkind.FailedPrecondition) {
							t.Errorf("exec at the end of %s: %v", id, err)
						}
						return
					}
				}
			})
		}
		kill(t, c.Pid)
		all.Wait()
	}
}

func TestExecStdin(t *testing.T) { onBoth(t, testExecStdin) }

func testExecStdin(t *testing.T, l *lab) {
	l.run(l.bundle("c", nil, "sleep", "1000"))
	in, inw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outr, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Exec(t.Context(), "c", shimrpc.Exec{Args: []string{"cat"}, Stdin: true, Stdout: true}, []*os.File{in, out})
	shimrpc.CloseAll([]*os.File{in, out})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inw.WriteString("words"); err != nil {
		t.Fatal(err)
	}
	_ = inw.Close()
	var got strings.Builder
	_, _ = outr.WriteTo(&got)
	_ = outr.Close()
	if e, err := p.Wait(t.Context()); err != nil || e.Code != 0 || got.String() != "words" {
		t.Errorf("%+v, %v, %q", e, err, got.String())
	}
}

func TestExecTTY(t *testing.T) { onBoth(t, testExecTTY) }

func testExecTTY(t *testing.T, l *lab) {
	l.run(l.bundle("c", nil, "sleep", "1000"))
	p, err := l.Exec(t.Context(), "c", shimrpc.Exec{Args: []string{"sh", "-c", "tty; read x; echo got $x"}, TTY: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Console.Close() }()
	if _, err := p.Console.WriteString("it\n"); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for s := bufio.NewScanner(p.Console); s.Scan(); {
		got.WriteString(s.Text() + "\n")
	}
	if e, err := p.Wait(t.Context()); err != nil || e.Code != 0 || !strings.Contains(got.String(), "got it\n") {
		t.Errorf("%+v, %v, %q", e, err, got.String())
	}
}

// TestSealed proves that libcontainer makes no copy of its binary: what runs
// as init of a container is the very memfd of the shim.
func TestSealed(t *testing.T) {
	l := newLab(t)
	c, err := l.Create(t.Context(), l.bundle("c", nil, "true"))
	if err != nil {
		t.Fatal(err)
	}
	var shim, init unix.Stat_t
	for pid, st := range map[int]*unix.Stat_t{l.pid: &shim, c.Pid: &init} {
		if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", pid), st); err != nil {
			t.Fatal(err)
		}
	}
	if shim.Ino != init.Ino || shim.Dev != init.Dev {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.Pid))
		t.Errorf("init runs %s, a copy", link)
	}
}

func TestAdopt(t *testing.T) {
	for _, how := range []string{"pidfd", "pid"} {
		t.Run(how, func(t *testing.T) {
			l := newLab(t)
			cr := l.bundle("c", nil, "sh", "-c", "echo one; read x; echo two; read y; exit 9")
			cr.Stdin = true
			c := l.run(cr)
			in, err := os.OpenFile(filepath.Join(cr.Bundle, shimrpc.StdinFile), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = in.Close() }()
			fd, err := unix.PidfdOpen(c.Pid, unix.PIDFD_NONBLOCK)
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(fd), "pidfd")
			defer func() { _ = f.Close() }()
			l.eventually("first line", func() bool { return strings.Contains(l.output(cr), "one") })

			kill(t, l.pid)
			l.eventually("the shim ends", func() bool { return !alive(l.pid) })
			// Printed while no shim lives.
			if _, err := in.WriteString("go\n"); err != nil {
				t.Fatal(err)
			}
			l.launch()
			cr.Pid, cr.StartTime = c.Pid, c.StartTime
			if how == "pid" {
				_ = f.Close()
				f = nil
			}
			for range 2 {
				if err := l.Adopt(t.Context(), cr, f); err != nil {
					t.Fatal(err)
				}
			}
			l.eventually("second line", func() bool { return strings.Contains(l.output(cr), "two") })
			if out, e, err := l.execOut("c", "echo", "hi"); err != nil || e.Code != 0 || out != "hi\n" {
				t.Errorf("exec in an adopted container: %q, %+v, %v", out, e, err)
			}
			if _, err := in.WriteString("go\n"); err != nil {
				t.Fatal(err)
			}
			e := l.exit("c")
			switch {
			case e.Known && e.Code != 9, !e.Known && e.Code != 255:
				t.Errorf("exit %+v", e)
			case !e.Known:
				t.Log("the kernel or the reaper of orphans does not tell the status here")
			}
		})
	}
}

// TestAdoptDead is of a container that ended while no shim lived.
func TestAdoptDead(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", nil, "sh", "-c", "read x; echo last; exit 9")
	cr.Stdin = true
	c := l.run(cr)
	cr.Pid, cr.StartTime = c.Pid, c.StartTime
	// As the daemon does, so that bytes survive.
	var held []*os.File
	for _, n := range []string{shimrpc.StdoutFile, shimrpc.StdinFile} {
		f, err := os.OpenFile(filepath.Join(cr.Bundle, n), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
	}
	defer shimrpc.CloseAll(held)
	kill(t, l.pid)
	l.eventually("the shim ends", func() bool { return !alive(l.pid) })
	if _, err := held[1].WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	l.eventually("init ends", func() bool { return !alive(c.Pid) })
	l.launch()
	if err := l.Adopt(t.Context(), cr, nil); err != nil {
		t.Fatal(err)
	}
	// Whether its status can still be had is up to who inherited it.
	if e := l.exit("c"); e.Known && e.Code != 9 || !e.Known && e.Code != 255 {
		t.Errorf("exit %+v", e)
	}
	if out := l.output(cr); out != "stdout F last\n" {
		t.Errorf("log %q", out)
	}
}

// TestDeleteUnknown is of a container whose shim died and that nobody adopted.
func TestDeleteUnknown(t *testing.T) {
	l := newLab(t)
	cr := l.bundle("c", nil, "sleep", "1000")
	c := l.run(cr)
	kill(t, l.pid)
	l.eventually("the shim ends", func() bool { return !alive(l.pid) })
	l.launch()
	if err := l.Delete(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if alive(c.Pid) {
		t.Error("it is alive")
	}
	for _, n := range []string{shimrpc.StdoutFile, shimrpc.StderrFile} {
		_ = os.Remove(filepath.Join(cr.Bundle, n))
	}
}
