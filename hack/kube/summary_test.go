//go:build kube

package kube

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// summary is what the tests read of the kubelet's /stats/summary.
type summary struct {
	Node struct {
		Runtime struct{ ImageFs, ContainerFs fsStats }
	}
	Pods []podStats
}

type podStats struct {
	PodRef           struct{ Name, Namespace, UID string }
	Containers       []containerStats
	CPU              cpuStats
	Memory           memoryStats
	Network          struct{ RxBytes, TxBytes *uint64 }
	EphemeralStorage fsStats `json:"ephemeral-storage"`
	Volume           []struct {
		Name string
		fsStats
	}
	ProcessStats struct {
		ProcessCount uint64 `json:"process_count"`
	} `json:"process_stats"`
}

type containerStats struct {
	Name         string
	CPU          cpuStats
	Memory       memoryStats
	Rootfs, Logs fsStats
}

type cpuStats struct{ UsageNanoCores, UsageCoreNanoSeconds uint64 }

type memoryStats struct{ WorkingSetBytes, UsageBytes, RSSBytes, AvailableBytes uint64 }

type fsStats struct{ AvailableBytes, CapacityBytes, UsedBytes, InodesUsed uint64 }

func (s *space) summary() (summary, error) {
	var all summary
	data, err := s.node.get(s.t.Context(), kubeletURL("/stats/summary"))
	if err != nil {
		return all, err
	}
	return all, json.Unmarshal(data, &all)
}

// statsOf are those of a pod, or why there are none.
func (s *space) statsOf(name string) (podStats, error) {
	all, err := s.summary()
	if err != nil {
		return podStats{}, err
	}
	for _, p := range all.Pods {
		if p.PodRef.Namespace == s.ns && p.PodRef.Name == name {
			return p, nil
		}
	}
	return podStats{}, fmt.Errorf("the summary has no pod %s among %d", name, len(all.Pods))
}

