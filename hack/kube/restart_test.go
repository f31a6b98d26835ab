//go:build kube

package kube

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// restartInCluster starts the kubelet with changes to what the cluster's has.
func (n *node) restartInCluster(ctx context.Context, changes map[string]any) error {
	config := maps.Clone(clusterKubelet)
	maps.Copy(config, changes)
	return n.startKubelet(ctx, config, "--kubeconfig", n.kubeconfig, "--node-ip", nodeIP)
}

// TestRestarts has the kubelet and the daemon end, in order and not, while pods
// serve, probes ask and a Deployment grows: what ran runs on, with the same
// identity, address and count of restarts.
func TestRestarts(t *testing.T) {
	s := newSpace(t)
	n := s.node
	deployment := func(name string, replicas int) string {
		return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: $BOX
        command: [sh, -c, "mkdir /www; echo 0 >/www/index.html; httpd -p 80 -h /www; trap 'exit 0' TERM; i=0; while :; do echo $i | tee /www/new; mv /www/new /www/index.html; i=$((i+1)); sleep 0.2; done"]
        livenessProbe: {httpGet: {port: 80, path: /}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 5}
        readinessProbe: {exec: {command: [pidof, httpd]}, periodSeconds: 2, timeoutSeconds: 20}
`, name, replicas)
	}
	s.apply(deployment("stays", 4))
	s.kubectl("rollout", "status", "deployment/stays", "--timeout", patience.String())
	type identity struct{ uid, ip, container string }
	identities := func() map[string]identity {
		all := map[string]identity{}
		for _, p := range s.pods() {
			if strings.HasPrefix(p.Metadata.Name, "stays-") {
				c := p.Status.ContainerStatuses[0]
				all[p.Metadata.Name] = identity{p.Metadata.UID, p.Status.PodIP, fmt.Sprint(c.ContainerID, c.RestartCount)}
			}
		}
		return all
	}
	before := identities()
	ends := []struct {
		name string
		do   func() error
	}{
		{"the kubelet ends", func() error { n.kubelet.Stop(unix.SIGTERM); return n.kubeletAgain(t.Context()) }},
		{"the kubelet is killed", func() error { n.kubelet.Stop(unix.SIGKILL); return n.kubeletAgain(t.Context()) }},
		{"the daemon ends", func() error { n.Stop(); return n.Start(t.Context()) }},
		{"the daemon is killed", func() error { n.Kill(); return n.Start(t.Context()) }},
		{"the shim is killed", func() error {
			if _, err := n.KillShims(t.Context()); err != nil {
				return err
			}
			return nil
		}},
		{"both are killed", func() error {
			n.Kill()
			n.kubelet.Stop(unix.SIGKILL)
			if err := n.Start(t.Context()); err != nil {
				return err
			}
			return n.kubeletAgain(t.Context())
		}},
	}
	for i, end := range ends {
		// Pods come and go meanwhile.
		s.apply(deployment("grows", 1+i%3))
		if err := end.do(); err != nil {
			t.Fatalf("%s: %v", end.name, err)
		}
		s.kubectl("rollout", "status", "deployment/grows", "--timeout", patience.String())
		if after := identities(); !maps.Equal(before, after) {
			t.Errorf("after %s: was %v, is %v", end.name, before, after)
		}
		for name, id := range before {
			body, err := n.get(t.Context(), "http://"+id.ip+"/")
			if err != nil || len(body) == 0 {
				t.Errorf("after %s pod %s serves %q, %v", end.name, name, body, err)
			}
			if said := s.logs(name, "--tail", "1"); said == "" {
				t.Errorf("after %s pod %s has no log", end.name, name)
			}
			if said := s.exec(name, "echo yes"); said != "yes" {
				t.Errorf("after %s pod %s says %q", end.name, name, said)
			}
		}
		if err := eventually(t.Context(), patience, func() error { return n.ready(t.Context()) }); err != nil {
			t.Errorf("after %s: %v", end.name, err)
		}
	}
	for name := range before {
		for _, e := range s.events(name) {
			if strings.HasPrefix(e, "Killing") || strings.HasPrefix(e, "Evicted") || strings.HasPrefix(e, "SandboxChanged") {
				t.Errorf("pod %s: %s", name, e)
			}
		}
	}
}

// TestDeletedMeanwhile deletes pods while the daemon is dead: they go when it is
// back, with all that they had.
func TestDeletedMeanwhile(t *testing.T) {
	s := newSpace(t)
	n := s.node
	s.run("p", `
  volumes: [{name: v, emptyDir: {medium: Memory}}]
  containers: [{name: c, image: $BOX, `+idle+`, volumeMounts: [{name: v, mountPath: /v}]}]
`)
	s.ready("p")
	n.Kill()
	s.kubectl("delete", "pod", "p", "--wait=false")
	s.run("later", `
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.gone("p")
	s.ready("later")
}
