package translate

import (
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/stats"
)

// metricLabels are the labels that every metric has, as cAdvisor names them.
// For a pod's own metrics container, image and name are empty.
var metricLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// MetricDescriptors gives the message for every metric that PodMetrics may have.
func MetricDescriptors() []*criv1.MetricDescriptor {
	var out []*criv1.MetricDescriptor
	add := func(name, help string, labels []string) {
		out = append(out, &criv1.MetricDescriptor{Name: name, Help: help, LabelKeys: append(metricLabels[:len(metricLabels):len(metricLabels)], labels...)})
	}
	for _, m := range stats.ContainerMetrics() {
		add(m.Name, m.Help, m.Labels)
	}
	for _, m := range stats.PodMetrics() {
		add(m.Name, m.Help, m.Labels)
	}
	return out
}

// PodMetrics gives the message for one pod.
func PodMetrics(m pod.PodMetrics) *criv1.PodSandboxMetrics {
	meta := m.Pod.Config.Metadata
	out := &criv1.PodSandboxMetrics{PodSandboxId: m.Pod.ID,
		Metrics: metrics(stats.PodMetrics(), m.Interfaces, []string{"", m.Pod.Config.CgroupParent, "", "", meta.Namespace, meta.Name})}
	for _, c := range m.Containers {
		labels := []string{c.Container.Config.Metadata.Name, c.Cgroup, imageOf(c.Container).Name, c.Container.ID, meta.Namespace, meta.Name}
		out.ContainerMetrics = append(out.ContainerMetrics, &criv1.ContainerMetrics{
			ContainerId: c.Container.ID,
			Metrics:     metrics(stats.ContainerMetrics(), c.Reading, labels),
		})
	}
	return out
}

// metrics leaves the timestamp 0: the values are of now.
func metrics[From any](all []stats.Metric[From], from From, labels []string) []*criv1.Metric {
	var out []*criv1.Metric
	for _, m := range all {
		kind := criv1.MetricType_COUNTER
		if m.Kind == stats.Gauge {
			kind = criv1.MetricType_GAUGE
		}
		for _, p := range m.Read(from) {
			out = append(out, &criv1.Metric{Name: m.Name, MetricType: kind, Value: value(p.Value),
				LabelValues: append(labels[:len(labels):len(labels)], p.Labels...)})
		}
	}
	return out
}
