package pod

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/spec"
)

// many is a Table of 100 pods with 10 containers each, without anything in the
// kernel. The odd pods are stopped and their containers exited.
func many(t *testing.T) *Table {
	t.Helper()
	tab := &Table{pods: map[string]*Pod{}, byKey: map[podKey]*Pod{}, containers: map[string]*container{}}
	for i := range 100 {
		rec := podRecord{ID: fmt.Sprintf("%02d%062x", i, i), Phase: phaseReady, Origin: OriginKubelet, CreatedAt: time.Unix(int64(i), 0),
			Config: spec.Pod{Metadata: spec.PodMetadata{Name: fmt.Sprint("p", i), UID: fmt.Sprint(i)}, Labels: map[string]string{"app": fmt.Sprint("a", i%10), "all": "yes"},
				Namespaces: spec.Namespaces{Network: spec.ModeNode}}}
		if i%2 == 1 {
			rec.Phase, rec.Origin = phaseStopped, OriginLocal
		}
		p := tab.addPod(rec.ID, rec)
		for j := range 10 {
			id := fmt.Sprintf("c%02d%d%060x", i, j, j)
			cr := containerRecord{ID: id, PodID: p.id, Phase: phaseRunning, CreatedAt: time.Unix(int64(i), int64(j)),
				Config: spec.Container{Metadata: spec.ContainerMetadata{Name: fmt.Sprint("c", j)}, Labels: map[string]string{"n": fmt.Sprint(j), "all": "yes"}}}
			if i%2 == 1 {
				cr.Phase, cr.Exit = phaseExited, &spec.Exit{Code: 1, At: time.Unix(int64(i), 1e8)}
			}
			c := &container{id: id, pod: p, made: make(chan struct{}), told: make(chan struct{}), exited: make(chan struct{}), rec: cr}
			close(c.made)
			close(c.told)
			p.containers[id], tab.containers[id] = c, c
		}
	}
	tab.publish()
	return tab
}

func TestListsAreFilteredByAllThatIsAsked(t *testing.T) {
	t.Parallel()
	tab := many(t)
	yes, no := true, false
	for name, c := range map[string]struct {
		v    View
		f    PodFilter
		want int
	}{
		"all":                   {ViewAll, PodFilter{}, 100},
		"the kubelet's":         {ViewKubelet, PodFilter{}, 50},
		"id":                    {ViewAll, PodFilter{ID: fmt.Sprintf("07%062x", 7)}, 1},
		"prefix":                {ViewAll, PodFilter{ID: "0"}, 10},
		"no such id":            {ViewAll, PodFilter{ID: "f"}, 0},
		"ready":                 {ViewAll, PodFilter{Ready: &yes}, 50},
		"not ready":             {ViewAll, PodFilter{Ready: &no}, 50},
		"label":                 {ViewAll, PodFilter{Labels: map[string]string{"app": "a3"}}, 10},
		"both labels":           {ViewAll, PodFilter{Labels: map[string]string{"app": "a3", "all": "yes"}}, 10},
		"a label with no value": {ViewAll, PodFilter{Labels: map[string]string{"app": ""}}, 0},
		"prefix, state, label":  {ViewAll, PodFilter{ID: "0", Ready: &yes, Labels: map[string]string{"app": "a4"}}, 1},
		"what excludes itself":  {ViewAll, PodFilter{ID: "03", Ready: &yes}, 0},
	} {
		if got := len(tab.Pods(c.v, c.f)); got != c.want {
			t.Errorf("pods, %s: %d, want %d", name, got, c.want)
		}
	}
	for name, c := range map[string]struct {
		v    View
		f    ContainerFilter
		want int
	}{
		"all":                {ViewAll, ContainerFilter{}, 1000},
		"the kubelet's":      {ViewKubelet, ContainerFilter{}, 500},
		"prefix":             {ViewAll, ContainerFilter{ID: "c00"}, 10},
		"pod":                {ViewAll, ContainerFilter{PodID: fmt.Sprintf("07%062x", 7)}, 10},
		"prefix of a pod":    {ViewAll, ContainerFilter{PodID: "07"}, 10},
		"running":            {ViewAll, ContainerFilter{State: StateRunning}, 500},
		"created":            {ViewAll, ContainerFilter{State: StateCreated}, 0},
		"label":              {ViewAll, ContainerFilter{Labels: map[string]string{"n": "3"}}, 100},
		"pod, state, label":  {ViewAll, ContainerFilter{PodID: "07", State: StateExited, Labels: map[string]string{"n": "3", "all": "yes"}}, 1},
		"a pod of no member": {ViewAll, ContainerFilter{PodID: "zz"}, 0},
	} {
		if got := len(tab.Containers(c.v, c.f)); got != c.want {
			t.Errorf("containers, %s: %d, want %d", name, got, c.want)
		}
	}
	if first := tab.Containers(ViewAll, ContainerFilter{})[0]; !strings.HasPrefix(first.ID, "c999") {
		t.Errorf("the newest container is %s", first.ID)
	}
}

// A thousand containers are listed, and told of, while every verb hangs:
// nothing that a verb may hold is asked for.
func TestListsAndStatusesWaitForNoVerb(t *testing.T) {
	t.Parallel()
	tab := many(t)
	var containers []*container
	for _, c := range tab.containers {
		containers = append(containers, c)
		c.op.Lock()
		c.writing.Lock()
	}
	for _, p := range tab.pods {
		p.verbs.Lock()
		p.writing.Lock()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, c := range containers {
			if st, err := tab.Container(ViewAll, c.id); err != nil || st.ID != c.id {
				t.Errorf("status of container %s: %+v, %v", c.id, st, err)
			}
			if st, err := tab.Pod(ViewAll, c.pod.id); err != nil || st.ID != c.pod.id {
				t.Errorf("status of pod %s: %+v, %v", c.pod.id, st, err)
			}
		}
		// A list does not even take what is held for an instant.
		tab.mu.Lock()
		for _, c := range containers {
			c.mu.Lock()
		}
		if n := len(tab.Containers(ViewAll, ContainerFilter{})); n != 1000 {
			t.Errorf("%d containers are listed", n)
		}
		if n := len(tab.Pods(ViewAll, PodFilter{})); n != 100 {
			t.Errorf("%d pods are listed", n)
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("a list or a status waits for a verb")
	}
	a, b := tab.Containers(ViewAll, ContainerFilter{}), tab.Containers(ViewAll, ContainerFilter{})
	for i := range a {
		if a[i] != b[i] {
			t.Fatal("a list makes its items anew, it is no snapshot")
		}
	}
}