// TestSummary looks for a busy pod in what the kubelet tells of resources, by
// which kubectl top and autoscalers go.
func TestSummary(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: busy
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; head -c 3000000 /dev/zero >/root/file; head -c 2000000 /dev/zero >/v/file; head -c 8000000 /dev/zero >/dev/shm/file; echo said; while :; do :; done"]
    resources: {limits: {cpu: 200m, memory: 64Mi}}
    volumeMounts: [{name: v, mountPath: /v}]
  - {name: idle, image: $BOX, `+idle+`}
`)
	p := s.ready("p")
	s.eventually(func() error {
		stats, err := s.statsOf("p")
		if err != nil {
			return err
		}
		text, _ := json.Marshal(stats)
		if stats.PodRef.UID != p.Metadata.UID || len(stats.Containers) != 2 {
			return fmt.Errorf("%s", text)
		}
		for _, c := range stats.Containers {
			if c.Memory.WorkingSetBytes == 0 || c.CPU.UsageCoreNanoSeconds == 0 || c.Rootfs.UsedBytes == 0 || c.Rootfs.CapacityBytes == 0 {
				return fmt.Errorf("container %s lacks figures: %s", c.Name, text)
			}
			if c.Name == "busy" && (c.CPU.UsageNanoCores < 20e6 || c.Memory.WorkingSetBytes < 8e6 || c.Rootfs.UsedBytes < 3e6 || c.Logs.UsedBytes == 0) {
				return fmt.Errorf("container busy: %s", text)
			}
		}
		if stats.CPU.UsageNanoCores < 20e6 || stats.Memory.WorkingSetBytes < 8e6 || stats.EphemeralStorage.UsedBytes < 5e6 {
			return fmt.Errorf("the pod: %s", text)
		}
		for _, v := range stats.Volume {
			if v.Name == "v" && v.UsedBytes >= 2e6 {
				return nil
			}
		}
		return fmt.Errorf("the volume: %s", text)
	})
	all, err := s.summary()
	if err != nil {
		t.Fatal(err)
	}
	if fs := all.Node.Runtime.ImageFs; fs.UsedBytes == 0 || fs.CapacityBytes == 0 || fs.CapacityBytes > storeSize || fs.InodesUsed == 0 {
		t.Errorf("the file system of images, which is of %d bytes, is said to be %+v", storeSize, fs)
	}
	if fs := all.Node.Runtime.ContainerFs; fs.CapacityBytes == 0 || fs.CapacityBytes > storeSize {
		t.Errorf("the file system of containers is said to be %+v", fs)
	}
	for path, want := range map[string]string{
		"/metrics/resource": `container_memory_working_set_bytes{container="busy",namespace="` + s.ns + `",pod="p"}`,
		"/metrics/cadvisor": `container_cpu_usage_seconds_total{`,
	} {
		data, err := s.node.get(t.Context(), kubeletURL(path))
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s lacks %q: %d bytes, %v", path, want, len(data), err)
		}
	}
}

// TestEphemeralStorage writes more than a pod may have, into its root file system,
// and into an emptyDir: the kubelet evicts it for what the runtime tells it.
func TestEphemeralStorage(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for name, c := range map[string]struct{ path, volume, why string }{
		"rootfs": {"/root/file", "emptyDir: {}", "storage"},
		"volume": {"/v/file", "emptyDir: {sizeLimit: 5Mi}", `emptydir volume "v" exceeds the limit`},
	} {
		s.run(name, fmt.Sprintf(`
  volumes: [{name: v, %s}]
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "trap 'exit 1' TERM; head -c 20000000 /dev/zero >%s; while :; do sleep 0.2; done"]
    resources: {limits: {ephemeral-storage: 15Mi}}
    volumeMounts: [{name: v, mountPath: /v}]
`, c.volume, c.path))
		p := s.until(name, func(p pod) error {
			if p.Status.Reason != "Evicted" {
				return fmt.Errorf("%s is not evicted: %s %s %v", name, p.Status.Phase, p.Status.Reason, p.Status.ContainerStatuses)
			}
			return nil
		})
		if !strings.Contains(strings.ToLower(p.Status.Message), c.why) {
			t.Errorf("%s: %s, %q", name, p.Status.Reason, p.Status.Message)
		}
	}
}

// TestStatsFromCRI lets the kubelet ask the runtime for what pods use instead of
// looking at cgroups itself: then it knows their networks and processes too.
func TestStatsFromCRI(t *testing.T) {
	s := newSpace(t)
	s.run("p", `
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.ready("p")
	s.kubelet.Stop(unix.SIGTERM)
	if err := s.restartInCluster(t.Context(), map[string]any{"featureGates": map[string]bool{"MemoryQoS": false, "PodAndContainerStatsFromCRI": true}}); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() error {
		// Not before the kubelet knows the pod again.
		if _, err := s.tryKubectl("", "exec", "p", "--", "ping", "-c", "1", nodeIP); err != nil {
			return err
		}
		stats, err := s.statsOf("p")
		if err != nil {
			return err
		}
		text, _ := json.Marshal(stats)
		if stats.Network.RxBytes == nil || *stats.Network.RxBytes == 0 || stats.Network.TxBytes == nil || *stats.Network.TxBytes == 0 || stats.ProcessStats.ProcessCount == 0 ||
			stats.Memory.WorkingSetBytes == 0 || stats.CPU.UsageCoreNanoSeconds == 0 || len(stats.Containers) != 1 {
			return fmt.Errorf("figures lack: %s", text)
		}
		if c := stats.Containers[0]; c.Memory.WorkingSetBytes == 0 || c.CPU.UsageCoreNanoSeconds == 0 || c.Rootfs.UsedBytes == 0 {
			return fmt.Errorf("figures lack: %s", text)
		}
		return nil
	})
	want := `container_cpu_usage_seconds_total{`
	data, err := s.node.get(t.Context(), kubeletURL("/metrics/cadvisor"))
	if err != nil || !strings.Contains(string(data), want) || !strings.Contains(string(data), `namespace="`+s.ns+`",pod="p"`) {
		t.Errorf("/metrics/cadvisor lacks %q of the pod: %d bytes, %v", want, len(data), err)
	}
	s.kubelet.Stop(unix.SIGTERM)
	if err := s.restartInCluster(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() error { return s.node.ready(t.Context()) })
}
