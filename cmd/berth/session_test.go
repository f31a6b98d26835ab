package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDetachKeys(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"ctrl-p,ctrl-q": "\x10\x11", "": "", "a,CTRL-A,ctrl-@,ctrl-_": "a\x01\x00\x1f",
	} {
		if keys, err := parseDetachKeys(text); err != nil || string(keys) != want {
			t.Errorf("%q: %q, %v", text, keys, err)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-ab", "ab", ",", "ctrl-1"} {
		_, err := parseDetachKeys(text)
		told(t, text, err, "is no key")
	}
}

// chunks gives one of its strings a Read.
type chunks []string

func (c *chunks) Read(p []byte) (int, error) {
	if len(*c) == 0 {
		return 0, io.EOF
	}
	n := copy(p, (*c)[0])
	*c = (*c)[1:]
	return n, nil
}

func TestTyped(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in       chunks
		keys     string
		out      string
		detached bool
	}{
		"nothing of it":          {chunks{"abc", "d"}, "\x10\x11", "abcd", false},
		"both at once":           {chunks{"ab\x10\x11cd"}, "\x10\x11", "ab", true},
		"one by one":             {chunks{"\x10", "\x11"}, "\x10\x11", "", true},
		"the first, then others": {chunks{"\x10", "x", "\x11"}, "\x10\x11", "\x10x\x11", false},
		"the first twice":        {chunks{"\x10\x10", "\x11"}, "\x10\x11", "\x10", true},
		"the first, then an end": {chunks{"a\x10"}, "\x10\x11", "a\x10", false},
		"no keys":                {chunks{"\x10\x11"}, "", "\x10\x11", false},
		"one key":                {chunks{"a", "~b"}, "~", "a", true},
	} {
		var out []byte
		in, buf := &typed{in: &tc.in, keys: []byte(tc.keys)}, make([]byte, 64)
		var err error
		for err == nil {
			var n int
			n, err = in.Read(buf)
			out = append(out, buf[:n]...)
		}
		if string(out) != tc.out || errors.Is(err, errDetached) != tc.detached {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "box", "sleep")
	if out := n.must(t, "exec", "web", "--", "hello", "-x"); out != "hello -x\n" && out != "-- hello -x\n" {
		t.Errorf("%q", out)
	}
	if out := n.must(t, "exec", "-e", "A=b", "-w", "/tmp", "-u", "me:us", "web", "hello"); out != "hello A=b /tmp me:us\n" {
		t.Errorf("%q", out)
	}
	if out := n.must(t, "exec", "-i", "web", "cat"); out != "archive" { // what the test's stdin has
		t.Errorf("stdin arrived as %q", out)
	}
	if out := n.must(t, "exec", "-d", "web", "cat"); out != "" {
		t.Errorf("%q", out)
	}
	n.noted("client left")
	for _, tc := range []struct {
		args []string
		code int
		errs string
	}{
		{[]string{"exec", "web", "exit", "9"}, 9, "oh\n"},
		{[]string{"exec", "web", "missing"}, exitNoProgram, "cannot exec in container web\n  why: \"missing\": executable file not found"},
		{[]string{"exec", "-it", "web", "sh"}, exitOwn, "stdin is no terminal"},
		{[]string{"exec", "-id", "web", "sh"}, exitOwn, "-d with -i"},
		{[]string{"exec", "--timeout", "1", "-u", "0", "web", "sh"}, exitOwn, "has no other flags"},
		{[]string{"exec", "--detach-keys", "abc", "web", "sh"}, exitOwn, "abc is no key"},
		{[]string{"exec", "nothing", "sh"}, exitOwn, "cannot find"},
	} {
		if code, _, errs := n.berth(tc.args...); code != tc.code || !strings.Contains(errs, tc.errs) {
			t.Errorf("%v: %d %q", tc.args, code, errs)
		}
	}
	if out := n.must(t, "exec", "--timeout", "5", "web", "hello"); out != "hello\n" {
		t.Errorf("%q", out)
	}
}

// person runs berth at a terminal, and types.
type person struct {
	*terminal
	code chan int
}

func (n *node) sit(t *testing.T, args ...string) *person {
	t.Helper()
	p := &person{newTerminal(t, 24, 80), make(chan int, 1)}
	before := modes(t, p.File)
	go func() {
		p.code <- run(append([]string{"--socket", n.socket}, args...), p.File, p.File, p.File)
	}()
	t.Cleanup(func() {
		// Whoever still reads there would keep it open.
		_, _ = p.master.WriteString("\n")
		if after := modes(t, p.File); after != before {
			t.Errorf("%v left the terminal with %+v, not %+v", args, after, before)
		}
	})
	return p
}

