//go:build kube

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/lab"
)

// patience is how long anything may take that is expected to happen. Generous:
// the machine may be building at the same time.
const patience = 2 * time.Minute

// space is a namespace of Kubernetes for one test.
type space struct {
	*node
	t  *testing.T
	ns string
}

// pod is what the tests read of a Pod.
type pod struct {
	Metadata struct {
		Name, UID         string
		Annotations       map[string]string
		DeletionTimestamp string
	}
	Spec struct {
		NodeName, HostIP string
	}
	Status struct {
		Phase, Reason, Message, PodIP, HostIP, QosClass, StartTime string
		PodIPs                                                     []struct{ IP string }
		Conditions                                                 []struct{ Type, Status, Reason, Message string }
		ContainerStatuses, InitContainerStatuses                   []containerStatus
		EphemeralContainerStatuses                                 []containerStatus
	}
}

type containerStatus struct {
	Name, Image, ImageID, ContainerID string
	Ready, Started                    bool
	RestartCount                      int
	State, LastState                  containerState
	Resources                         struct{ Limits, Requests map[string]string }
	User                              struct {
		Linux struct {
			UID, GID           int
			SupplementalGroups []int
		}
	}
	VolumeMounts []struct{ Name, MountPath, RecursiveReadOnly string }
}

type containerState struct {
	Running    *struct{ StartedAt string }
	Waiting    *struct{ Reason, Message string }
	Terminated *struct {
		ExitCode, Signal                           int
		Reason, Message, StartedAt, FinishedAt, ID string
	}
}

// String is for messages of failed tests.
func (c containerStatus) String() string {
	text, _ := json.Marshal(c)
	return string(text)
}

var (
	timesMu sync.Mutex
	times   []string
)

// timed prints the test's name with its time at the end.
func timed(t *testing.T) {
	begin := time.Now()
	t.Cleanup(func() {
		verdict := "ok"
		if t.Failed() {
			verdict = "FAILED"
		}
		timesMu.Lock()
		defer timesMu.Unlock()
		times = append(times, fmt.Sprintf("  %-34s %6.1fs  %s", t.Name(), time.Since(begin).Seconds(), verdict))
	})
}

func printTimes() {
	slices.Sort(times)
	fmt.Printf("\nkube: %d tests\n%s\n", len(times), strings.Join(times, "\n"))
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// newSpace makes a namespace for the test, in the cluster.
func newSpace(t *testing.T) *space {
	t.Helper()
	n := inCluster(t)
	timed(t)
	name := "t-" + notInNames.ReplaceAllString(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), "-")
	s := &space{node: n, t: t, ns: name}
	s.post("/api/v1/namespaces", fmt.Sprintf(`{"metadata":{"name":%q}}`, name))
	t.Cleanup(s.end)
	// Pods are refused until this is there.
	s.eventually(func() error {
		_, err := s.node.get(t.Context(), apiURL("/api/v1/namespaces/"+name+"/serviceaccounts/default"))
		return err
	})
	return s
}

// end begins to delete what is in the namespace; takeDown waits for it.
func (s *space) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if s.t.Failed() {
		for _, args := range [][]string{{"describe", "pods"}, {"get", "events"}} {
			out, err := s.node.kubectl(ctx, "", append([]string{"-n", s.ns}, args...)...)
			s.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, lab.Tail(out, 150))
		}
	}
	if _, err := s.do(ctx, http.MethodDelete, apiURL("/api/v1/namespaces/"+s.ns), "", ""); err != nil {
		s.t.Error(err)
	}
}

// cleanContext is for what a test does after its end.
func (s *space) cleanContext() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	s.t.Cleanup(cancel)
	return ctx
}

