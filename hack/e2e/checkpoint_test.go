//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// counter counts in its memory, its file and its log.
const counter = `i=0; while :; do i=$((i+1)); echo $i >/count; echo tick $i; sleep 0.2; done`

// needCRIU skips where CRIU is absent or has no use for the kernel: Debian 12's
// needs one before 6.13, such as the guest's of hack/vm.
func needCRIU(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("CRIU does not work here, make test-checkpoint has a guest where it does: %v: %s", err, lab.Tail(string(out), 3))
	}
}

// TestCheckpoint saves a container, which goes on, and then the whole pod. CRIU
// itself brings the saved container back to life: it counts on from where it was.
// RestorePod does so with the pod, after it is gone.
func TestCheckpoint(t *testing.T) {
	needCRIU(t)
	n := newNode(t, lab.Options{Config: "checkpoint.enabled = true"})
	n.crictl("pull", n.shell)
	sandbox := n.podConfig("saved")
	pod, first, err := n.RunPod(t.Context(), sandbox, lab.ContainerConfig("first", n.shell, "sh", "-c", counter))
	if err != nil {
		t.Fatal(err)
	}
	like := likeTheKubelets(n.shell)
	made, err := n.runtime().CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: pod, Config: like, SandboxConfig: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	second := made.ContainerId
	if _, err := n.runtime().StartContainer(t.Context(), &criv1.StartContainerRequest{ContainerId: second}); err != nil {
		t.Fatal(err)
	}
	n.countsOn(first)
	n.countsOn(second)

	archive := filepath.Join(n.Dir, "first.tar")
	if _, err := n.runtime().CheckpointContainer(t.Context(), &criv1.CheckpointContainerRequest{ContainerId: first, Location: archive}); err != nil {
		t.Fatalf("%v\n%s", err, n.DaemonLog())
	}
	n.countsOn(first)
	saved := unpackCheckpoint(t, archive)
	n.reanimate(first, saved)

	dir := filepath.Join(n.Dir, "pod")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime().CheckpointPod(t.Context(), &criv1.CheckpointPodRequest{PodSandboxId: pod, OutputPath: dir, ContainerIds: []string{second, first}}); err != nil {
		t.Fatalf("%v\n%s", err, n.DaemonLog())
	}
	n.countsOn(first)
	n.countsOn(second)
	var index struct {
		Containers []struct{ Name, ID, Archive string }
	}
	b, err := os.ReadFile(filepath.Join(dir, "pod.json"))
	if err == nil {
		err = json.Unmarshal(b, &index)
	}
	if err != nil || len(index.Containers) != 2 || index.Containers[0].Name != "first" || index.Containers[1].ID != second {
		t.Fatalf("pod.json is %s, %v", b, err)
	}
	for _, c := range index.Containers {
		unpackCheckpoint(t, filepath.Join(dir, c.Archive))
	}
	if out, err := n.Berth(t.Context(), "check"); err != nil {
		t.Errorf("after the checkpoints: %v: %s", err, out)
	}
	at := map[string]int{}
	for name, id := range map[string]string{"first": first, "second": second} {
		for at[name] == 0 { // the counter may be writing it
			at[name] = n.count(id)
		}
	}
	if err := n.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	sandbox.Metadata.Uid += "-restored"
	sandbox.LogDirectory += "-restored"
	n.restorePod(dir, sandbox, []*criv1.ContainerConfig{like, lab.ContainerConfig("first", n.shell, "sh", "-c", counter)}, at)
}

// likeTheKubelets is a counter with the rights that the kubelet gives by default,
// and with fewer.
func likeTheKubelets(image string) *criv1.ContainerConfig {
	c := lab.ContainerConfig("second", image, "sh", "-c", counter)
	sc := c.Linux.SecurityContext
	sc.NoNewPrivs = true
	sc.Seccomp = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}
	sc.Capabilities = &criv1.Capability{DropCapabilities: []string{"NET_RAW", "SYS_CHROOT"}}
	sc.MaskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
		"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	sc.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	c.Linux.Resources = &criv1.LinuxContainerResources{MemoryLimitInBytes: 256 << 20, CpuShares: 512}
	c.Envs = []*criv1.KeyValue{{Key: "A", Value: []byte("b")}}
	return c
}

