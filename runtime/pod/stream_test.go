package pod_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// talk writes input, ends it, and returns all output and the code.
func talk(t *testing.T, s pod.Session, input string) (string, int32) {
	t.Helper()
	if in := s.Stdin(); in != nil {
		if _, err := io.WriteString(in, input); err != nil {
			t.Error(err)
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
	out := make(chan string)
	go func() {
		b, err := io.ReadAll(s.Stdout())
		if err != nil {
			t.Error(err)
		}
		out <- string(b)
	}()
	code, err := s.Wait(t.Context())
	if err != nil {
		t.Error(err)
	}
	return <-out, code
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func TestExecStreams(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "exec", "/bin/sleep", "1000")
	before := descriptors(t)
	for name, tc := range map[string]struct {
		script string
		want   pod.Stdio
		out    string
		code   int32
	}{
		"stdin and a code":           {"cat; exit 7", pod.Stdio{Stdin: true, Stdout: true}, "typed\n", 7},
		"no stdin":                   {"cat; echo end", pod.Stdio{Stdout: true}, "end\n", 0},
		"a child that keeps stdout":  {"sleep 600 & echo end", pod.Stdio{Stdout: true}, "end\n", 0},
		"a terminal":                 {"read x; echo got $x; exit 5", pod.Stdio{TTY: true, Stdin: true, Stdout: true}, "typed\r\ngot typed\r\n", 5},
		"a child that keeps the tty": {"trap '' HUP; sleep 600 & echo end", pod.Stdio{TTY: true, Stdout: true}, "end\r\n", 0},
	} {
		s, err := n.ExecStream(t.Context(), pod.ViewAll, id, []string{"/bin/sh", "-c", tc.script}, tc.want)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if out, code := talk(t, s, "typed\n"); out != tc.out || code != tc.code {
			t.Errorf("%s: %q and %d, want %q and %d", name, out, code, tc.out, tc.code)
		}
		s.Close()
	}
	if _, err := n.ExecStream(t.Context(), pod.ViewAll, id, []string{"/no/such"}, pod.Stdio{TTY: true, Stdin: true}); err == nil {
		t.Error("a program that does not exist runs")
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	if err := n.StopContainer(t.Context(), pod.ViewAll, id, 0); err != nil {
		t.Fatal(err)
	}
	n.ended(t, id)
	if _, err := n.ExecStream(t.Context(), pod.ViewAll, id, []string{"/bin/sh"}, pod.Stdio{Stdout: true}); errkind.Of(err) != errkind.FailedPrecondition {
		t.Errorf("exec in a container that has ended: %v", err)
	}
}

func TestAttachStreams(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	ctx := t.Context()
	podID, err := n.Run(ctx, pod.ViewAll, podConfig("attach"))
	if err != nil {
		t.Fatal(err)
	}
	const script = "while read x; do echo got $x; done; echo end; exit 3"
	for name, tc := range map[string]struct {
		tty bool
		in  string
		out string
	}{
		"pipes":    {false, "one\n", "got one\nend\n"},
		"terminal": {true, "one\n\x04", "one\r\ngot one\r\nend\r\n"},
	} {
		cfg := containerConfig(name, "/bin/sh", "-c", script)
		cfg.TTY, cfg.Stdin, cfg.StdinOnce = tc.tty, true, true
		id, err := n.Create(ctx, pod.ViewAll, podID, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(ctx, pod.ViewAll, id); err != nil {
			t.Fatal(err)
		}
		before := descriptors(t)
		s, err := n.AttachStream(ctx, pod.ViewAll, id, pod.Stdio{Stdin: true, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Resize(111, 33); err != nil {
			t.Error(err)
		}
		if out, _ := talk(t, s, tc.in); out != tc.out {
			t.Errorf("%s: %q, want %q", name, out, tc.out)
		}
		s.Close()
		if st := n.ended(t, id); st.ExitCode != 3 {
			t.Errorf("%s: exit code %d", name, st.ExitCode)
		}
		if after := descriptors(t); after > before {
			t.Errorf("%s: %d descriptors, %d before", name, after, before)
		}
	}
}

func TestPortForwardDialsInsideThePod(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, _ := n.up(t, "forward", "/bin/sleep", "1000")
	st, err := n.Pod(pod.ViewAll, podID)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		var ln net.Listener
		err := netns.Do(st.Netns, func() (err error) {
			ln, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(ln.Addr().(*net.TCPAddr).Port)
		conn, err := n.PortForward(t.Context(), pod.ViewAll, podID, port)
		if err != nil {
			t.Fatal(err)
		}
		far, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = far.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = io.WriteString(conn, "hello")
		err = errors.Join(err, conn.(*net.TCPConn).CloseWrite())
		if got, rerr := io.ReadAll(far); string(got) != "hello" || errors.Join(err, rerr) != nil {
			t.Errorf("%s: %q, %v, %v", host, got, err, rerr)
		}
		for _, c := range []io.Closer{conn, far, ln} {
			_ = c.Close()
		}
		if conn, err := n.PortForward(t.Context(), pod.ViewAll, podID, port); err == nil {
			_ = conn.Close()
			t.Error("a port that nobody listens on is forwarded")
		}
	}
	if _, err := n.PortForward(t.Context(), pod.ViewKubelet, podID, 1); errkind.Of(err) != errkind.NotFound {
		t.Errorf("through the kubelet's socket: %v", err)
	}
	if err := n.Stop(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	if _, err := n.PortForward(t.Context(), pod.ViewAll, podID, 1); errkind.Of(err) != errkind.FailedPrecondition {
		t.Errorf("a stopped pod: %v", err)
	}
}
