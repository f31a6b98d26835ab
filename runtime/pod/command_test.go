package pod_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// What a command says of itself goes before what its container says, and what
// it leaves open is the container's.
func TestExecCommand(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.images.fill = func(dir string) error {
		if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nkeeper:x:7:8::/bin:/bin/sh\n"), 0o644)
	}
	_, id := n.up(t, "exec", "/bin/sleep", "1000")
	for name, tc := range map[string]struct {
		cmd  pod.Command
		out  string
		kind errkind.Kind
	}{
		"nothing":         {cmd: pod.Command{Args: []string{"/bin/sh", "-c", "echo $HOME $PWD"}}, out: "/root /\n"},
		"user by name":    {cmd: pod.Command{Args: []string{"/bin/sh", "-c", "echo $HOME $(cat /proc/self/status | while read k v _; do case $k in Uid:|Gid:) echo $v;; esac; done)"}, User: "keeper"}, out: "/bin 7 8\n"},
		"user and group":  {cmd: pod.Command{Args: []string{"/bin/sh", "-c", "echo $(cat /proc/self/status | while read k v _; do case $k in Uid:|Gid:) echo $v;; esac; done)"}, User: "9:10"}, out: "9 10\n"},
		"variables":       {cmd: pod.Command{Args: []string{"/bin/sh", "-c", "echo $A $PATH"}, Env: []string{"A=b=c", "PATH=/bin"}}, out: "b=c /bin\n"},
		"directory":       {cmd: pod.Command{Args: []string{"/bin/sh", "-c", "echo $PWD"}, Dir: "/bin"}, out: "/bin\n"},
		"no such user":    {cmd: pod.Command{Args: []string{"/bin/sh"}, User: "nobody-here"}, kind: errkind.InvalidArgument},
		"no variable":     {cmd: pod.Command{Args: []string{"/bin/sh"}, Env: []string{"novalue"}}, kind: errkind.InvalidArgument},
		"relative":        {cmd: pod.Command{Args: []string{"/bin/sh"}, Dir: "bin"}, kind: errkind.InvalidArgument},
		"nothing to run":  {cmd: pod.Command{}, kind: errkind.InvalidArgument},
		"NUL in variable": {cmd: pod.Command{Args: []string{"/bin/sh"}, Env: []string{"A=\x00"}}, kind: errkind.InvalidArgument},
	} {
		s, err := n.ExecCommand(t.Context(), pod.ViewAll, id, tc.cmd, pod.Stdio{Stdout: true})
		if tc.out == "" {
			if errkind.Of(err) != tc.kind {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if out, code := talk(t, s, ""); out != tc.out || code != 0 {
			t.Errorf("%s: %q and %d, want %q", name, out, code, tc.out)
		}
		s.Close()
	}
}

// Who attaches before the start misses nothing.
func TestAttachBeforeTheStart(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	ctx := t.Context()
	podID, err := n.Run(ctx, pod.ViewAll, podConfig("early"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tty := range map[string]bool{"pipes": false, "terminal": true} {
		cfg := containerConfig(name, "/bin/echo", "first")
		cfg.TTY = tty
		id, err := n.Create(ctx, pod.ViewAll, podID, cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := n.AttachStream(ctx, pod.ViewAll, id, pod.Stdio{Stdout: true})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := n.Start(ctx, pod.ViewAll, id); err != nil {
			t.Fatal(err)
		}
		want := "first\n"
		if tty {
			want = "first\r\n"
		}
		if out, _ := talk(t, s, ""); out != want {
			t.Errorf("%s: %q", name, out)
		}
		s.Close()
	}
}
