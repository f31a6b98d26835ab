package pod_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// within fails the test if f hangs. The limit is far above what f may take.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s hangs", what)
	}
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it never happened", what)
		}
	}
}

// shim asks the node's shim who it is.
func (n *node) shim(t *testing.T) shimrpc.Info {
	t.Helper()
	info, err := shimrpc.Dial(filepath.Join(n.cfg.State, "shims", "node.sock")).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// Eight clients do anything to a few pods while the daemon is restarted under
// them. Nothing may be left, hang, or race.
func TestStress(t *testing.T) {
	groups(t, func(t *testing.T, g pod.ShimGroup) {
		n := newNode(t, g)
		ops := int64(480)
		if testing.Short() {
			ops = 60
		}
		var table atomic.Pointer[pod.Table]
		for round := range 3 {
			table.Store(n.Table)
			var left atomic.Int64
			left.Store(ops / 3)
			var wg sync.WaitGroup
			for i := range 8 {
				rnd := rand.New(rand.NewPCG(uint64(round), uint64(i)))
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						anyVerb(table.Load(), rnd)
					}
				})
			}
			// Half of the rounds end in the middle of things.
			within(t, "the daemon", func() {
				for left.Load() > 10 {
					time.Sleep(time.Millisecond)
				}
				if round%2 == 1 {
					wg.Wait()
				}
				n.Close()
				wg.Wait()
				n.boot(t)
			})
			for _, c := range n.Containers(pod.ViewAll, pod.ContainerFilter{}) {
				if c.State == pod.StateExited && (c.FinishedAt.Before(c.StartedAt) || c.FinishedAt.Before(c.CreatedAt)) {
					t.Errorf("the times of container %s are not in order: %v %v %v", c.ID, c.CreatedAt, c.StartedAt, c.FinishedAt)
				}
			}
		}
	})
}

// anyVerb does one thing. Errors are expected; hangs, races and leftovers not.
func anyVerb(n *pod.Table, rnd *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if rnd.IntN(6) == 0 {
		impatient, done := context.WithTimeout(ctx, time.Duration(rnd.IntN(30))*time.Millisecond)
		defer done()
		ctx = impatient
	}
	var podID, id string
	if all := n.Pods(pod.ViewAll, pod.PodFilter{}); len(all) > 0 {
		podID = all[rnd.IntN(len(all))].ID
	}
	if all := n.Containers(pod.ViewAll, pod.ContainerFilter{}); len(all) > 0 {
		id = all[rnd.IntN(len(all))].ID
	}
	cfg := podConfig(fmt.Sprintf("stress%d", rnd.IntN(4)))
	if cfg.Metadata.Name == "stress0" {
		cfg.Namespaces.PID = spec.ModePod
	}
	commands := [][]string{{"/bin/sleep", "600"}, {"/bin/echo", "short"}, {"/no/such"}, {"/bin/sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done"}}
	switch rnd.IntN(16) {
	case 0, 1, 2:
		_, _ = n.Run(ctx, pod.ViewAll, cfg)
	case 3, 4, 5:
		_, _ = n.Create(ctx, pod.ViewAll, podID, containerConfig(fmt.Sprintf("c%d", rnd.IntN(3)), commands[rnd.IntN(len(commands))]...))
	case 6, 7, 8:
		_ = n.Start(ctx, pod.ViewAll, id)
	case 9:
		_, _ = n.ExecSync(ctx, pod.ViewAll, id, []string{"/bin/sleep", "0.05"}, 40*time.Millisecond)
	case 10:
		_ = n.StopContainer(ctx, pod.ViewAll, id, time.Duration(rnd.IntN(3))*100*time.Millisecond)
	case 11:
		_ = n.RemoveContainer(ctx, pod.ViewAll, id)
	case 12:
		_ = n.Stop(ctx, pod.ViewAll, podID)
	case 13:
		_ = n.Remove(ctx, pod.ViewAll, podID)
	case 14:
		_ = n.Update(ctx, pod.ViewAll, id, spec.Resources{CPUShares: 512})
	case 15:
		_, _ = n.Container(pod.ViewAll, id)
		_, _ = n.StatsList(ctx, pod.ViewAll, pod.ContainerFilter{})
	}
}

