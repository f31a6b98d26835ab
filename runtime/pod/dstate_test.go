package pod_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// hangingDisk mounts a disk of its own and returns its mount point and what
// stops it: whoever writes to it then sleeps uninterruptibly until it goes on.
func hangingDisk(t *testing.T) (dir string, freeze, thaw func()) {
	t.Helper()
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("the kernel has no loop devices")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("there is no mkfs.ext4")
	}
	dir = filepath.Join(t.TempDir(), "disk")
	image := dir + ".img"
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 16<<20), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("the machine cannot have a disk in a file: %v: %v: %s", args, err, out)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	const fifreeze, fithaw = 0xc0045877, 0xc0045878
	frozen := false
	thaw = func() {
		if frozen {
			frozen = false
			_ = unix.IoctlSetInt(int(f.Fd()), fithaw, 0)
		}
	}
	t.Cleanup(func() {
		thaw()
		_ = f.Close()
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir, func() {
		frozen = true
		if err := unix.IoctlSetInt(int(f.Fd()), fifreeze, 0); err != nil {
			t.Fatal(err)
		}
	}, thaw
}

// A process that hangs in the kernel, where no signal reaches it, holds up no
// other container, list or status; its stop ends in bounded time and says why,
// and ends the container once the kernel lets it.
func TestAHangingProcessHoldsUpNobody(t *testing.T) {
	n := newVolumeNode(t)
	disk, freeze, thaw := hangingDisk(t)
	_, id := n.start(t, "hangs", func(_ *spec.Pod, c *spec.Container) {
		c.Command = []string{"/bin/sh", "-c", "while :; do echo x >/disk/file; sleep 0.01; done"}
		c.Mounts = []spec.Mount{hostMount("/disk", disk)}
	})
	_, other := n.up(t, "other", "/bin/sh", "-c", "trap 'exit 4' TERM; echo up >/up; while :; do sleep 0.05; done")
	n.file(t, other, "up")
	eventually(t, "the writer writes", func() bool { _, err := os.Stat(filepath.Join(disk, "file")); return err == nil })
	freeze()
	st, err := n.Container(pod.ViewAll, id)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process hangs", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", st.Pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		return strings.HasPrefix(rest, "D")
	})
	stopped := make(chan error, 1)
	go func() { stopped <- n.StopContainer(context.Background(), pod.ViewAll, id, 0) }()
	within(t, "what others do", func() {
		n.wantSh(t, other, "echo alive", "alive")
		if got := n.Containers(pod.ViewAll, pod.ContainerFilter{State: pod.StateRunning}); len(got) != 2 {
			t.Errorf("%d containers run, want 2", len(got))
		}
		_, third := n.up(t, "third", "/bin/sh", "-c", "exit 6")
		if st := n.ended(t, third); st.ExitCode != 6 {
			t.Errorf("exit %d, want 6", st.ExitCode)
		}
		if err := n.StopContainer(context.Background(), pod.ViewAll, other, time.Minute); err != nil {
			t.Error(err)
		}
		if st := n.ended(t, other); st.ExitCode != 4 {
			t.Errorf("exit %d, want 4", st.ExitCode)
		}
	})
	within(t, "the stop of what hangs", func() {
		if err := <-stopped; !errkind.Is(err, errkind.DeadlineExceeded) || !strings.Contains(err.Error(), "hang in the kernel") {
			t.Errorf("the stop of a process that hangs: %v", err)
		}
	})
	if st, err := n.Container(pod.ViewAll, id); err != nil || st.State != pod.StateRunning {
		t.Errorf("it is %+v, %v, and its process is there", st, err)
	}
	thaw()
	within(t, "the stop once it hangs no more", func() {
		if err := n.StopContainer(context.Background(), pod.ViewAll, id, 0); err != nil {
			t.Error(err)
		}
	})
	if st := n.ended(t, id); st.ExitCode != 137 {
		t.Errorf("exit %d, want 137", st.ExitCode)
	}
}
