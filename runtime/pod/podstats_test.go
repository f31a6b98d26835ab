package pod_test

import (
	"testing"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// A pod with a cgroup of its own is sampled there; of those that share one,
// the containers are added up.
func TestStatsOfAPod(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	own := n.parentBelow("own")
	for name, parent := range map[string]string{"own": own, "shared": ""} {
		podID, first := n.start(t, name, func(p *spec.Pod, c *spec.Container) { p.CgroupParent = parent })
		second, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("second", "/bin/sh", "-c", "x=0; while :; do x=1; done"))
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context(), pod.ViewAll, second); err != nil {
			t.Fatal(err)
		}
		var st *pod.PodStats
		eventually(t, "the pod uses the CPU", func() bool {
			if st, err = n.PodStats(t.Context(), pod.ViewAll, podID); err != nil {
				t.Fatal(err)
			}
			return st.CPU.UsageNanos > 0 && st.CPU.NanoCores != nil
		})
		if st.At.IsZero() || st.Memory.Usage == 0 || st.Memory.WorkingSet == 0 || st.Processes < 2 || st.Pod.ID != podID {
			t.Errorf("%s: %+v", name, st)
		}
		ids := map[string]bool{}
		for _, c := range st.Containers {
			ids[c.Container.ID] = true
		}
		if len(ids) != 2 || !ids[first] || !ids[second] {
			t.Errorf("%s: containers %v", name, ids)
		}
	}
	if list := n.PodStatsList(t.Context(), pod.ViewAll, pod.PodFilter{}); len(list) != 2 {
		t.Errorf("%d pods are listed, want 2", len(list))
	}
	if list := n.PodStatsList(t.Context(), pod.ViewKubelet, pod.PodFilter{}); len(list) != 0 {
		t.Errorf("%d local pods are listed for the kubelet", len(list))
	}
}

func TestStatsOfAPodNeedAReadyOne(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, err := n.Run(t.Context(), pod.ViewAll, func() spec.Pod {
		c := podConfig("empty")
		c.CgroupParent = n.parentBelow("notyet")
		return c
	}())
	if err != nil {
		t.Fatal(err)
	}
	if st, err := n.PodStats(t.Context(), pod.ViewAll, podID); err != nil || st.At.IsZero() || len(st.Containers) != 0 {
		t.Errorf("a pod without containers: %+v, %v", st, err)
	}
	if err := n.Stop(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
	if _, err := n.PodStats(t.Context(), pod.ViewAll, podID); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("a stopped pod: %v, want Unavailable", err)
	}
	if list := n.PodStatsList(t.Context(), pod.ViewAll, pod.PodFilter{}); len(list) != 0 {
		t.Errorf("%d stopped pods are listed", len(list))
	}
	if _, err := n.PodStats(t.Context(), pod.ViewAll, ""); errkind.Is(err, errkind.Unimplemented) || err == nil {
		t.Errorf("no pod: %v", err)
	}
}
