package translate

import (
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/stats"
)

// CRI has the default interface beside the others, not among them.
func TestPodStatsNameEachInterfaceOnce(t *testing.T) {
	t.Parallel()
	rate := uint64(7)
	in := &pod.PodStats{
		Pod: &pod.PodStatus{ID: "p", Config: &spec.Pod{Metadata: spec.PodMetadata{Name: "n", Namespace: "ns", UID: "u"}, Labels: map[string]string{"l": "v"}}},
		At:  time.Unix(5, 0), CPU: pod.CPUStats{UsageNanos: 11, NanoCores: &rate}, Memory: pod.MemoryStats{Usage: 12, WorkingSet: 13}, Processes: 14,
		Interfaces: []stats.Interface{{Name: "eth0", RxBytes: 1, RxErrors: 2, TxBytes: 3, TxErrors: 4}, {Name: "net1", RxBytes: 5}},
		Containers: []*pod.Stats{{Container: &pod.ContainerStatus{ID: "c", Config: &spec.Container{}}, At: time.Unix(5, 0)}},
	}
	got := PodStats(in)
	if a := got.Attributes; a.Id != "p" || a.Metadata.Name != "n" || a.Metadata.Uid != "u" || a.Labels["l"] != "v" {
		t.Errorf("attributes %v", a)
	}
	l := got.Linux
	if l.Cpu.UsageCoreNanoSeconds.Value != 11 || l.Cpu.UsageNanoCores.Value != 7 || l.Memory.UsageBytes.Value != 12 || l.Memory.WorkingSetBytes.Value != 13 || l.Process.ProcessCount.Value != 14 {
		t.Errorf("usage %v", l)
	}
	for what, at := range map[string]int64{"cpu": l.Cpu.Timestamp, "memory": l.Memory.Timestamp, "process": l.Process.Timestamp, "network": l.Network.Timestamp} {
		if at != 5e9 {
			t.Errorf("%s is of %d", what, at)
		}
	}
	d := l.Network.DefaultInterface
	if d.Name != "eth0" || d.RxBytes.Value != 1 || d.RxErrors.Value != 2 || d.TxBytes.Value != 3 || d.TxErrors.Value != 4 {
		t.Errorf("default interface %v", d)
	}
	if len(l.Network.Interfaces) != 1 || l.Network.Interfaces[0].Name != "net1" {
		t.Errorf("other interfaces %v", l.Network.Interfaces)
	}
	if len(l.Containers) != 1 || l.Containers[0].Attributes.Id != "c" {
		t.Errorf("containers %v", l.Containers)
	}
	in.Interfaces = nil
	if n := PodStats(in).Linux.Network; n != nil {
		t.Errorf("on the host network: %v", n)
	}
}
