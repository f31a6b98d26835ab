//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/hack/lab"
)

// person sits at a terminal of its own, in which one berth runs.
type person struct {
	t       *testing.T
	master  *os.File
	cmd     *exec.Cmd
	drained chan struct{}

	mu   sync.Mutex
	seen bytes.Buffer // guarded by mu
}

// sit runs berth with a pty for its controlling terminal.
func (n *node) sit(args ...string) *person {
	n.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		n.t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		n.t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	p := &person{t: n.t, master: master, drained: make(chan struct{})}
	p.resize(80, 24)
	p.cmd = exec.CommandContext(n.t.Context(), filepath.Join(n.Clone, "bin/berth"), append([]string{"--socket", n.Socket}, args...)...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	_ = slave.Close()
	n.t.Cleanup(func() { _ = master.Close() })
	go func() {
		defer close(p.drained)
		buf := make([]byte, 4096)
		for {
			k, err := master.Read(buf)
			p.mu.Lock()
			p.seen.Write(buf[:k])
			p.mu.Unlock()
			if err != nil {
				return // the program has ended
			}
		}
	}()
	return p
}

func (p *person) resize(columns, rows uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

func (p *person) types(keys string) {
	p.t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// sees waits for a text.
func (p *person) sees(text string) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(p.text(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("the terminal never showed %q: %q", text, p.text())
		}
	}
}

// ended waits for the end of berth and gives its code.
func (p *person) ended() int {
	p.t.Helper()
	done := make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // the state tells
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		p.t.Fatalf("berth does not end: %q", p.text())
	}
	<-p.drained
	return p.cmd.ProcessState.ExitCode()
}

// TestTerminal is what a person at a terminal does: run -it, exec -it, attach.
func TestTerminal(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)

	p := n.sit("run", "-it", "--rm", "--name", "once", n.shell, "sh")
	p.types("stty size; echo ec''ho; tty -s && echo a tty\n")
	p.sees("24 80")
	p.sees("echo\r\n")
	p.sees("a tty")
	p.resize(101, 37)
	// The program's side has the new size once the container has.
	p.types("while [ \"$(stty size)\" != '37 101' ]; do sleep 0.1; done; echo res''ized\n")
	p.sees("resized")
	p.types("sh -c 'echo sl\"\"eeps; exec sleep 1000'\n")
	p.sees("sleeps") // it has the terminal, not the shell
	p.types("\x03")
	p.sees("^C")
	p.types("echo $? inter''rupted\n")
	p.sees("130 interrupted")
	p.types("exit 5\n")
	if code := p.ended(); code != 5 {
		t.Errorf("run -it ended with %d", code)
	}
	if out := n.berth("ps", "-a") + n.berth("pods"); strings.Contains(out, "once") {
		t.Errorf("run --rm left:\n%s", out)
	}

	p = n.sit("run", "-it", "--name", "stays", n.shell, "sh")
	p.types("echo be''fore\n")
	p.sees("before")
	p.types("\x10\x11")
	if code := p.ended(); code != 0 {
		t.Errorf("the detached run ended with %d", code)
	}
	want(t, n.berth("ps"), "stays")
	p = n.sit("attach", "stays")
	p.types("echo af''ter\n")
	p.sees("after")

	e := n.sit("exec", "-it", "-e", "COLOUR=red", "-w", "/bin", "-u", "7:8", "stays", "sh")
	e.types("echo $COLOUR $PWD $(id -u):$(id -g)\n")
	e.sees("red /bin 7:8")
	e.types("exit 3\n")
	if code := e.ended(); code != 3 {
		t.Errorf("exec -it ended with %d", code)
	}

	p.types("exit 4\n")
	if code := p.ended(); code != 4 {
		t.Errorf("attach ended with %d", code)
	}
	n.berth("rm", "stays")

	for code, argv := range map[int][]string{
		127: {"run", "-i", "--rm", n.shell, "no-such-program"},
		126: {"run", "-i", "--rm", n.shell, "/etc"},
	} {
		if got := exitCode(n, argv...); got != code {
			t.Errorf("%v ended with %d, want %d", argv, got, code)
		}
	}
}

// TestPipes is stdin without a terminal: bytes and their end arrive, and
// stderr is a stream of its own.
func TestPipes(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	for _, argv := range [][]string{
		{"run", "-i", "--rm", n.shell, "sh", "-c", "wc -c; echo to stderr >&2; exit 6"},
		{"run", "-d", "--name", "up", n.shell, "sleep", "1000"},
		{"exec", "-i", "up", "sh", "-c", "wc -c; echo to stderr >&2; exit 6"},
	} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(n.Clone, "bin/berth"), append([]string{"--socket", n.Socket}, argv...)...)
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(strings.Repeat("0123456789", 1<<17)), &out, &errs
		err := cmd.Run()
		if argv[1] == "-d" {
			if err != nil {
				t.Fatal(err, errs.String())
			}
			continue
		}
		if code := cmd.ProcessState.ExitCode(); code != 6 || strings.TrimSpace(out.String()) != "1310720" || errs.String() != "to stderr\n" {
			t.Errorf("%v: %d, %q, %q", argv[:2], code, out.String(), errs.String())
		}
	}
}
