//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// stream starts crictl with a stdin that the test holds, and the other outputs
// in one buffer.
func (n *node) stream(args ...string) (*exec.Cmd, io.WriteCloser, *bytes.Buffer) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), filepath.Join(n.Clone, "hack/.cache/crictl"),
		append([]string{"--config", "/dev/null", "-t", "60s", "-r", "unix://" + n.Socket}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	return cmd, in, &out
}

// finish waits for a command of stream and gives its exit code.
func (n *node) finish(cmd *exec.Cmd) int {
	n.t.Helper()
	_ = cmd.Wait() // the code tells
	return cmd.ProcessState.ExitCode()
}

// descriptors counts those that the daemon has.
func (n *node) descriptors() int {
	n.t.Helper()
	fds, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(n.Pid()), "fd"))
	if err != nil {
		n.t.Fatal(err)
	}
	return len(fds)
}

// TestExec runs commands with their streams: what goes in, what comes out, and
// the code; then a terminal; then clients that vanish.
func TestExec(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	_, c := n.run("exec", lab.ContainerConfig("c", n.shell, "sleep", "1000"))

	if got := n.crictl("exec", c, "sh", "-c", "echo out; echo err >&2"); got != "out" {
		t.Errorf("exec: %q on stdout", got)
	}
	before := n.descriptors()

	cmd, in, out := n.stream("exec", "-i", c, "sh", "-c", "cat; exit 7")
	_, _ = io.WriteString(in, "typed\n")
	_ = in.Close()
	// crictl has one code for every failure, and tells the command's.
	if n.finish(cmd); !strings.Contains(out.String(), "typed\n") || !strings.Contains(out.String(), "exit code 7") {
		t.Errorf("exec -i: %q", out)
	}
	// Whatever the command wrote arrives, however much it is.
	if got := n.crictl("exec", c, "sh", "-c", "yes 0123456 | head -c 8388608"); len(got) != 8388607 {
		t.Errorf("exec: %d bytes of 8 MiB arrived", len(got))
	}
	if out, err := n.Crictl(t.Context(), "exec", c, "no-such-command"); err == nil {
		t.Errorf("a command that does not exist: %q", out)
	}
	// A child in the background holds the output open, not the call.
	n.crictl("exec", c, "sh", "-c", "sleep 600 & echo started")

	for range 3 {
		cmd, in, _ := n.stream("exec", "-i", c, "sh", "-c", "trap 'exit 0' PIPE; cat")
		n.eventually(func() error { return running(n, c, "cat") })
		_ = cmd.Process.Kill()
		n.finish(cmd)
		_ = in.Close()
		n.eventually(func() error { return gone(n, c, "cat") })
	}
	n.eventually(func() error {
		if now := n.descriptors(); now > before {
			return fmt.Errorf("the daemon has %d descriptors, %d before", now, before)
		}
		return nil
	})
}

// TestAttach joins a container that reads its stdin, which ends with the first
// client.
func TestAttach(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	config := lab.ContainerConfig("c", n.shell, "sh", "-c", "while read line; do echo got $line; done; echo end; exit 3")
	config.Stdin, config.StdinOnce = true, true
	_, c := n.run("attach", config)
	cmd, in, out := n.stream("attach", "-i", c)
	_, _ = io.WriteString(in, "one\ntwo\n")
	_ = in.Close()
	n.finish(cmd)
	if got := out.String(); !strings.Contains(got, "got one\ngot two\nend\n") {
		t.Errorf("attach: %q", got)
	}
	n.eventually(func() error { return exited(n, c, 3) })
	if out, err := n.Crictl(t.Context(), "attach", c); err == nil || !strings.Contains(err.Error()+out, "not running") {
		t.Errorf("attach to a container that has ended: %q, %v", out, err)
	}
}

// TestExecTerminal is a shell with a terminal whose size the client has told.
func TestExecTerminal(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	_, c := n.run("tty", lab.ContainerConfig("c", n.shell, "sleep", "1000"))
	master, slave := terminal(t, 33, 111)
	cmd := exec.CommandContext(t.Context(), filepath.Join(n.Clone, "hack/.cache/crictl"),
		"--config", "/dev/null", "-r", "unix://"+n.Socket, "exec", "-it", c, "sh")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	seen := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(master) // ends with EIO
		seen <- string(b)
	}()
	n.eventually(func() error { return running(n, c, "sh") })
	_, _ = io.WriteString(master, "tty; stty size; exit 5\n")
	n.finish(cmd)
	if out := <-seen; !strings.Contains(out, "/dev/pts/") || !strings.Contains(out, "33 111") || !strings.Contains(out, "exit code 5") {
		t.Errorf("exec -it: %q", out)
	}
}

// terminal makes a terminal of that size.
func terminal(t *testing.T, rows, columns uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0),
		unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}))
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// TestPortForward reaches a server in a pod, and one on the host's loopback
// through a pod on the host's network.
func TestPortForward(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.web)
	own, _ := n.run("web", lab.ContainerConfig("c", n.web))
	n.forwarded(own, 80)

	config := n.podConfig("host")
	config.Linux.SecurityContext = &criv1.LinuxSandboxSecurityContext{NamespaceOptions: &criv1.NamespaceOption{Network: criv1.NamespaceMode_NODE}}
	host := n.crictl("runp", n.file("host.json", config))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) }))
	defer server.Close()
	n.forwarded(host, server.Listener.Addr().(*net.TCPAddr).Port)
}

// forwarded gets the page from a port of a pod.
func (n *node) forwarded(pod string, remote int) {
	n.t.Helper()
	local, err := lab.FreePort()
	if err != nil {
		n.t.Fatal(err)
	}
	before := n.descriptors()
	cmd, _, out := n.stream("port-forward", pod, fmt.Sprintf("%d:%d", local, remote))
	n.eventually(func() error { return get(fmt.Sprintf("http://127.0.0.1:%d/", local), page) })
	// A client that has ended its own side gets its answer.
	n.eventually(func() error { return halfClosed(n.t.Context(), local) })
	_ = cmd.Process.Kill()
	n.finish(cmd)
	if n.t.Failed() {
		n.t.Logf("port-forward: %s", out)
	}
	n.eventually(func() error {
		if now := n.descriptors(); now > before {
			return fmt.Errorf("the daemon has %d descriptors, %d before", now, before)
		}
		return nil
	})
}

// halfClosed asks for the page, ends its own side and reads to the end.
func halfClosed(ctx context.Context, port int) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if err != nil || !strings.HasSuffix(string(got), page) {
		return fmt.Errorf("got %q, %w", got, err)
	}
	return nil
}

// running tells whether a process of that name runs in the container.
func running(n *node, container, name string) error {
	out, err := n.runtime().ExecSync(n.t.Context(), &criv1.ExecSyncRequest{ContainerId: container, Cmd: []string{"sh", "-c", "ps -o comm"}, Timeout: 20})
	if err != nil {
		return err
	}
	for _, l := range strings.Split(string(out.Stdout), "\n") {
		if strings.TrimSpace(l) == name {
			return nil
		}
	}
	return fmt.Errorf("no %s in %s: %s", name, container, out.Stdout)
}

func gone(n *node, container, name string) error {
	if running(n, container, name) == nil {
		return fmt.Errorf("%s still runs in %s", name, container)
	}
	return nil
}