func modes(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

func (p *person) types(t *testing.T, keys string) {
	t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

func (p *person) ended(t *testing.T) int {
	t.Helper()
	select {
	case code := <-p.code:
		return code
	case <-time.After(30 * time.Second):
		t.Fatalf("berth does not end: %q", p.text())
		return 0
	}
}

// Keys arrive as they are typed, ^C among them, and the size with each change.
func TestExecAtATerminal(t *testing.T) {
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "box", "sleep")
	p := n.sit(t, "exec", "-it", "web", "tell")
	p.await(t, "<80x24>")
	p.types(t, "a\x03\r")
	p.await(t, "a\x03\r")
	p.resize(t, 30, 100)
	_ = unix.Kill(os.Getpid(), unix.SIGWINCH) // the pty is not our controlling terminal
	p.await(t, "<100x30>")
	p.types(t, "q")
	if code := p.ended(t); code != 4 {
		t.Errorf("code %d", code)
	}
}

func TestRunAtATerminal(t *testing.T) {
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	p := n.sit(t, "run", "-it", "--rm", "--name", "sh", "box", "sleep")
	p.await(t, "<80x24>")
	c := n.containerNamed(t, "sh")
	if !c.config.Tty || !c.config.Stdin || c.config.StdinOnce {
		t.Errorf("made as %+v", c.config)
	}
	p.types(t, "q")
	if code := p.ended(t); code != 4 || len(n.pods)+len(n.containers) != 0 {
		t.Errorf("code %d, left %v", code, n.pods)
	}

	p = n.sit(t, "run", "-it", "--rm", "--name", "again", "box", "sleep")
	p.await(t, "<80x24>")
	p.types(t, "x\x10\x11")
	if code := p.ended(t); code != 0 {
		t.Errorf("detached: %d", code)
	}
	p.await(t, "container again goes on. Come back with: berth attach again")
	n.running("again")
	p = n.sit(t, "attach", "again")
	p.await(t, "<1x1><80x24>") // so that it draws anew
	p.types(t, "q")
	if code := p.ended(t); code != 4 {
		t.Errorf("attached: %d", code)
	}
	if code, _, errs := n.berth("run", "-i", "--name", "none", "box", "missing"); code != exitNoProgram || !strings.Contains(errs, "not found") {
		t.Errorf("no program: %d %q", code, errs)
	}
	if slices.ContainsFunc(slices.Collect(valuesOf(n)), func(name string) bool { return name == "none" }) {
		t.Error("what could not be started is left")
	}
}

// valuesOf are the names of the containers.
func valuesOf(n *node) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, c := range n.containers {
			if !yield(c.Metadata.Name) {
				return
			}
		}
	}
}

// helperEnv makes the test binary a program that sits at the terminal which is
// its stdin and ends in the way that it names.
const helperEnv = "BERTH_TEST_KEYBOARD"

func TestMain(m *testing.M) {
	switch how := os.Getenv(helperEnv); how {
	case "":
		os.Exit(m.Run())
	case "panic":
		k, err := rawKeyboard(os.Stdin)
		if err != nil {
			os.Exit(1)
		}
		k.guard(func() { panic("as the test wants it") })
		select {}
	default:
		os.Exit(run(strings.Fields(how), os.Stdin, os.Stdout, os.Stderr))
	}
}

// Whatever ends berth, the terminal is as it was.
func TestTheTerminalIsGivenBack(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "box", "sleep")
	session := "--socket " + n.socket + " exec -it web tell"
	for name, tc := range map[string]struct {
		how  string
		end  func(*exec.Cmd)
		code int
	}{
		"panic":   {"panic", func(*exec.Cmd) {}, 2},
		"SIGTERM": {session, func(c *exec.Cmd) { _ = c.Process.Signal(unix.SIGTERM) }, 128 + 15},
		"SIGHUP":  {session, func(c *exec.Cmd) { _ = c.Process.Signal(unix.SIGHUP) }, 128 + 1},
		"SIGINT":  {session, func(c *exec.Cmd) { _ = c.Process.Signal(unix.SIGINT) }, 128 + 2},
	} {
		t.Run(name, func(t *testing.T) {
			screen := newTerminal(t, 24, 80)
			before := modes(t, screen.File)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
			cmd.Env = append(os.Environ(), helperEnv+"="+tc.how)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = screen.File, screen.File, screen.File
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if name != "panic" {
				screen.await(t, "<80x24>")
				if modes(t, screen.File) == before {
					t.Error("the terminal was never raw")
				}
			}
			tc.end(cmd)
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != tc.code {
				t.Errorf("code %d: %q", code, screen.text())
			}
			if after := modes(t, screen.File); after != before {
				t.Errorf("left with %+v, not %+v", after, before)
			}
		})
	}
}
