package pod_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// fdsOf are the descriptors of a process, by number, as the host sees them.
func fdsOf(t *testing.T, pid int) map[int]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]string{}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if out[fd], err = os.Readlink(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// wantStdio fails the test unless a process has 0, 1 and 2 alone, none of
// which leads to a directory, and works inside of its root.
func wantStdio(t *testing.T, what string, pid int) {
	t.Helper()
	fds := fdsOf(t, pid)
	for fd := range 3 {
		if _, ok := fds[fd]; !ok {
			t.Errorf("%s lacks descriptor %d: %v", what, fd, fds)
		}
		delete(fds, fd)
		if st, err := os.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); err == nil && st.IsDir() {
			t.Errorf("%s has a directory for descriptor %d", what, fd)
		}
	}
	if len(fds) > 0 {
		t.Errorf("%s has more descriptors than its stdio: %v", what, fds)
	}
}

// programPid finds the process of a container that runs with a last argument.
func programPid(t *testing.T, containerPid int, argument string) int {
	t.Helper()
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", containerPid))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		dirs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs {
			line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
			ns, _ := os.Readlink(filepath.Join(dir, "ns/mnt"))
			if ns == own && strings.HasSuffix(string(line), "\x00"+argument+"\x00") {
				pid, err := strconv.Atoi(filepath.Base(dir))
				if err != nil {
					t.Fatal(err)
				}
				return pid
			}
		}
	}
	t.Fatalf("no process of the container ends in %s", argument)
	return 0
}

// execLong executes a sleep for a number of seconds that tells it from others
// and gives its pid on the host.
func (n *node) execLong(t *testing.T, id string, tty bool) int {
	t.Helper()
	seconds := "100001"
	if tty {
		seconds = "100002"
	}
	s, err := n.ExecStream(t.Context(), pod.ViewAll, id, []string{"/bin/sleep", seconds}, pod.Stdio{TTY: tty, Stdin: tty, Stdout: true, Stderr: !tty})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	st, err := n.Container(pod.ViewAll, id)
	if err != nil {
		t.Fatal(err)
	}
	return programPid(t, st.Pid, seconds)
}

// T-FD. CVE-2024-21626, CVE-2016-9962: no descriptor of the shim, of the
// daemon or of the host's file system comes into a container.
func TestProcessesHaveTheirStdioOnly(t *testing.T) {
	groups(t, func(t *testing.T, g pod.ShimGroup) {
		n := newNode(t, g)
		for name, change := range map[string]func(*spec.Pod, *spec.Container){
			"plain":      func(*spec.Pod, *spec.Container) {},
			"stdin":      func(_ *spec.Pod, c *spec.Container) { c.Stdin = true },
			"terminal":   func(_ *spec.Pod, c *spec.Container) { c.TTY, c.Stdin = true, true },
			"privileged": privileged,
			"mapped":     inUserns,
		} {
			_, id := n.start(t, name, change)
			st, err := n.Container(pod.ViewAll, id)
			if err != nil {
				t.Fatal(err)
			}
			programPid(t, st.Pid, "600") // before, it is still libcontainer's
			wantStdio(t, name+": the first process", st.Pid)
			for _, tty := range []bool{false, true} {
				wantStdio(t, fmt.Sprintf("%s: an executed process (terminal %v)", name, tty), n.execLong(t, id, tty))
			}
		}
	})
}

// T-FD. CVE-2024-21626: a working directory that leads through a descriptor
// of the runtime would be a directory of the host.
func TestWorkingDirectoryIsInside(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("cwd"))
	if err != nil {
		t.Fatal(err)
	}
	n.images.fill = func(dir string) error { return os.Symlink("/proc/self/fd/8", filepath.Join(dir, "link")) }
	dirs := []string{"/made/by/the/runtime", "/link", "../../../..", "/proc/1/cwd/..", "/proc/self/root"}
	for fd := 3; fd < 20; fd++ {
		dirs = append(dirs, fmt.Sprintf("/proc/self/fd/%d", fd), fmt.Sprintf("/proc/self/fd/%d/../..", fd))
	}
	for i, dir := range dirs {
		c := containerConfig(fmt.Sprintf("main-%d", i), "/bin/sleep", "600")
		c.WorkingDir = dir
		id, err := n.Create(t.Context(), pod.ViewAll, podID, c)
		if err != nil {
			continue // refused: no process
		}
		st, err := n.Container(pod.ViewAll, id)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context(), pod.ViewAll, id); err != nil {
			continue
		}
		programPid(t, st.Pid, "600")
		wantInside(t, "the first process in "+dir, st.Pid)
		wantInside(t, "an executed process in "+dir, n.execLong(t, id, false))
		if err := n.RemoveContainer(t.Context(), pod.ViewAll, id); err != nil {
			t.Error(err)
		}
	}
}

// wantInside fails the test unless the working directory of a process is on
// one of the mounts that can be reached from its root.
func wantInside(t *testing.T, what string, pid int) {
	t.Helper()
	cwd, err := os.OpenFile(fmt.Sprintf("/proc/%d/cwd", pid), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cwd.Close() }()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", cwd.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(info), "mnt_id:\t")
	mnt, _, _ := strings.Cut(rest, "\n")
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	if !ok || !strings.Contains("\n"+string(mounts), "\n"+mnt+" ") {
		t.Errorf("%s works on mount %q, which is not the container's", what, mnt)
	}
}

// T-FD. CVE-2019-5736: what becomes a process of a container is the runtime's
// own program until it executes the container's. A privileged container that
// sees it in that time still cannot write to it.
func TestOurProgramIsNotWritable(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.start(t, "attacker", func(p *spec.Pod, c *spec.Container) {
		privileged(p, c)
		c.Command = []string{"/bin/sh", "-c", `while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in
			*memfd*) : >>/seen; (echo evil >>$p/exe) 2>/dev/null && echo $p >>/written;; esac; done; done`}
	})
	root := filepath.Join(n.images.root, id)
	seen := func() bool { _, err := os.Stat(filepath.Join(root, "seen")); return err == nil }
	for i := 0; !seen(); i++ {
		if i == 1000 {
			t.Fatal("the attacker never saw the runtime's program: this test shows nothing")
		}
		n.wantSh(t, id, "echo $0", "/bin/sh")
	}
	for range 20 {
		n.wantSh(t, id, "echo $0", "/bin/sh")
	}
	if b, err := os.ReadFile(filepath.Join(root, "written")); err == nil {
		t.Errorf("the attacker wrote to the program of %s", b)
	}

	pid := n.shim(t).Pid
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if want := unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL; err != nil || seals&want != want {
		t.Errorf("the shim's program has the seals %#x, %v; want %#x", seals, err, want)
	}
}
