//go:build kube

package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGates has a kubelet that follows the runtime's events instead of asking
// every second, and takes lists as streams: both are off by default yet.
func TestGates(t *testing.T) {
	s := newSpace(t)
	s.kubelet.Stop(unix.SIGTERM)
	from := len(s.kubeletLog())
	gates := map[string]bool{"MemoryQoS": false, "EventedPLEG": true, "CRIListStreaming": true}
	if err := s.restartInCluster(t.Context(), map[string]any{"featureGates": gates}); err != nil {
		t.Fatal(err)
	}
	s.run("ends", `
  restartPolicy: Never
  containers: [{name: c, image: $BOX, command: [sh, -c, "sleep 1; exit 3"]}]
`)
	s.run("again", `
  containers: [{name: c, image: $BOX, command: [sh, -c, "echo run; sleep 1"]}]
`)
	if c := s.ended("ends").Status.ContainerStatuses[0]; c.State.Terminated.ExitCode != 3 {
		t.Errorf("it ended with %v", c)
	}
	s.until("again", func(p pod) error {
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].RestartCount < 2 {
			return fmt.Errorf("not restarted: %v", p.Status.ContainerStatuses)
		}
		return nil
	})
	// A connection is counted where a stream of events ends: with the daemon.
	s.Kill()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.run("after", `
  restartPolicy: Never
  containers: [{name: c, image: $BOX, command: ["true"]}]
`)
	s.ended("after")
	log := s.kubeletLog()[from:]
	for line := range strings.Lines(log) {
		if strings.Contains(line, "not implemented, falling back") {
			t.Errorf("the kubelet had to ask otherwise: %s", line)
		}
	}
	data, err := s.node.get(t.Context(), kubeletURL("/metrics"))
	if err != nil || !regexp.MustCompile(`(?m)^kubelet_evented_pleg_connection_success_count [1-9]`).Match(data) {
		t.Errorf("the kubelet counts no stream of events: %v", err)
	}
	s.kubelet.Stop(unix.SIGTERM)
	if err := s.restartInCluster(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() error { return s.node.ready(t.Context()) })
}

func (n *node) kubeletLog() string {
	data, _ := os.ReadFile(n.dir("kubelet.log"))
	return string(data)
}

// TestNetworkOfCNI has a node whose cluster brings a network of CNI: it is not ready
// until the configuration is there, then pods get their addresses by the
// plugins, and give them back. Pods that were there keep their network.
func TestNetworkOfCNI(t *testing.T) {
	s := newSpace(t)
	n := s.node
	s.run("before", `
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	ip := s.ready("before").Status.PodIP
	plugins := n.dir("cni/bin")
	if err := os.CopyFS(plugins, os.DirFS(filepath.Join(n.Clone, "hack/.cache/cni"))); err != nil {
		t.Fatalf("cannot bring plugins (make cni): %v", err)
	}
	n.setMode(t, "bridge", "auto")
	s.eventually(func() error {
		if err := n.ready(t.Context()); err == nil || !strings.Contains(err.Error(), "NetworkPluginNotReady") && !strings.Contains(err.Error(), "not-ready") {
			return fmt.Errorf("without a network the node is %v", err)
		}
		return nil
	})
	subnets := n.CNISubnets()
	config := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"kcni0","isGateway":true,"hairpinMode":true,
"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`, n.dir("cni/addresses"), subnets[0])
	if err := n.SetNetwork("10-pods.conflist", config); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() error { return n.ready(t.Context()) })
	s.run("server", `
  containers:
  - {name: c, image: $AGNHOST, args: [netexec, --http-port, "8080"], ports: [{containerPort: 8080, hostPort: 30090}], readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1, timeoutSeconds: 20}}
`)
	s.run("client", `
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	server := s.ready("server").Status.PodIP
	s.ready("client")
	if !strings.HasPrefix(server, strings.TrimSuffix(subnets[0].Addr().String(), "0")) {
		t.Errorf("the pod has the address %s, want one of %s", server, subnets[0])
	}
	s.says("client", "server", "wget -q -O - http://"+server+":8080/hostname")
	if body, err := n.get(t.Context(), "http://"+nodeIP+":30090/hostname"); err != nil || string(body) != "server" {
		t.Errorf("the host port is answered with %q, %v", body, err)
	}
	if p := s.pod("before"); p.Status.PodIP != ip || p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the pod that was there has become %v", p.Status)
	}
	s.says("before", "0", "ping -c 1 "+n.Subnets[0].Addr().Next().String()+" >/dev/null; echo $?")
	s.kubectl("delete", "pod", "server", "client")
	s.gone("server")
	s.gone("client")
	s.eventually(func() error {
		held, err := filepath.Glob(filepath.Join(n.dir("cni/addresses"), "pods", subnets[0].Addr().Next().String()[:4]+"*"))
		if err == nil && len(held) > 0 {
			err = fmt.Errorf("addresses are not given back: %q", held)
		}
		return err
	})
	if err := os.RemoveAll(n.NetworkConf()); err != nil {
		t.Fatal(err)
	}
	n.setMode(t, "auto", "bridge")
	s.eventually(func() error { return n.ready(t.Context()) })
}

// setMode starts the daemon again with another mode of the network.
func (n *node) setMode(t *testing.T, from, to string) {
	t.Helper()
	file := n.dir("config.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), fmt.Sprintf("mode = %q", from), fmt.Sprintf("mode = %q", to), 1)
	if changed == string(text) {
		t.Fatalf("the configuration has no mode %q", from)
	}
	if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	n.Stop()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
