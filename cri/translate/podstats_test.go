package translate

import (
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/stats"
)

// stalled is a pressure of so many microseconds.
func stalled(micros int) *stats.Stall {
	return &stats.Stall{Some: stats.Waited{Total: time.Duration(micros) * time.Microsecond, Avg10: 1.5, Avg60: 2.5, Avg300: 3.5}, Full: stats.Waited{Total: 7}}
}

// CRI has the default interface beside the others, not among them.
func TestPodStatsNameEachInterfaceOnce(t *testing.T) {
	t.Parallel()
	rate := uint64(7)
	in := &pod.PodStats{
		Pod: &pod.PodStatus{ID: "p", Config: &spec.Pod{Metadata: spec.PodMetadata{Name: "n", Namespace: "ns", UID: "u"}, Labels: map[string]string{"l": "v"}}},
		At:  time.Unix(5, 0), CPU: pod.CPUStats{UsageNanos: 11, NanoCores: &rate, Pressure: stalled(1)},
		Memory: pod.MemoryStats{Usage: 12, WorkingSet: 13, Pressure: stalled(2)}, IO: stalled(3), Processes: 14,
		Interfaces: []stats.Interface{{Name: "eth0", RxBytes: 1, RxErrors: 2, TxBytes: 3, TxErrors: 4}, {Name: "net1", RxBytes: 5}},
		Containers: []*pod.Stats{{Container: &pod.ContainerStatus{ID: "c", Config: &spec.Container{}}, At: time.Unix(5, 0),
			CPU: pod.CPUStats{Pressure: stalled(4)}, Memory: pod.MemoryStats{Pressure: stalled(5)}, IO: stalled(6)}},
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
	c := l.Containers[0]
	for n, psi := range []*criv1.PsiStats{l.Cpu.Psi, l.Memory.Psi, l.Io.Psi, c.Cpu.Psi, c.Memory.Psi, c.Io.Psi} {
		if s, f := psi.Some, psi.Full; s.Total != uint64(n+1)*1000 || s.Avg10 != 1.5 || s.Avg60 != 2.5 || s.Avg300 != 3.5 || f.Total != 7 || f.Avg10 != 0 {
			t.Errorf("pressure %d is %v", n+1, psi)
		}
	}
	if l.Io.Timestamp != 5e9 || c.Io.Timestamp != 5e9 {
		t.Errorf("pressure on disks is of %d and %d", l.Io.Timestamp, c.Io.Timestamp)
	}
	in.Interfaces, in.IO, in.CPU.Pressure = nil, nil, nil
	if l := PodStats(in).Linux; l.Io != nil || l.Cpu.Psi != nil {
		t.Errorf("where the kernel does not tell: %v, %v", l.Io, l.Cpu)
	}
	if n := PodStats(in).Linux.Network; n != nil {
		t.Errorf("on the host network: %v", n)
	}
}
