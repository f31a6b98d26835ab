//go:build kube

package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const staticPod = `apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: static}
spec:
  hostNetwork: %v
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %s
    command: [sh, -c, "echo hello from $HOSTNAME; mkdir /www; echo page >/www/index.html; trap 'exit 0' TERM; httpd -p %d -h /www; while :; do sleep 0.2; done"]
    livenessProbe: {httpGet: {path: /index.html, port: %[4]d}, periodSeconds: 1, timeoutSeconds: 20}
`

// TestStandalone has a kubelet without a cluster, which runs what lies in a
// directory: the pods are there, live through the death of the daemon and a
// restart of the kubelet, and go when their files go.
func TestStandalone(t *testing.T) {
	timed(t)
	n := theNode
	if err := n.startKubelet(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	defer func() { n.kubelet.Stop(unix.SIGTERM) }()
	names := []string{"a", "b"}
	for i, name := range names {
		n.manifest(t, name, fmt.Sprintf(staticPod, name, name == "b", n.box, 8080+i))
	}
	before := n.staticPods(t, names...)
	body, err := n.get(t.Context(), kubeletURL("/containerLogs/static/a-"+nodeName+"/c"))
	if err != nil || string(body) != "hello from a-"+nodeName+"\n" {
		t.Errorf("the kubelet says of the log: %q, %v", body, err)
	}
	body, err = n.do(t.Context(), "POST", kubeletURL("/run/static/a-"+nodeName+"/c?cmd=cat%20/www/index.html"), "", "")
	if err != nil || string(body) != "page\n" {
		t.Errorf("the kubelet runs cat: %q, %v", body, err)
	}
	for _, url := range []string{"http://" + before["a-"+nodeName].Status.PodIP + ":8080/", "http://" + nodeIP + ":8081/"} {
		if body, err := n.get(t.Context(), url); err != nil || string(body) != "page\n" {
			t.Errorf("%s: %q, %v", url, body, err)
		}
	}

	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.kubelet.Stop(unix.SIGTERM)
	if err := n.kubeletAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, after := range n.staticPods(t, names...) {
		was, is := before[name].Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
		if was.ContainerID != is.ContainerID || is.RestartCount != 0 || before[name].Status.PodIP != after.Status.PodIP {
			t.Errorf("after a crash of the daemon and a restart of the kubelet: was %v, is %v", before[name].Status, after.Status)
		}
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(n.dir("manifests"), name+".yaml")); err != nil {
			t.Fatal(err)
		}
	}
	if err := eventually(t.Context(), patience, func() error {
		entries, err := os.ReadDir(n.dir("k/pods"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		pods, err := n.kubeletsPods(t.Context())
		if err != nil {
			return err
		}
		for _, p := range pods {
			if p.State == criv1.PodSandboxState_SANDBOX_READY {
				return fmt.Errorf("a pod without a file is there: %v", p)
			}
		}
		if len(entries) > 0 {
			return fmt.Errorf("of pods without a file there are %d volume directories", len(entries))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestDoctor has berth doctor look at kubelets that run: one that was given the
// socket that shows everything, and one that was given its own.
func TestDoctor(t *testing.T) {
	timed(t)
	n := theNode
	const warning = "kubelet.endpoint"
	for socket, warned := range map[string]bool{n.Socket: true, n.Kubelet: false} {
		if err := n.startKubelet(t.Context(), map[string]any{"containerRuntimeEndpoint": "unix://" + socket}); err != nil {
			t.Fatal(err)
		}
		found, _ := n.Berth(t.Context(), "doctor") // its code tells of other warnings too
		n.kubelet.Stop(unix.SIGTERM)
		if strings.Contains(found, warning) != warned || !strings.Contains(found, "kubelet") {
			t.Errorf("of a kubelet on %s the doctor says:\n%s", socket, found)
		}
	}
}

// manifest puts a static pod there, at once as the kubelet sees it.
func (n *node) manifest(t *testing.T, name, yaml string) {
	t.Helper()
	file := filepath.Join(n.Dir, name+".yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file, filepath.Join(n.dir("manifests"), name+".yaml")); err != nil {
		t.Fatal(err)
	}
}

// staticPods waits until the pods of these names are ready, and gives what the
// kubelet says of them.
func (n *node) staticPods(t *testing.T, names ...string) map[string]pod {
	t.Helper()
	var found map[string]pod
	if err := eventually(t.Context(), patience, func() error {
		data, err := n.get(t.Context(), kubeletURL("/pods"))
		if err != nil {
			return err
		}
		var list struct{ Items []pod }
		if err := json.Unmarshal(data, &list); err != nil {
			return err
		}
		found = map[string]pod{}
		for _, p := range list.Items {
			found[p.Metadata.Name] = p
		}
		for _, name := range names {
			p, ok := found[name+"-"+nodeName]
			if !ok {
				return fmt.Errorf("there is no pod %s: %s", name, strings.TrimSpace(string(data)))
			}
			if err := isReady(p); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}
