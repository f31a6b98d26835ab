package pod_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// limits reads what limits the container from its cgroup, in the terms of
// spec.Resources: shares are not told on v2, which has weights.
func (n *node) limits(t *testing.T, id string) map[string]string {
	t.Helper()
	out := map[string]string{}
	read := func(controller, file, name string) {
		if cgroup.Unified() {
			controller = ""
		}
		path := filepath.Join("/sys/fs/cgroup", controller, n.group(id), file)
		if b, err := os.ReadFile(path); err == nil {
			out[name] = strings.TrimSpace(string(b))
		}
	}
	read("cpuset", "cpuset.cpus", "cpus")
	read("cpuset", "cpuset.mems", "mems")
	read("pids", "pids.max", "pids")
	if cgroup.Unified() {
		read("", "cpu.max", "cpu")
		read("", "cpu.weight", "weight")
		read("", "memory.max", "memory")
		read("", "memory.swap.max", "swap")
		read("", "memory.high", "memory.high")
		return out
	}
	var quota, period string
	read("cpu", "cpu.cfs_quota_us", "quota")
	read("cpu", "cpu.cfs_period_us", "period")
	quota, period = out["quota"], out["period"]
	delete(out, "quota")
	delete(out, "period")
	out["cpu"] = quota + " " + period
	read("cpu", "cpu.shares", "shares")
	read("memory", "memory.limit_in_bytes", "memory")
	read("memory", "memory.memsw.limit_in_bytes", "memory and swap")
	return out
}