// restorePod restores the counters of a pod that is gone: created, and once they
// are started they count on from where they were saved, with the rights that they
// had, in the new pod, under the runtime's hands like all others.
func (n *node) restorePod(dir string, sandbox *criv1.PodSandboxConfig, configs []*criv1.ContainerConfig, latest map[string]int) {
	t, rt := n.t, n.runtime()
	t.Helper()
	r, err := rt.RestorePod(t.Context(), &criv1.RestorePodRequest{CheckpointPath: dir, Config: sandbox, ContainerConfigs: configs})
	if err != nil {
		t.Fatalf("%v\n%s", err, n.DaemonLog())
	}
	if len(r.RestoredContainers) != 2 || r.RestoredContainers[0].Name != "second" {
		t.Fatalf("restored are %v", r.RestoredContainers)
	}
	for _, c := range r.RestoredContainers {
		st, err := rt.ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: c.ContainerId})
		if err != nil || st.Status.State != criv1.ContainerState_CONTAINER_CREATED || st.Status.StartedAt != 0 {
			t.Errorf("before its start %s is %v, %v", c.Name, st, err)
		}
		if at := n.count(c.ContainerId); at > latest[c.Name] { // it may have been saved while it wrote
			t.Errorf("before its start %s has counted to %d, and had come to %d when it was removed", c.Name, at, latest[c.Name])
		}
		if _, err := rt.StartContainer(t.Context(), &criv1.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
			log, _ := os.ReadFile(filepath.Join(n.Root, "volumes", c.ContainerId, "saved", "restore.log"))
			t.Fatalf("%v\n%s\n%s", err, lab.Tail(string(log), 25), lab.Tail(n.DaemonLog(), 5))
		}
		n.countsOn(c.ContainerId)
		if err := lab.Eventually(t.Context(), time.Minute, func() error {
			log, err := os.ReadFile(filepath.Join(sandbox.LogDirectory, c.Name+".log"))
			if err != nil {
				return err
			}
			var tick int
			_, line, _ := strings.Cut(string(log), " stdout F ")
			if _, err := fmt.Sscanf(line, "tick %d\n", &tick); err != nil || tick < 2 || tick > latest[c.Name]+1 {
				return fmt.Errorf("its log begins with tick %d, %w, and it had come to %d: %s", tick, err, latest[c.Name], lab.Tail(string(log), 3))
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		n.sameRights(c.ContainerId)
	}
	if out, err := n.Berth(t.Context(), "check"); err != nil {
		t.Errorf("after the restore: %v: %s", err, out)
	}
	second := r.RestoredContainers[0].ContainerId
	if _, err := rt.StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: second}); err != nil {
		t.Error(err)
	}
	st, err := rt.ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: second})
	if err != nil || st.Status.State != criv1.ContainerState_CONTAINER_EXITED || st.Status.ExitCode != 137 {
		t.Errorf("after its stop it is %v, %v", st, err)
	}
	if err := n.RemovePod(t.Context(), r.PodSandboxId); err != nil {
		t.Error(err)
	}
	if out, err := n.Berth(t.Context(), "check"); err != nil {
		t.Errorf("after the restored pod: %v: %s", err, out)
	}
}

// sameRights holds the restored first process to one that is executed beside it,
// which has what the configuration says: rights, cgroup, namespaces and masks.
func (n *node) sameRights(id string) {
	n.t.Helper()
	ask := func(pid string) string {
		return n.shOut(id, `for k in Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp; do grep "^$k:" /proc/`+pid+`/status; done
			cat /proc/`+pid+`/cgroup; for ns in cgroup ipc mnt net pid user uts time; do readlink /proc/`+pid+`/ns/$ns; done`)
	}
	if first, exec := ask("1"), ask("self"); first != exec {
		n.t.Errorf("the restored process has\n%s\nan exec\n%s", first, exec)
	}
	if groups := n.shOut(id, "cat /proc/1/cgroup; ls -d /sys/fs/cgroup/lab* /sys/fs/cgroup/berth* 2>/dev/null"); strings.Contains(groups, id) || strings.Contains(groups, "/sys/fs") {
		n.t.Errorf("the restored process sees the host's cgroups: %s", groups)
	}
}

// shOut is what a shell in the container prints.
func (n *node) shOut(id, script string) string {
	n.t.Helper()
	r, err := n.runtime().ExecSync(n.t.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Timeout: 60})
	if err != nil {
		n.t.Fatal(err)
	}
	return string(r.Stdout) + string(r.Stderr)
}

// count is how far a counter has come.
func (n *node) count(id string) int {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.State, "containers", id, "rootfs/count"))
	if err != nil {
		n.t.Fatal(err)
	}
	i, _ := strconv.Atoi(strings.TrimSpace(string(b))) // it may be empty for a moment
	return i
}