// deleteSpaces deletes all namespaces of tests and waits until they are gone.
func (n *node) deleteSpaces(ctx context.Context) error {
	return eventually(ctx, patience, func() error {
		data, err := n.get(ctx, apiURL("/api/v1/namespaces"))
		if err != nil {
			return err
		}
		var list struct {
			Items []struct {
				Metadata struct{ Name, DeletionTimestamp string }
			}
		}
		if err := json.Unmarshal(data, &list); err != nil {
			return err
		}
		var left []string
		for _, item := range list.Items {
			m := item.Metadata
			if !strings.HasPrefix(m.Name, "t-") {
				continue
			}
			left = append(left, m.Name)
			if m.DeletionTimestamp == "" {
				if _, err := n.do(ctx, http.MethodDelete, apiURL("/api/v1/namespaces/"+m.Name), "", ""); err != nil {
					return err
				}
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("these namespaces are not deleted: %q", left)
		}
		return nil
	})
}

// eventually fails the test when f is not nil within a generous time.
func (s *space) eventually(f func() error) {
	s.t.Helper()
	if err := eventually(s.t.Context(), patience, f); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) post(path, body string) {
	s.t.Helper()
	if _, err := s.do(s.t.Context(), http.MethodPost, apiURL(path), "application/json", body); err != nil {
		s.t.Fatal(err)
	}
}

// read decodes an object of the namespace, such as "pods/web".
func (s *space) read(path string, into any) error {
	group := "/api/v1"
	switch kind, _, _ := strings.Cut(path, "/"); kind {
	case "deployments", "replicasets":
		group = "/apis/apps/v1"
	case "jobs", "cronjobs":
		group = "/apis/batch/v1"
	}
	data, err := s.node.get(s.t.Context(), apiURL(group+"/namespaces/"+s.ns+"/"+path))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// kubectl runs a command in the namespace that must succeed.
func (s *space) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.tryKubectl("", args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (s *space) tryKubectl(stdin string, args ...string) (string, error) {
	return s.node.kubectl(s.t.Context(), stdin, append([]string{"-n", s.ns}, args...)...)
}

// apply creates objects from YAML, in which $BOX, $AGNHOST and $REGISTRY stand
// for what the node has.
func (s *space) apply(yaml string) {
	s.t.Helper()
	text := strings.NewReplacer("$BOX", s.box, "$AGNHOST", s.agnhost, "$REGISTRY", s.Registry, "\t", "  ").Replace(yaml)
	if out, err := s.tryKubectl(text, "apply", "--validate=false", "-f", "-"); err != nil {
		s.t.Fatalf("%v\n%s\n%s", err, out, text)
	}
}

// run creates a pod whose spec is the YAML given, indented below "spec:".
func (s *space) run(name, spec string) {
	s.t.Helper()
	s.apply(podYAML(name, spec))
}

// podYAML is a pod; its containers end soon when they are told to.
func podYAML(name, spec string) string {
	grace := "  terminationGracePeriodSeconds: 1\n"
	if strings.Contains(spec, "terminationGracePeriodSeconds") {
		grace = ""
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\nspec:\n%s%s\n", name, grace, strings.Trim(spec, "\n"))
}

// pod reads a pod, which must exist.
func (s *space) pod(name string) pod {
	s.t.Helper()
	var p pod
	if err := s.read("pods/"+name, &p); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// pods are all of the namespace.
func (s *space) pods() []pod {
	s.t.Helper()
	var list struct{ Items []pod }
	if err := s.read("pods", &list); err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

// until waits for a pod to satisfy f, and returns it as it was then.
func (s *space) until(name string, f func(p pod) error) pod {
	s.t.Helper()
	var p pod
	s.eventually(func() error {
		p = pod{}
		if err := s.read("pods/"+name, &p); err != nil {
			return err
		}
		return f(p)
	})
	return p
}

// ready waits until a pod is.
func (s *space) ready(name string) pod {
	s.t.Helper()
	return s.until(name, isReady)
}

func isReady(p pod) error {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return nil
		}
	}
	return fmt.Errorf("pod %s is %s and not ready: %v %v %v", p.Metadata.Name, p.Status.Phase, p.Status.Conditions, p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
}

// ended waits until a pod has succeeded or failed.
func (s *space) ended(name string) pod {
	s.t.Helper()
	return s.until(name, func(p pod) error {
		if p.Status.Phase != "Succeeded" && p.Status.Phase != "Failed" {
			return fmt.Errorf("pod %s is %s: %v %v", name, p.Status.Phase, p.Status.InitContainerStatuses, p.Status.ContainerStatuses)
		}
		return nil
	})
}

// gone waits until a pod is deleted.
func (s *space) gone(name string) {
	s.t.Helper()
	s.eventually(func() error {
		var p pod
		if err := s.read("pods/"+name, &p); err == nil || !strings.Contains(err.Error(), "404") {
			return fmt.Errorf("pod %s is not gone: %v", name, err)
		}
		return nil
	})
}

// logs is all that a container of a pod said.
func (s *space) logs(name string, args ...string) string {
	s.t.Helper()
	return s.kubectl(append([]string{"logs", name}, args...)...)
}

// says runs a script in a pod and wants it to print this.
func (s *space) says(name, want, script string) {
	s.t.Helper()
	if got := s.exec(name, script); got != want {
		s.t.Errorf("in pod %s, %s: %q, want %q", name, script, got, want)
	}
}

// exec runs a script in the first container of a pod.
func (s *space) exec(name, script string) string {
	s.t.Helper()
	return s.kubectl("exec", name, "--", "sh", "-c", script)
}

// events are the reasons and messages of what happened to an object.
func (s *space) events(name string) []string {
	s.t.Helper()
	var list struct {
		Items []struct {
			Reason, Message string
			InvolvedObject  struct{ Name string }
		}
	}
	if err := s.read("events", &list); err != nil {
		s.t.Fatal(err)
	}
	var found []string
	for _, e := range list.Items {
		if e.InvolvedObject.Name == name {
			found = append(found, e.Reason+": "+e.Message)
		}
	}
	return found
}

// event waits for an event whose text has this in it.
func (s *space) event(name, text string) {
	s.t.Helper()
	s.eventually(func() error {
		all := s.events(name)
		for _, e := range all {
			if strings.Contains(e, text) {
				return nil
			}
		}
		return fmt.Errorf("no event of %s says %q: %q", name, text, all)
	})
}
