package translate

import (
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/stats"
)

// A kubelet drops a metric that was not declared, and one whose labels are not
// as many as declared makes its whole scrape fail.
func TestEveryMetricIsDeclaredWithItsLabels(t *testing.T) {
	t.Parallel()
	declared := map[string]int{}
	for _, d := range MetricDescriptors() {
		if _, twice := declared[d.Name]; twice || d.Help == "" {
			t.Errorf("%s is declared twice, or without help", d.Name)
		}
		declared[d.Name] = len(d.LabelKeys)
	}
	m := PodMetrics(pod.PodMetrics{
		Pod:        &pod.PodStatus{ID: "p", Config: &spec.Pod{Metadata: spec.PodMetadata{Name: "web", Namespace: "ns"}}},
		Interfaces: []stats.Interface{{Name: "eth0", RxBytes: 7}},
		Containers: []pod.ContainerMetrics{{
			Container: &pod.ContainerStatus{ID: "c", Config: &spec.Container{Metadata: spec.ContainerMetadata{Name: "app"}}, Image: &spec.ImageConfig{Name: "img:1"}},
			Cgroup:    "/pods/c",
			Reading:   &stats.Reading{Detail: stats.Detail{Sample: stats.Sample{Usage: 42}, Devices: []stats.DeviceIO{{Major: "8", Minor: "0"}}}},
		}},
	})
	if m.PodSandboxId != "p" || len(m.ContainerMetrics) != 1 || m.ContainerMetrics[0].ContainerId != "c" {
		t.Fatalf("got %v", m)
	}
	seen := map[string]*criv1.Metric{}
	for _, all := range [][]*criv1.Metric{m.Metrics, m.ContainerMetrics[0].Metrics} {
		for _, v := range all {
			seen[v.Name] = v
			if keys, ok := declared[v.Name]; !ok || keys != len(v.LabelValues) {
				t.Errorf("%s has the labels %q, declared are %d", v.Name, v.LabelValues, keys)
			}
		}
	}
	used := seen["container_memory_usage_bytes"]
	if want := []string{"app", "/pods/c", "img:1", "c", "ns", "web"}; used.Value.Value != 42 || used.MetricType != criv1.MetricType_GAUGE || len(used.LabelValues) != len(want) {
		t.Errorf("got %v", used)
	} else {
		for i := range want {
			if used.LabelValues[i] != want[i] {
				t.Errorf("label %s is %q, want %q", metricLabels[i], used.LabelValues[i], want[i])
			}
		}
	}
	received := seen["container_network_receive_bytes_total"]
	if last := len(received.LabelValues) - 1; received.Value.Value != 7 || received.LabelValues[last] != "eth0" || received.MetricType != criv1.MetricType_COUNTER {
		t.Errorf("got %v", received)
	}
}