// countsOn waits until a counter has come further.
func (n *node) countsOn(id string) {
	n.t.Helper()
	var at int
	err := lab.Eventually(n.t.Context(), time.Minute, func() error {
		at = max(at, 1)
		if _, err := os.Stat(filepath.Join(n.State, "containers", id, "rootfs/count")); err != nil {
			return err
		}
		if now := n.count(id); now > at+1 && at > 1 {
			return nil
		} else if at == 1 {
			at = now
		}
		return errors.New("it does not count on")
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

// unpackCheckpoint unpacks the archive of a counter and looks at what is in it.
func unpackCheckpoint(t *testing.T, archive string) (dir string) {
	t.Helper()
	if st, err := os.Stat(archive); err != nil || st.Mode() != 0o600 {
		t.Fatalf("%s: %v, %v", archive, st, err)
	}
	dir = t.TempDir()
	if out, err := exec.Command("tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"spec.dump", "config.dump", "status", "bind.mounts", "rootfs-diff.tar", "dump.log", "stats-dump",
		"checkpoint/descriptors.json", "checkpoint/pstree.img", "checkpoint/inventory.img", "checkpoint/core-1.img"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	return dir
}

// reanimate lets CRIU restore a checkpoint of a container beside it, in its
// pod, and waits until it counts on from where it was saved.
func (n *node) reanimate(id, saved string) {
	t := n.t
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, args := range [][]string{{"cp", "-a", filepath.Join(n.State, "containers", id, "rootfs"), root}, {"mount", "--bind", root, root}, {"mount", "--make-private", root}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	defer func() { _ = unix.Unmount(root, unix.MNT_DETACH) }()
	at, size := n.savedCount(saved)
	// As long as it was: it may have been open when it was saved.
	if err := os.WriteFile(filepath.Join(root, "count"), bytes.Repeat([]byte("0"), size), 0o644); err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Linux  struct{ Namespaces []struct{ Type, Path string } }
		Mounts []struct{ Destination, Type, Source string }
	}
	var stdio []string
	for name, v := range map[string]any{"spec.dump": &spec, "checkpoint/descriptors.json": &stdio} {
		b, err := os.ReadFile(filepath.Join(saved, name))
		if err == nil {
			err = json.Unmarshal(b, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pidfile := filepath.Join(saved, "pid")
	cmd := exec.CommandContext(ctx, "criu", "restore", "--images-dir", filepath.Join(saved, "checkpoint"), "--work-dir", saved, "--log-file", "restore.log", "-v4",
		"--root", root, "--manage-cgroups=ignore", "--file-locks", "--tcp-established", "--restore-detached", "--pidfile", pidfile)
	for i, name := range stdio {
		if !strings.HasPrefix(name, "file[") {
			continue
		}
		fifo := filepath.Join(saved, fmt.Sprint("fifo", i))
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		cmd.Args = append(cmd.Args, "--inherit-fd", fmt.Sprintf("fd[%d]:%s", 2+len(cmd.ExtraFiles), name))
	}
	for _, ns := range spec.Linux.Namespaces {
		switch {
		case ns.Type == "network":
			f, err := os.Open(ns.Path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
			cmd.Args = append(cmd.Args, "--inherit-fd", fmt.Sprintf("fd[%d]:extRootNetNS", 2+len(cmd.ExtraFiles)))
		case ns.Path != "":
			cmd.Args = append(cmd.Args, "--join-ns", ns.Type+":"+ns.Path)
		}
	}
	for _, m := range spec.Mounts {
		if m.Type == "bind" {
			cmd.Args = append(cmd.Args, "--external", "mnt["+m.Destination+"]:"+m.Source)
		}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(saved, "restore.log"))
		t.Fatalf("CRIU cannot restore what was saved: %v: %s\n%s", err, out, lab.Tail(string(log), 15))
	}
	b, err := os.ReadFile(pidfile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(pid, unix.SIGKILL) }()
	if err := lab.Eventually(ctx, time.Minute, func() error {
		b, err := os.ReadFile(filepath.Join(root, "count"))
		if now, _ := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && now > at {
			return nil
		}
		return fmt.Errorf("the restored container counts %s, %v, and had come to %d", b, err, at)
	}); err != nil {
		t.Error(err)
	}
}

// savedCount reads from a checkpoint how far the counter had come, and how many
// bytes say so: none if it was just about to write them.
func (n *node) savedCount(saved string) (count, size int) {
	n.t.Helper()
	f, err := os.Open(filepath.Join(saved, "rootfs-diff.tar"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var names []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			n.t.Fatal(err)
		}
		names = append(names, h.Name)
		if h.Name == "./count" {
			var b bytes.Buffer
			if _, err := b.ReadFrom(r); err != nil {
				n.t.Fatal(err)
			}
			i, _ := strconv.Atoi(strings.TrimSpace(b.String()))
			return i, b.Len()
		}
	}
	slices.Sort(names)
	n.t.Fatalf("no count among %q", names)
	return 0, 0
}
