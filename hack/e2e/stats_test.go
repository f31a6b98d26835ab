//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// TestPodStats has a pod send something, and finds it in its statistics and
// its metrics, in every way that they can be asked for.
func TestPodStats(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	pod, container := n.run("talks", lab.ContainerConfig("c", n.shell, "sh", "-c", "ping -c 3 -s 1000 $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); exec sleep 1000"))
	rt, ctx := n.runtime(), t.Context()

	n.eventually(func() error {
		st, err := rt.PodSandboxStats(ctx, &criv1.PodSandboxStatsRequest{PodSandboxId: pod})
		if err != nil {
			return err
		}
		l := st.Stats.Linux
		eth := l.Network.GetDefaultInterface()
		switch {
		case eth.GetName() != "eth0" || eth.TxBytes.GetValue() < 3000 || eth.RxBytes.GetValue() < 3000:
			return fmt.Errorf("network %v", l.Network)
		case l.Cpu.UsageCoreNanoSeconds.GetValue() == 0 || l.Memory.WorkingSetBytes.GetValue() == 0 || l.Process.ProcessCount.GetValue() == 0:
			return fmt.Errorf("usage %v", l)
		case len(l.Containers) != 1 || l.Containers[0].Attributes.Id != container:
			return fmt.Errorf("containers %v", l.Containers)
		}
		return nil
	})
	list, err := rt.ListPodSandboxStats(ctx, &criv1.ListPodSandboxStatsRequest{Filter: &criv1.PodSandboxStatsFilter{Id: pod}})
	if err != nil || len(list.Stats) != 1 || list.Stats[0].Attributes.Id != pod {
		t.Errorf("got %v, %v", list, err)
	}

	declared, err := rt.ListMetricDescriptors(ctx, &criv1.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]int{}
	for _, d := range declared.Descriptors {
		keys[d.Name] = len(d.LabelKeys)
	}
	metrics, err := rt.ListPodSandboxMetrics(ctx, &criv1.ListPodSandboxMetricsRequest{})
	if err != nil || len(metrics.PodMetrics) != 1 || len(metrics.PodMetrics[0].ContainerMetrics) != 1 {
		t.Fatalf("got %v, %v", metrics, err)
	}
	of := metrics.PodMetrics[0]
	sent := uint64(0)
	for _, m := range append(of.Metrics, of.ContainerMetrics[0].Metrics...) {
		if want, ok := keys[m.Name]; !ok || want != len(m.LabelValues) {
			t.Errorf("%s has the labels %q, declared are %d", m.Name, m.LabelValues, want)
		}
		if m.Name == "container_network_transmit_bytes_total" {
			sent += m.Value.Value
		}
	}
	if of.PodSandboxId != pod || of.ContainerMetrics[0].ContainerId != container || sent < 3000 {
		t.Errorf("the metrics of %s tell of %d bytes sent", of.PodSandboxId, sent)
	}
}
