//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
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
	"github.com/berth-runtime/berth/hack/logload"
)

// TestLogUnderLoad rotates the log of a container that writes at full speed,
// kills the daemon twice meanwhile, and reads everything back. `make soak` does
// it with more.
func TestLogUnderLoad(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	load := logload.Load{Name: "logload", Bytes: 24 << 20, RotateEvery: 50 * time.Millisecond, DaemonKills: 2}
	r, err := load.Run(t.Context(), n.Lab, n.shell)
	t.Logf("%+v", r)
	if err != nil {
		t.Fatal(err)
	}
	if r.TakenBack == 0 || r.Rotations < 4 {
		t.Errorf("too little happened: %+v", r)
	}
}

// restless prints numbers as fast as it can, and does not end when it is told to.
const restless = `trap '' TERM; i=0; while :; do echo $i; i=$((i+1)); done`

// counted reads the logs of one that counts, in this order, and gives the next number.
func counted(t *testing.T, paths ...string) (next int) {
	t.Helper()
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b[:bytes.LastIndexByte(b, '\n')+1]) {
			if _, text, _ := strings.Cut(string(line), " stdout F "); text != strconv.Itoa(next)+"\n" {
				t.Fatalf("%s has %q after number %d", path, line, next-1)
			}
			next++
		}
	}
	return next
}

// TestRotationDuringStop rotates while a stop waits for a container that goes
// on printing.
func TestRotationDuringStop(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	_, id := n.run("counting", lab.ContainerConfig("c", n.shell, "sh", "-c", restless))
	path := n.status(id).LogPath
	// Before its first line the program does not withstand a signal yet.
	err := lab.Eventually(t.Context(), time.Minute, func() error {
		if fi, err := os.Stat(path); err != nil || fi.Size() == 0 {
			return fmt.Errorf("%s is empty (%v)", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() {
		_, err := n.runtime().StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: id, Timeout: 2})
		stopped <- err
	}()
	var paths []string
	for over := false; !over; {
		select {
		case err := <-stopped:
			if err != nil {
				t.Fatal(err)
			}
			over = true
			continue
		case <-time.After(50 * time.Millisecond):
		}
		rotated := fmt.Sprintf("%s.%d", path, len(paths))
		if err := os.Rename(path, rotated); err != nil {
			t.Fatal(err)
		}
		if _, err := n.runtime().ReopenContainerLog(t.Context(), &criv1.ReopenContainerLogRequest{ContainerId: id}); err != nil {
			// It has ended; there is no new file.
			if err := os.Rename(rotated, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		paths = append(paths, rotated)
	}
	if len(paths) == 0 {
		t.Error("the log was not rotated while the stop waited")
	}
	if next := counted(t, append(paths, path)...); next == 0 {
		t.Error("nothing was logged")
	}
}

// FIFREEZE and FITHAW of linux/fs.h.
const (
	freeze = 0xc0045877
	thaw   = 0xc0045878
)

// TestLogDiskThatStalls freezes the disk of one container's log: the container
// waits, and nobody else does. Then it goes on where it was.
func TestLogDiskThatStalls(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	disk, dir := filepath.Join(n.Dir, "disk"), filepath.Join(n.Dir, "frozen")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 256<<20)); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{"mkfs.ext4", "-q", "-F", disk}, {"mount", "-o", "loop", disk, dir}} {
		if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs a loop device with ext4: %s: %v %s", argv[0], err, out)
		}
	}
	mounted, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	set := func(what uint) error { return unix.IoctlSetInt(int(mounted.Fd()), what, 0) }
	t.Cleanup(func() {
		_ = set(thaw)
		_ = mounted.Close()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})

	config := n.podConfig("stalled")
	config.LogDirectory = dir
	slow := `i=0; while :; do echo $i; i=$((i+1)); [ $((i%100)) != 0 ] || sleep 0.01; done`
	pod, id, err := n.RunPod(t.Context(), config, lab.ContainerConfig("c", n.shell, "sh", "-c", slow))
	if err != nil {
		t.Fatal(err)
	}
	_, other := n.run("other", lab.ContainerConfig("c", n.shell, "sh", "-c", slow))
	path, others := n.status(id).LogPath, n.status(other).LogPath
	grows := func(path string) error {
		before := size(t, path)
		return lab.Eventually(t.Context(), 20*time.Second, func() error {
			if size(t, path) == before {
				return fmt.Errorf("%s stands at %d bytes", path, before)
			}
			return nil
		})
	}
	if err := errors.Join(grows(path), grows(others)); err != nil {
		t.Fatal(err)
	}
	if err := set(freeze); err != nil {
		t.Skipf("needs a file system that can be frozen: %v", err)
	}
	// The FIFO is full when the container has printed that much more.
	time.Sleep(500 * time.Millisecond)
	stands := size(t, path)
	for range 3 {
		if err := grows(others); err != nil {
			t.Errorf("the other container's log: %v", err)
		}
		n.status(id)
		n.crictl("ps")
		for _, c := range []string{id, other} {
			r, err := n.runtime().ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: c, Cmd: []string{"true"}, Timeout: 20})
			if err != nil || r.ExitCode != 0 {
				t.Errorf("exec beside a disk that stalls: %v, %v", r, err)
			}
		}
	}
	if now := size(t, path); now != stands {
		t.Errorf("the frozen log grew from %d to %d bytes", stands, now)
	}
	if err := set(thaw); err != nil {
		t.Fatal(err)
	}
	if err := grows(path); err != nil {
		t.Error(err)
	}
	if err := n.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if next := counted(t, path); next == 0 {
		t.Error("nothing was logged")
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}