// stubborn is a network that cannot detach for a while.
type stubborn struct {
	*noNetwork
	refuse atomic.Int64 // so many times
}

func (s *stubborn) Detach(ctx context.Context, l network.Lease, ns string) error {
	if s.refuse.Add(-1) >= 0 {
		return errors.New("plugin not found")
	}
	return s.noNetwork.Detach(ctx, l, ns)
}

// What a failed run could not give back is given back by stop, however often
// that takes: the client has nothing else to call.
func TestAFailedUndoIsTriedAgainByStop(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	net := &stubborn{noNetwork: n.network}
	n.Close()
	n.cfg.Network = net
	n.boot(t)
	n.network.fail = errors.New("no cable")
	net.refuse.Store(1 << 30)
	if _, err := n.Run(t.Context(), pod.ViewAll, podConfig("undo")); err == nil {
		t.Fatal("the run succeeded")
	}
	pods := n.Pods(pod.ViewAll, pod.PodFilter{})
	if len(pods) != 1 || pods[0].Ready {
		t.Fatalf("pods %v, want one that is not ready", pods)
	}
	if _, err := n.Run(t.Context(), pod.ViewAll, podConfig("undo")); !errkind.Is(err, errkind.AlreadyExists) {
		t.Fatalf("running it again: %v, want AlreadyExists", err)
	}
	if err := n.Stop(t.Context(), pod.ViewAll, pods[0].ID); err == nil {
		t.Fatal("the stop succeeded although the network refused")
	}
	if _, err := os.Stat(filepath.Join(n.cfg.NetnsDir, "berth-"+pods[0].ID)); err != nil {
		t.Errorf("the network namespace is needed to detach the pod: %v", err)
	}
	net.refuse.Store(0)
	if err := n.Stop(t.Context(), pod.ViewAll, pods[0].ID); err != nil {
		t.Fatal(err)
	}
	if len(n.network.attached) > 0 {
		t.Fatal("the pod is still attached")
	}
}

