package main

import (
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// testInventory holds a pod of one, two pods of the kubelet with containers
// of the same name, one of them in its second attempt, and an empty pod.
func testInventory() *inventory {
	pod := func(id, namespace, name, uid, label string) *criv1.PodSandbox {
		return &criv1.PodSandbox{
			Id: id, Metadata: &criv1.PodSandboxMetadata{Namespace: namespace, Name: name, Uid: uid}, Labels: map[string]string{label: "x"},
		}
	}
	container := func(id, pod, name string, created int64) *criv1.Container {
		return &criv1.Container{Id: id, PodSandboxId: pod, Metadata: &criv1.ContainerMetadata{Name: name}, CreatedAt: created}
	}
	return &inventory{
		pods: map[string]*criv1.PodSandbox{
			"aa10000000000000": pod("aa10000000000000", "default", "web", "u1", runLabel),
			"aa20000000000000": pod("aa20000000000000", "kube-system", "dns-1", "u2", kubeletPodLabel),
			"bb30000000000000": pod("bb30000000000000", "kube-system", "dns-2", "u3", kubeletPodLabel),
			"bb40000000000000": pod("bb40000000000000", "default", "empty", "u4", "none"),
		},
		containers: []*criv1.Container{
			container("c100000000000000", "aa10000000000000", "web", 1),
			container("c200000000000000", "aa20000000000000", "coredns", 1),
			container("c300000000000000", "aa20000000000000", "coredns", 2),
			container("d400000000000000", "bb30000000000000", "coredns", 1),
			container("aa50000000000000", "bb30000000000000", "metrics", 1),
			container("dns000000000000", "bb30000000000000", "c1", 1),
		},
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	inv := testInventory()
	for _, tc := range []struct{ name, id, why string }{
		{name: "c100000000000000", id: "c100000000000000"},
		{name: "web", id: "c100000000000000"}, // hides its pod
		{name: "default/web", id: "aa10000000000000"},
		{name: "web/web", id: "c100000000000000"},
		{name: "default/web/web", id: "c100000000000000"},
		{name: "aa1", id: "aa10000000000000"},
		{name: "d", id: "", why: "fits 2"},
		{name: "d4", id: "d400000000000000"},
		{name: "c1", id: "dns000000000000"}, // a name goes before a prefix
		{name: "dns-1/coredns", id: "c300000000000000"},
		{name: "kube-system/dns-1/coredns", id: "c300000000000000"}, // the last attempt
		{name: "c2", id: "c200000000000000"},                        // an ended one, by its id
		{name: "coredns", why: "fits 2: c30000000000 (container kube-system/dns-1/coredns), d40000000000 (container kube-system/dns-2/coredns)"},
		{name: "aa", why: "aa1000000000 (pod web), aa2000000000 (pod kube-system/dns-1), aa5000000000 (container kube-system/dns-2/metrics)"},
		{name: "nothing", why: "nothing has this name"},
		{name: "", why: "its name is empty"},
	} {
		o, err := inv.find(tc.name)
		if tc.why != "" {
			told(t, tc.name, err, tc.why)
			continue
		}
		if err != nil || o.id() != tc.id {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestFindContainer(t *testing.T) {
	t.Parallel()
	inv := testInventory()
	if o, err := inv.findContainer("default/web"); err != nil || o.id() != "c100000000000000" {
		t.Errorf("the pod of one: %v", err)
	}
	_, err := inv.findContainer("dns-2")
	told(t, "dns-2", err, "a pod with the containers c1, coredns, metrics")
	_, err = inv.findContainer("empty")
	told(t, "empty", err, "a pod without containers")
}

func TestInventedNamesAreGood(t *testing.T) {
	t.Parallel()
	for range 200 {
		if name := inventName(); !goodName.MatchString(name) || strings.Contains(name, "_") {
			t.Fatal(name)
		}
	}
}