// allCPUs is the list of the machine's CPUs.
func allCPUs(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// wantLimits compares what it names with the kernel's values.
func (n *node) wantLimits(t *testing.T, id string, want map[string]string) {
	t.Helper()
	got := n.limits(t, id)
	for name, value := range want {
		if have, ok := got[name]; ok && have != value {
			t.Errorf("%s is %q, want %q", name, have, value)
		}
	}
	for _, name := range []string{"cpu", "memory", "pids", "cpus"} {
		if _, ok := got[name]; !ok {
			t.Errorf("the kernel tells no %s: %v", name, got)
		}
	}
}

func TestLimitsAreTheKernels(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	asked := spec.Resources{CPUPeriod: 50000, CPUQuota: 20000, CPUShares: 512, Memory: 64 << 20, MemorySwap: 80 << 20,
		CpusetCPUs: "0", CpusetMems: "0", PidsLimit: 50, OOMScoreAdj: 900, Hugepages: map[string]uint64{"2MB": 0}}
	_, id := n.start(t, "limits", func(_ *spec.Pod, c *spec.Container) { c.Resources = asked })
	n.wantLimits(t, id, map[string]string{"cpu": "20000 50000", "shares": "512", "weight": "59", "memory": "67108864", "memory and swap": "83886080",
		"swap": "16777216", "cpus": "0", "mems": "0", "pids": "50"})
	n.wantSh(t, id, "cat /proc/1/oom_score_adj", "900")

	all := allCPUs(t)
	// What is not named stays; memory without swap grows with its limit.
	for _, step := range []struct {
		change spec.Resources
		want   map[string]string
	}{
		{spec.Resources{CPUQuota: -1}, map[string]string{"cpu": "-1 50000", "memory": "67108864", "pids": "50"}},
		{spec.Resources{Memory: 96 << 20, MemorySwap: 96 << 20}, map[string]string{"memory": "100663296", "memory and swap": "100663296", "swap": "0"}},
		{spec.Resources{Memory: 128 << 20}, map[string]string{"memory": "134217728", "memory and swap": "134217728", "swap": "0", "cpus": "0"}},
		{spec.Resources{CpusetCPUs: all, PidsLimit: -1, CPUShares: 1024}, map[string]string{"cpus": all, "pids": "max", "shares": "1024", "weight": "100"}},
	} {
		if cgroup.Unified() && step.want["cpu"] != "" {
			step.want["cpu"] = "max 50000"
		}
		if err := n.Update(t.Context(), pod.ViewAll, id, step.change); err != nil {
			t.Fatalf("%+v: %v", step.change, err)
		}
		n.wantLimits(t, id, step.want)
	}
	st, err := n.Container(pod.ViewAll, id)
	if err != nil {
		t.Fatal(err)
	}
	want := asked
	want.CPUQuota, want.Memory, want.MemorySwap, want.CpusetCPUs, want.PidsLimit, want.CPUShares = -1, 128<<20, 128<<20, all, -1, 1024
	if fmt.Sprint(st.Resources) != fmt.Sprint(want) {
		t.Errorf("reported %+v, want %+v", st.Resources, want)
	}
}

// Of an update that the kernel refuses in part nothing is left, in the kernel
// or in the status.
func TestAnUpdateHoldsAsAWholeOrNotAtAll(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.start(t, "whole", func(_ *spec.Pod, c *spec.Container) { c.Resources = spec.Resources{CPUShares: 512} })
	before, unit := n.limits(t, id), n.unitLimits(t, id)
	for _, refused := range []spec.Resources{
		{Memory: 64 << 20, PidsLimit: 7, CPUQuota: 20000, CPUPeriod: 2e6},    // more than a second
		{Memory: 64 << 20, CPUQuota: 20000, CPUShares: 99, CpusetCPUs: "99"}, // no such CPU
		{CPUQuota: 20000, PidsLimit: 7, Memory: 4096},                        // less than is used
	} {
		if err := n.Update(t.Context(), pod.ViewAll, id, refused); err == nil {
			t.Errorf("%+v was accepted", refused)
		}
		if after := n.limits(t, id); !maps.Equal(before, after) {
			t.Errorf("%+v was refused, but the limits are %v; before %v", refused, after, before)
		}
		if after := n.unitLimits(t, id); after != unit {
			t.Errorf("%+v was refused, but systemd's unit has %s; before %s", refused, after, unit)
		}
		if st, err := n.Container(pod.ViewAll, id); err != nil || fmt.Sprint(st.Resources) != fmt.Sprint(spec.Resources{CPUShares: 512}) {
			t.Errorf("reported %+v, %v", st.Resources, err)
		}
	}
	n.wantSh(t, id, "echo alive", "alive")
	if err := n.Update(t.Context(), pod.ViewAll, id, spec.Resources{Memory: 64 << 20}); err != nil {
		t.Errorf("an update after a refused one: %v", err)
	}
}

// unitLimits are what systemd would write into the cgroup of a container, but for
// the period, whose default has two names; nothing where it does not have it.
func (n *node) unitLimits(t *testing.T, id string) string {
	t.Helper()
	if !n.cfg.SystemdCgroup {
		return ""
	}
	out, err := exec.Command("systemctl", "show", filepath.Base(n.group(id)),
		"-p", "MemoryMax,MemorySwapMax,TasksMax,CPUQuotaPerSecUSec,CPUWeight").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// What nobody limits is as large as its parent, whoever makes the cgroup:
// systemd gives scopes a number of tasks of its own.
func TestWhatIsNotLimited(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.up(t, "unlimited", "/bin/sleep", "600")
	want := map[string]string{"pids": "max", "cpu": "-1 100000"}
	if cgroup.Unified() {
		want = map[string]string{"pids": "max", "cpu": "max 100000", "memory": "max", "swap": "max", "memory.high": "max"}
	}
	n.wantLimits(t, id, want)
}

func TestUnifiedLimits(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	asked := spec.Resources{Unified: map[string]string{"memory.high": "67108864"}}
	if cgroup.Unified() {
		_, id := n.start(t, "unified", func(_ *spec.Pod, c *spec.Container) { c.Resources = asked })
		n.wantLimits(t, id, map[string]string{"memory.high": "67108864"})
		if err := n.Update(t.Context(), pod.ViewAll, id, spec.Resources{Unified: map[string]string{"memory.high": "max"}}); err != nil {
			t.Fatal(err)
		}
		n.wantLimits(t, id, map[string]string{"memory.high": "max"})
		return
	}
	podID, id := n.up(t, "unified", "/bin/sleep", "600")
	cfg := containerConfig("other", "/bin/sleep", "600")
	cfg.Resources = asked
	_, err := n.Create(t.Context(), pod.ViewAll, podID, cfg)
	for verb, err := range map[string]error{"create": err, "update": n.Update(t.Context(), pod.ViewAll, id, asked)} {
		if !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), "memory.high") || !strings.Contains(err.Error(), "cgroup v2") {
			t.Errorf("%s: %v, want InvalidArgument that names the file and the version", verb, err)
		}
	}
}