// What could not be given back is tried again without anybody's asking, also by
// the next daemon.
func TestAFailedStopIsTriedAgainByItself(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	net := &stubborn{noNetwork: n.network}
	n.Close()
	n.cfg.Network = net
	n.boot(t)
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("again"))
	if err != nil {
		t.Fatal(err)
	}
	net.refuse.Store(1 << 30)
	if err := n.Stop(t.Context(), pod.ViewAll, podID); err == nil {
		t.Fatal("the stop succeeded although the network refused")
	}
	n.boot(t)
	net.refuse.Store(2)
	within(t, "the stop", func() {
		for {
			n.network.mu.Lock()
			held := n.network.leases[podID] || n.network.attached[podID]
			n.network.mu.Unlock()
			if !held {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// unanswering is a network whose plugins do not answer when they shall detach.
type unanswering struct {
	*noNetwork
	answer chan struct{}
}

func (h *unanswering) Detach(ctx context.Context, l network.Lease, ns string) error {
	select {
	case <-h.answer:
		return h.noNetwork.Detach(ctx, l, ns)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// After a reboot the plugins of a cluster may not answer before the kubelet has
// started what they need: the daemon is there nevertheless, and ends the pods of
// before when they do.
func TestPodsThatCannotBeEndedDoNotHoldUpTheStart(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	net := &unanswering{n.network, make(chan struct{})}
	var ids []string
	for i := range 20 {
		id, err := n.Run(t.Context(), pod.ViewAll, podConfig(fmt.Sprintf("before%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	n.Close()
	n.cfg.Network = net
	within(t, "the start", func() { n.boot(t) })
	// Another boot: nothing of them is there any more.
	n.Close()
	n.cfg.BootID = "another boot"
	within(t, "the start after the reboot", func() { n.boot(t) })
	for _, p := range n.Pods(pod.ViewAll, pod.PodFilter{}) {
		if p.Ready {
			t.Errorf("pod %s is ready", p.ID)
		}
	}
	if _, err := n.Run(t.Context(), pod.ViewAll, podConfig("after")); err != nil {
		t.Errorf("a new pod: %v", err)
	}
	close(net.answer)
	for _, id := range ids {
		if err := n.Remove(t.Context(), pod.ViewAll, id); err != nil {
			t.Error(err)
		}
	}
	n.network.mu.Lock()
	defer n.network.mu.Unlock()
	if len(n.network.attached) != 1 {
		t.Errorf("attached: %v", n.network.attached)
	}
}

// A daemon that is told to end does not wait out a container's grace, and the
// container does not notice.
func TestCloseDoesNotWaitForGrace(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "grace", "/bin/sh", "-c", "trap '' TERM; echo > /ready; while :; do sleep 0.1; done")
	within(t, "the container's trap", func() {
		for {
			if _, err := os.Stat(filepath.Join(n.images.root, id, "ready")); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	stopped := make(chan error, 1)
	go func() { stopped <- n.StopContainer(context.Background(), pod.ViewAll, id, time.Hour) }()
	time.Sleep(50 * time.Millisecond)
	within(t, "Close", n.Close)
	if err := <-stopped; err == nil {
		t.Fatal("the stop claims success")
	}
	if _, err := n.Run(t.Context(), pod.ViewAll, podConfig("late")); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("a run after the end: %v, want Unavailable", err)
	}
	n.boot(t)
	if st, err := n.Container(pod.ViewAll, id); err != nil || st.State != pod.StateRunning {
		t.Fatalf("%+v, %v", st, err)
	}
}

// A start that the daemon's end interrupts goes on with the next daemon; it is
// not a start that failed.
func TestAnInterruptedStartGoesOn(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("interrupted"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("main", "/bin/sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	shim := n.shim(t).Pid
	freeze(t, shim)
	resume := sync.OnceFunc(func() { _ = unix.Kill(shim, unix.SIGCONT) })
	defer resume()
	started := make(chan error, 1)
	go func() { started <- n.Start(context.Background(), pod.ViewAll, id) }()
	time.Sleep(100 * time.Millisecond)
	within(t, "Close", n.Close)
	if err := <-started; err == nil {
		t.Fatal("the start claims success")
	}
	resume()
	n.boot(t)
	if st, err := n.Container(pod.ViewAll, id); err != nil || st.State != pod.StateRunning {
		t.Fatalf("%+v, %v", st, err)
	}
}

// freeze stops a process and returns when none of its threads runs any more,
// which is some time after kill returns.
func freeze(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	within(t, "SIGSTOP", func() {
		for !frozen(pid) {
			time.Sleep(time.Millisecond)
		}
	})
}

func frozen(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if _, state, ok := strings.Cut(string(b), ") "); err == nil && ok && state[0] != 'T' {
			return false
		}
	}
	return len(threads) > 0
}

// A stop is bounded even if the shim hangs.
func TestStopIsBoundedWhenTheShimHangs(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "hung", "/bin/sleep", "600")
	shim := n.shim(t).Pid
	freeze(t, shim)
	within(t, "StopContainer", func() {
		if err := n.StopContainer(context.Background(), pod.ViewAll, id, 0); err != nil {
			t.Error(err)
		}
	})
	if st := n.ended(t, id); st.State != pod.StateExited {
		t.Errorf("%+v", st)
	}
	if err := unix.Kill(shim, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// An eviction for a full disk must be able to end a pod on that disk.
func TestAFullDiskDoesNotKeepAPodAlive(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	if err := n.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.Close()
	if err := unix.Mount("tmpfs", n.cfg.Root, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	n.boot(t)
	t.Cleanup(func() {
		n.clean(t)
		if err := mount.Unmount(n.cfg.Root); err != nil {
			t.Error(err)
		}
		n.boot(t)
	})
	podID, id := n.up(t, "full", "/bin/sleep", "600")
	fill := filepath.Join(n.cfg.Root, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	_ = f.Close()
	if err := n.StopContainer(t.Context(), pod.ViewAll, id, 0); err != nil {
		t.Error(err)
	}
	if st := n.ended(t, id); st.ExitCode != 137 {
		t.Errorf("exit %d", st.ExitCode)
	}
	if err := n.Stop(t.Context(), pod.ViewAll, podID); err != nil {
		t.Error(err)
	}
	if st, err := n.Pod(pod.ViewAll, podID); err != nil || st.Ready {
		t.Errorf("%+v, %v", st, err)
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Error(err)
	}
	_ = os.Remove(fill)
}

// An empty state directory is a normal start: nothing runs any more, and
// nothing is held.
func TestEmptyStateDirectory(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, id := n.up(t, "emptied", "/bin/sleep", "600")
	shim := n.shim(t).Pid
	n.Close()
	if err := unix.Kill(shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range slices.Backward(table) {
		if strings.HasPrefix(m.Target, n.cfg.State+"/") {
			if err := mount.Unmount(m.Target); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.RemoveAll(n.cfg.State); err != nil {
		t.Fatal(err)
	}
	n.boot(t)
	if st := n.ended(t, id); st.ExitCode == 0 {
		t.Errorf("exit %d, want any but 0", st.ExitCode)
	}
	if st, err := n.Pod(pod.ViewAll, podID); err != nil || st.Ready {
		t.Errorf("%+v, %v", st, err)
	}
	if len(n.network.leases) > 0 {
		t.Errorf("leases are left: %v", n.network.leases)
	}
	if pids, _ := cgroup.Procs(n.cfg.CgroupParent); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
}

// A record that cannot be used never keeps the daemon from starting, and what
// it was about is ended.
func TestBrokenRecords(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	cfg := podConfig("broken")
	cfg.Namespaces.PID = spec.ModePod
	alone, err := n.Run(t.Context(), pod.ViewAll, cfg)
	if err != nil {
		t.Fatal(err)
	}
	lost, id := n.up(t, "lost", "/bin/sleep", "600")
	n.Close()
	for _, path := range []string{filepath.Join("pods", alone), filepath.Join("pods", lost), "containers/nonsense", "pods/nonsense"} {
		if err := os.WriteFile(filepath.Join(n.cfg.Root, path+".json"), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.boot(t)
	if st := n.ended(t, id); st.State != pod.StateExited {
		t.Errorf("%+v", st)
	}
	for _, p := range n.Pods(pod.ViewAll, pod.PodFilter{}) {
		if p.ID != lost || p.Ready {
			t.Errorf("pod %+v is listed", p)
		}
	}
	eventually(t, "the end of all processes", func() bool {
		pids, _ := cgroup.Procs(n.cfg.CgroupParent)
		return len(pids) == 0
	})
	problems, err := n.Check(t.Context())
	if err != nil || len(problems) != 4 {
		t.Errorf("%v, %v; want the four records", problems, err)
	}
	n.network.mu.Lock() // the network's own repair drops leases without a pod
	clear(n.network.leases)
	clear(n.network.attached)
	n.network.mu.Unlock()
	for _, p := range n.Pods(pod.ViewAll, pod.PodFilter{}) {
		if err := n.Remove(t.Context(), pod.ViewAll, p.ID); err != nil {
			t.Error(err)
		}
	}
	n.Close()
	n.boot(t) // what was set aside is told once
}

// What no event told, the pass over all finds: the end of a container, and
// that of a pod's init.
func TestRepairFindsWhatNoEventTold(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	var righted atomic.Int32
	n.cfg.Righted = func(kind string) {
		if kind == "process" {
			righted.Add(1)
		}
	}
	n.Close()
	n.boot(t)
	_, id := n.up(t, "repair", "/bin/sleep", "600")
	cfg := podConfig("init")
	cfg.Namespaces.PID = spec.ModePod
	podID, err := n.Run(t.Context(), pod.ViewAll, cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Deafen()
	st, err := n.Container(pod.ViewAll, id)
	if err != nil {
		t.Fatal(err)
	}
	pids, err := cgroup.Procs(n.cfg.CgroupParent)
	if err != nil || len(pids) != 2 || !slices.Contains(pids, st.Pid) {
		t.Fatalf("processes %v, %v", pids, err)
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the end", func() bool {
		pids, err := cgroup.Procs(n.cfg.CgroupParent)
		return err == nil && len(pids) == 0
	})
	listed := func() pod.State { // a status would look by itself
		return n.Containers(pod.ViewAll, pod.ContainerFilter{ID: id})[0].State
	}
	if listed() != pod.StateRunning {
		t.Fatal("the test did not lose the event")
	}
	n.Repair()
	eventually(t, "the exit", func() bool { return listed() == pod.StateExited })
	eventually(t, "the tale of it", func() bool { return righted.Load() == 1 })
	eventually(t, "the stop", func() bool { return !n.Pods(pod.ViewAll, pod.PodFilter{ID: podID})[0].Ready })
	n.Close()
	n.boot(t)
}

// Nothing of a pod is held after it is gone, nor of a Table after its end.
func TestDescriptorsAndFilesAreGivenBack(t *testing.T) {
	groups(t, func(t *testing.T, g pod.ShimGroup) {
		n := newNode(t, g)
		descriptors := func() int {
			entries, err := os.ReadDir("/proc/self/fd")
			if err != nil {
				t.Fatal(err)
			}
			return len(entries)
		}
		round := func() {
			podID, id := n.up(t, "fds", "/bin/sleep", "600")
			tty := containerConfig("tty", "/bin/sleep", "600")
			tty.TTY = true
			other, err := n.Create(t.Context(), pod.ViewAll, podID, tty)
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Start(t.Context(), pod.ViewAll, other); err != nil {
				t.Fatal(err)
			}
			gone, leave := context.WithCancel(t.Context())
			time.AfterFunc(20*time.Millisecond, leave)
			if _, err := n.ExecSync(gone, pod.ViewAll, id, []string{"/bin/sleep", "600"}, 0); err == nil {
				t.Error("the abandoned command succeeded")
			}
			n.Close()
			n.boot(t)
			if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
				t.Fatal(err)
			}
		}
		round()
		before := descriptors()
		for range 3 {
			round()
		}
		eventually(t, "the descriptors' end", func() bool { return descriptors() <= before+1 })
		if g == pod.GroupPod {
			left, err := os.ReadDir(filepath.Join(n.cfg.State, "shims"))
			if err != nil || len(left) > 0 {
				t.Errorf("left of shims: %v, %v", left, err)
			}
		}
	})
}

// A command whose client has gone before it ran, or whose time was up, is not
// left behind.
func TestAnAbandonedExecIsKilled(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "abandoned", "/bin/sleep", "600")
	for i := range 12 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*3)*time.Millisecond)
		if _, err := n.ExecSync(ctx, pod.ViewAll, id, []string{"/bin/sleep", "601"}, 0); err == nil {
			t.Error("it succeeded")
		}
		cancel()
	}
	eventually(t, "the end of the commands", func() bool {
		pids, err := cgroup.Procs(n.cfg.CgroupParent)
		return err == nil && len(pids) == 1
	})
}

// A created container is stopped like any other, and can then be removed.
func TestStopOfACreatedContainer(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("created"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("main", "/bin/sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.StopContainer(t.Context(), pod.ViewAll, id, time.Minute); err != nil {
		t.Fatal(err)
	}
	if st := n.ended(t, id); st.ExitCode != 137 || st.Pid != 0 {
		t.Errorf("%+v", st)
	}
	if err := n.Start(t.Context(), pod.ViewAll, id); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("starting what was stopped: %v", err)
	}
	if err := n.RemoveContainer(t.Context(), pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
}
