package pod_test

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/stats"
)

// The metrics of a container are the kernel's figures of it.
func TestMetricsAreTheKernels(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, id := n.start(t, "metrics", func(_ *spec.Pod, c *spec.Container) {
		c.Command = []string{"/bin/sh", "-c", "sleep 600 & while :; do :; done"}
		c.Resources = spec.Resources{CPUPeriod: 50000, CPUQuota: 40000, CPUShares: 512, Memory: 64 << 20, PidsLimit: 40}
	})
	if _, err := n.Run(t.Context(), pod.ViewAll, podConfig("empty")); err != nil {
		t.Fatal(err)
	}
	started, err := n.Container(pod.ViewAll, id)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]uint64
	eventually(t, "a second of CPU is used", func() bool {
		all := n.Metrics(t.Context(), pod.ViewAll)
		if len(all) != 2 {
			t.Fatalf("%d pods, want 2", len(all))
		}
		got = map[string]uint64{}
		for _, m := range all {
			if m.Pod.ID != podID {
				if len(m.Containers) != 0 {
					t.Errorf("a pod without containers has %d", len(m.Containers))
				}
				continue
			}
			if len(m.Containers) != 1 || m.Containers[0].Container.ID != id || m.Containers[0].Cgroup != n.group(id) {
				t.Fatalf("got %+v", m)
			}
			for _, metric := range stats.ContainerMetrics() {
				for _, p := range metric.Read(m.Containers[0].Reading) {
					got[strings.Join(append([]string{strings.TrimPrefix(metric.Name, "container_")}, p.Labels...), " ")] = p.Value
				}
			}
		}
		return got["cpu_usage_seconds_total total"] >= 1
	})
	for name, want := range map[string]uint64{"spec_cpu_period": 50000, "spec_cpu_quota": 40000, "spec_memory_limit_bytes": 64 << 20, "threads_max": 40,
		"processes": 2, "threads": 2, "fs_usage_bytes": 1, "oom_events_total": 0, "start_time_seconds": uint64(started.StartedAt.Unix())} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d", name, got[name], want)
		}
	}
	for _, name := range []string{"memory_usage_bytes", "memory_working_set_bytes", "memory_max_usage_bytes", "memory_failures_total pgfault container",
		"fs_limit_bytes", "file_descriptors", "cpu_cfs_periods_total"} {
		if got[name] == 0 {
			t.Errorf("%s is 0", name)
		}
	}
	if now := uint64(time.Now().Unix()); got["last_seen"] < got["start_time_seconds"] || got["last_seen"] > now {
		t.Errorf("last seen at %d, started at %d, it is %d", got["last_seen"], got["start_time_seconds"], now)
	}
	if len(n.Metrics(t.Context(), pod.ViewKubelet)) != 0 {
		t.Error("local pods have metrics in the kubelet's view")
	}
}
