//go:build kube

package kube

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestExec runs programs in a container: with codes, input, and a terminal.
func TestExec(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.ready("p")
	out, err := s.tryKubectl("", "exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 42")
	if out != "out\n" || err == nil || !strings.Contains(err.Error(), "err") || !strings.Contains(err.Error(), "exit code 42") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := s.tryKubectl("", "exec", "p", "--", "/no/such/program"); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("a program that is not there: %v", err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	sum := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(big)))
	if out, err := s.tryKubectl(big, "exec", "-i", "p", "--", "sha256sum"); err != nil || out != sum {
		t.Errorf("a MiB of input: %q, %v", out, err)
	}
	if out, err := s.tryKubectl(big, "exec", "-i", "p", "--", "cat"); err != nil || out != big {
		t.Errorf("a MiB there and back: %d bytes, %v", len(out), err)
	}

	p := s.sit("exec", "-it", "p", "--", "sh")
	p.types("stty size; tty; echo $((6*7))\n")
	p.sees("33 101")
	p.sees("/dev/pts/0")
	p.sees("42")
	p.resize(90, 20)
	p.types("sleep 1; stty size\n")
	p.sees("20 90")
	p.types("sleep 1000\n")
	s.eventually(func() error {
		p.types("\x03") // ctrl-c; the shell misses it between its prompt and the program
		p.types("echo code $?\n")
		time.Sleep(time.Second)
		if !strings.Contains(p.all(), "code 130") {
			return fmt.Errorf("the terminal does not show that sleep was interrupted: %q", p.all())
		}
		return nil
	})
	p.types("exit 7\n")
	if code := p.ends(); code != 7 {
		t.Errorf("kubectl exec -it ended with %d: %q", code, p.all())
	}
}

// TestAttach takes part in a program that runs.
func TestAttach(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  restartPolicy: Never
  containers:
  - {name: c, image: $BOX, stdin: true, stdinOnce: true, command: [sh, -c, "while read line; do echo got $line; done; echo no more; exit 3"]}
`)
	s.ready("p")
	out, err := s.tryKubectl("one\ntwo\n", "attach", "-i", "p")
	if err != nil || !strings.Contains(out, "got one\ngot two\nno more") {
		t.Errorf("attach: %q, %v", out, err)
	}
	if c := s.ended("p").Status.ContainerStatuses[0]; c.State.Terminated.ExitCode != 3 {
		t.Errorf("it ended with %v", c)
	}
	if said := s.logs("p"); said != "got one\ngot two\nno more" {
		t.Errorf("the log is %q", said)
	}

	s.run("term", `
  containers: [{name: c, image: $BOX, stdin: true, tty: true, command: [sh]}]
`)
	s.ready("term")
	p := s.sit("attach", "-it", "term")
	p.types("stty size; echo $((6*7))\n")
	p.sees("33 101")
	p.sees("42")
	p.types("exit\n")
	p.ends()
	s.until("term", func(p pod) error {
		if c := p.Status.ContainerStatuses[0]; c.RestartCount != 1 {
			return fmt.Errorf("not restarted: %v", c)
		}
		return nil
	})
	s.kubectl("run", "asked", "--image", s.box, "--restart=Never", "--attach", "--quiet", "--", "echo", "hello")
}

// person sits at a terminal and uses kubectl.
type person struct {
	s      *space
	master *os.File
	cmd    *exec.Cmd
	done   chan struct{}

	mu   sync.Mutex
	seen bytes.Buffer // guarded by mu
	from int          // where sees looks next; guarded by mu
}

func (s *space) sit(args ...string) *person {
	s.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		s.t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		s.t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer slave.Close()
	p := &person{s: s, master: master, done: make(chan struct{})}
	p.resize(101, 33)
	p.cmd = s.kubectlCommand(s.t.Context(), append([]string{"-n", s.ns}, args...)...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		buf := make([]byte, 4096)
		for {
			k, err := master.Read(buf)
			p.mu.Lock()
			p.seen.Write(buf[:k])
			p.mu.Unlock()
			if err != nil {
				return // kubectl has ended
			}
		}
	}()
	return p
}

func (p *person) resize(columns, rows uint16) {
	p.s.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		p.s.t.Fatal(err)
	}
}

func (p *person) types(text string) {
	p.s.t.Helper()
	if _, err := p.master.WriteString(text); err != nil {
		p.s.t.Fatal(err)
	}
}

func (p *person) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// sees waits for a line with this text, after what was seen before. What is typed
// is echoed, so the text is not to be in it.
func (p *person) sees(text string) {
	p.s.t.Helper()
	p.s.eventually(func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		at := strings.Index(p.seen.String()[p.from:], text)
		if at < 0 {
			return fmt.Errorf("the terminal does not show %q: %q", text, p.seen.String())
		}
		p.from += at + len(text)
		return nil
	})
}

// ends waits for kubectl and gives its code.
func (p *person) ends() int {
	_ = p.cmd.Wait()
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// TestPortForward asks a server in a pod, many times at once.
func TestPortForward(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  containers:
  - {name: c, image: $AGNHOST, args: [netexec, --http-port, "8080"], readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1, timeoutSeconds: 20}}
`)
	s.ready("p")
	cmd := s.kubectlCommand(t.Context(), "-n", s.ns, "port-forward", "pod/p", ":8080")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	found := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(line)
	if err != nil || found == nil {
		t.Fatalf("kubectl says %q, %v", line, err)
	}
	address := net.JoinHostPort("127.0.0.1", found[1])
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			want := strings.Repeat(fmt.Sprint(i), 1000)
			body, err := s.node.get(t.Context(), "http://"+address+"/echo?msg="+want)
			if err != nil || string(body) != want {
				t.Errorf("request %d: %d bytes, %v", i, len(body), err)
			}
		})
	}
	all.Wait()
}

// TestCopy brings files into a container and back.
func TestCopy(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.ready("p")
	dir := filepath.Join(s.hostDir(), "cp")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("berth "), 1<<19) // 3 MiB
	for name, data := range map[string][]byte{"big": big, "sub/small": []byte("s")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	s.kubectl("cp", dir, "p:/tmp/in")
	s.says("p", fmt.Sprintf("%x s 640", sha256.Sum256(big)), "echo $(sha256sum </tmp/in/big | cut -d' ' -f1) $(cat /tmp/in/sub/small) $(stat -c %a /tmp/in/big)")
	s.kubectl("cp", "p:/tmp/in", dir+"-back")
	if got, err := os.ReadFile(dir + "-back/big"); err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}
