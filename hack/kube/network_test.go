//go:build kube

package kube

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestHostPorts reaches pods by ports of the node, over TCP and UDP, and not after
// they are gone.
func TestHostPorts(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  containers:
  - name: c
    image: $AGNHOST
    args: [netexec, --http-port, "8080", --udp-port, "8081"]
    ports: [{containerPort: 8080, hostPort: 30080}, {containerPort: 8081, hostPort: 30081, protocol: UDP}, {containerPort: 8080, hostPort: 30082, hostIP: 127.0.0.1}]
    readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1, timeoutSeconds: 20}
`)
	s.ready("p")
	for _, at := range []string{nodeIP + ":30080", "127.0.0.1:30080", "127.0.0.1:30082"} {
		if body, err := s.node.get(t.Context(), "http://"+at+"/hostname"); err != nil || string(body) != "p" {
			t.Errorf("%s: %q, %v", at, body, err)
		}
	}
	if _, err := s.node.get(t.Context(), "http://"+nodeIP+":30082/hostname"); err == nil {
		t.Error("a port of 127.0.0.1 is answered on the node's address")
	}
	if got, err := askUDP(nodeIP+":30081", "hostname"); err != nil || got != "p" {
		t.Errorf("over UDP: %q, %v", got, err)
	}
	// From another pod, and from itself, by the node's address.
	s.run("other", `
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.ready("other")
	s.says("other", "p", "wget -q -O - http://"+nodeIP+":30080/hostname")
	s.says("p", "p", "wget -q -O - http://"+nodeIP+":30080/hostname")
	s.kubectl("delete", "pod", "p")
	s.gone("p")
	s.eventually(func() error {
		if _, err := s.node.get(t.Context(), "http://"+nodeIP+":30080/hostname"); err == nil {
			return fmt.Errorf("the port of a deleted pod is answered")
		}
		return nil
	})
}

func askUDP(address, question string) (string, error) {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte(question)); err != nil {
		return "", err
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

// TestHostNetwork gives a pod the network of the node.
func TestHostNetwork(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  containers: [{name: c, image: $AGNHOST, args: [netexec, --http-port, "31080", --udp-port, "-1"]}]
`)
	p := s.ready("p")
	if p.Status.PodIP != nodeIP || p.Status.HostIP != nodeIP {
		t.Errorf("the pod has the address %s on %s", p.Status.PodIP, p.Status.HostIP)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	s.eventually(func() error {
		if body, err := s.node.get(t.Context(), "http://"+nodeIP+":31080/hostname"); err != nil || string(body) != host {
			return fmt.Errorf("%q, %v", body, err)
		}
		return nil
	})
	s.says("p", "yes", "grep -q node0 /proc/net/dev && echo yes")
}

// TestNames looks at what a pod can resolve: its own name, aliases, the
// cluster's name server; and reaches another pod by both families.
func TestNames(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  hostname: chosen
  subdomain: sub
  hostAliases: [{ip: 10.9.8.7, hostnames: [alias, alias.example]}]
  dnsConfig: {searches: [more.example], options: [{name: ndots, value: "3"}]}
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.run("server", `
  containers:
  - {name: c, image: $AGNHOST, args: [netexec, --http-port, "8080"], readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1, timeoutSeconds: 20}}
`)
	p, server := s.ready("p"), s.ready("server")
	s.says("p", "chosen", "hostname")
	s.says("p", p.Status.PodIP+" chosen.sub."+s.ns+".svc.cluster.local chosen", "grep chosen /etc/hosts | tr '\\t' ' ' | head -1")
	s.says("p", "10.9.8.7", "awk '/alias.example/ { print $1 }' /etc/hosts")
	resolv := s.exec("p", "cat /etc/resolv.conf")
	for _, want := range []string{"nameserver 10.96.0.10", s.ns + ".svc.cluster.local svc.cluster.local cluster.local more.example", "ndots:3"} {
		if !strings.Contains(resolv, want) {
			t.Errorf("resolv.conf lacks %q: %q", want, resolv)
		}
	}
	if len(server.Status.PodIPs) != len(s.Subnets) {
		t.Errorf("the pod has the addresses %v, want one of each of %v", server.Status.PodIPs, s.Subnets)
	}
	for _, ip := range server.Status.PodIPs {
		s.says("p", "server", "wget -q -O - http://"+net.JoinHostPort(ip.IP, "8080")+"/hostname")
	}
}