func TestUpdateNeedsAProcess(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, id := n.up(t, "ended", "/bin/sh", "-c", "exit 0")
	n.ended(t, id)
	if err := n.Update(t.Context(), pod.ViewAll, id, spec.Resources{Memory: 64 << 20}); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("update of an ended container: %v", err)
	}
	created, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("created", "/bin/sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Update(t.Context(), pod.ViewAll, created, spec.Resources{Memory: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context(), pod.ViewAll, created); err != nil {
		t.Fatal(err)
	}
	n.wantLimits(t, created, map[string]string{"memory": "67108864"})
}

// A pod's sums are for information: they are told, and no cgroup has them.
func TestPodResourcesAreNoted(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, _ := n.start(t, "sums", func(p *spec.Pod, _ *spec.Container) { p.Overhead = spec.Resources{Memory: 1 << 20} })
	want := spec.Resources{CPUShares: 2048, Memory: 64 << 20}
	if err := n.UpdatePod(t.Context(), pod.ViewAll, podID, spec.Resources{Memory: 2 << 20}, want); err != nil {
		t.Fatal(err)
	}
	n.Close()
	n.boot(t) // it outlives the daemon
	st, err := n.Pod(pod.ViewAll, podID)
	if err != nil || fmt.Sprint(st.Resources) != fmt.Sprint(want) || st.Overhead.Memory != 2<<20 {
		t.Errorf("told %+v and %+v, %v", st.Overhead, st.Resources, err)
	}
	if err := n.Stop(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	if err := n.UpdatePod(t.Context(), pod.ViewAll, podID, want, want); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("update of a stopped pod: %v", err)
	}
	if err := n.UpdatePod(t.Context(), pod.ViewAll, strings.Repeat("0", 64), want, want); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("update of no pod: %v", err)
	}
}

// A container ended by the OOM killer says so. One that outlived the kill of
// an exec, and ended for another reason later, does not.
func TestOOMIsToldOfTheEndOnly(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	const eat = "x=x; while :; do x=$x$x; done"
	limited := func(_ *spec.Pod, c *spec.Container) {
		c.Command = []string{"/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"}
		c.Resources = spec.Resources{Memory: 16 << 20}
	}
	_, killed := n.start(t, "killed", func(p *spec.Pod, c *spec.Container) {
		limited(p, c)
		c.Command = []string{"/bin/sh", "-c", eat}
	})
	if st := n.ended(t, killed); st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Errorf("a container that ate its memory: %s, exit %d", st.Reason, st.ExitCode)
	}
	for _, c := range []struct {
		name, reason string
		grace        time.Duration
		code         int32
	}{{"clean", "Completed", 30 * time.Second, 0}, {"stopped", "Error", 0, 137}} {
		_, id := n.start(t, c.name, limited)
		if _, code := n.sh(t, id, eat); code != 137 {
			t.Fatalf("the exec was not killed: exit %d", code)
		}
		if err := n.StopContainer(t.Context(), pod.ViewAll, id, c.grace); err != nil {
			t.Fatal(err)
		}
		if st := n.ended(t, id); st.Reason != c.reason || st.ExitCode != c.code {
			t.Errorf("%s: %s, exit %d; want %s, %d", c.name, st.Reason, st.ExitCode, c.reason, c.code)
		}
	}
}

// A limit of huge pages is the kernel's, or an error that says what lacks;
// kubelets list every size with 0, which is no limit.
func TestHugepageLimits(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, id := n.start(t, "huge", func(_ *spec.Pod, c *spec.Container) { c.Resources.Hugepages = map[string]uint64{"2MB": 0, "1GB": 0} })
	cfg := containerConfig("limited", "/bin/sleep", "600")
	cfg.Resources.Hugepages = map[string]uint64{"2MB": 4 << 20}
	limited, err := n.Create(t.Context(), pod.ViewAll, podID, cfg)
	if cgroup.Controls("hugetlb") {
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("/sys/fs/cgroup/hugetlb", n.group(limited), "hugetlb.2MB.limit_in_bytes")
		if cgroup.Unified() {
			file = filepath.Join("/sys/fs/cgroup", n.group(limited), "hugetlb.2MB.max")
		}
		if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != "4194304" {
			t.Errorf("%s: %q, %v", file, b, err)
		}
		return
	}
	for verb, err := range map[string]error{"create": err, "update": n.Update(t.Context(), pod.ViewAll, id, cfg.Resources)} {
		if !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "hugetlb") {
			t.Errorf("%s: %v, want FailedPrecondition that names the controller", verb, err)
		}
	}
}
