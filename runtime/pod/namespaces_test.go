package pod_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// namespacesOf reads, inside the container, which namespaces it is in.
func (n *node) namespacesOf(t *testing.T, id string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(n.shOut(t, id, "for k in net pid ipc uts mnt user; do readlink /proc/self/ns/$k; done")) {
		kind, _, _ := strings.Cut(line, ":")
		out[kind] = strings.TrimSpace(line)
	}
	return out
}

// second starts a further container in a pod.
func (n *node) second(t *testing.T, podID, name string, change func(*spec.Container)) string {
	t.Helper()
	cfg := containerConfig(name, "/bin/sleep", "600")
	change(&cfg)
	id, err := n.Create(t.Context(), pod.ViewAll, podID, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context(), pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestNamespaces starts two containers in pods of every combination of modes
// and reads in both what they are in: the same, each its own, or the host's.
func TestNamespaces(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	modes := []spec.NamespaceMode{spec.ModePod, spec.ModeNode}
	for _, network := range modes {
		for _, ipc := range modes {
			for _, pid := range []spec.NamespaceMode{spec.ModePod, spec.ModeContainer, spec.ModeNode} {
				t.Run(fmt.Sprintf("network %s, ipc %s, pid %s", network, ipc, pid), func(t *testing.T) {
					n.testNamespaces(t, spec.Namespaces{Network: network, IPC: ipc, PID: pid})
				})
			}
		}
	}
}

func (n *node) testNamespaces(t *testing.T, ns spec.Namespaces) {
	podID, a := n.start(t, fmt.Sprintf("%s-%s-%s", ns.Network, ns.IPC, ns.PID), func(p *spec.Pod, c *spec.Container) {
		p.Namespaces, c.Security.Namespaces = ns, ns
	})
	b := n.second(t, podID, "second", func(c *spec.Container) { c.Security.Namespaces = ns })
	host := map[string]string{}
	for _, kind := range []string{"net", "pid", "ipc", "uts", "mnt", "user"} {
		host[kind] = readlink(t, "/proc/self/ns/"+kind)
	}
	inA, inB := n.namespacesOf(t, a), n.namespacesOf(t, b)
	for kind, mode := range map[string]spec.NamespaceMode{
		"net": ns.Network, "ipc": ns.IPC, "pid": ns.PID,
		"uts": ns.Network, // the host's name goes with its network
		"mnt": spec.ModeContainer, "user": spec.ModeNode,
	} {
		wantHosts, wantSame := mode == spec.ModeNode, mode != spec.ModeContainer
		if inA[kind] == "" || (inA[kind] == host[kind]) != wantHosts || (inA[kind] == inB[kind]) != wantSame {
			t.Errorf("%s, mode %s: the containers are in %s and %s, the host in %s", kind, mode, inA[kind], inB[kind], host[kind])
		}
	}
	if ns.Network == spec.ModeNode {
		name, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		n.wantSh(t, a, "hostname; cat /etc/hostname", name+"\n"+name)
	}
	// Shared memory is one with the IPC namespace.
	n.shOut(t, a, "echo here >/dev/shm/"+podID)
	defer func() { _ = os.Remove(filepath.Join("/dev/shm", podID)) }()
	n.wantSh(t, b, "cat /dev/shm/"+podID, "here")
	if _, err := os.Stat(filepath.Join("/dev/shm", podID)); (err == nil) != (ns.IPC == spec.ModeNode) {
		t.Errorf("ipc %s: on the host the file is there: %v", ns.IPC, err == nil)
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Error(err)
	}
}

// TestTargetPIDNamespace debugs a container from a second one, which must be
// no way into any other namespace.
func TestTargetPIDNamespace(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, target := n.start(t, "debugged", func(*spec.Pod, *spec.Container) {})
	at := func(id string) func(*spec.Container) {
		return func(c *spec.Container) {
			c.Security.Namespaces.PID, c.Security.Namespaces.TargetID = spec.ModeTarget, id
		}
	}
	debug := n.second(t, podID, "debug", at(target))
	n.wantSh(t, debug, "cat /proc/1/comm; readlink /proc/self/ns/pid", "sleep\n"+n.namespacesOf(t, target)["pid"])

	hostPod, onHost := n.start(t, "on-host", func(p *spec.Pod, c *spec.Container) {
		p.Namespaces.PID, c.Security.Namespaces.PID = spec.ModeNode, spec.ModeNode
	})
	created, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("created", "/bin/sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		pod, target, why string
		kind             errkind.Kind
	}{
		"of another pod":      {hostPod, target, "not running in pod", errkind.FailedPrecondition},
		"not started":         {podID, created, "not running", errkind.FailedPrecondition},
		"of the host's":       {hostPod, onHost, "mode NODE", errkind.FailedPrecondition},
		"itself a debugger":   {podID, debug, "mode TARGET", errkind.FailedPrecondition},
		"that does not exist": {podID, strings.Repeat("0", 64), "", errkind.NotFound},
	} {
		cfg := containerConfig("refused", "/bin/sleep", "600")
		at(c.target)(&cfg)
		if _, err := n.Create(t.Context(), pod.ViewAll, c.pod, cfg); !errkind.Is(err, c.kind) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("target %s: %v, want %q", what, err, c.why)
		}
	}

	// Between create and start the target ends, and takes the namespace along.
	cfg := containerConfig("late", "/bin/sleep", "600")
	at(target)(&cfg)
	late, err := n.Create(t.Context(), pod.ViewAll, podID, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.StopContainer(t.Context(), pod.ViewAll, target, 0); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context(), pod.ViewAll, late); err == nil {
		t.Error("a container started in the PID namespace of one that has ended")
	}
	n.ended(t, late)
	n.ended(t, debug)
}

// TestUTS: the pod's name is its own, and containers may not change it.
func TestUTS(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, a := n.start(t, "harbour", func(p *spec.Pod, _ *spec.Container) { p.Sysctls = map[string]string{"kernel.domainname": "quay"} })
	b := n.second(t, podID, "second", func(c *spec.Container) { c.Security.CapAdd, c.Security.Seccomp = []string{"SYS_ADMIN"}, nil })
	n.wantSh(t, a, "hostname; cat /proc/sys/kernel/domainname; cat /etc/hostname; echo $HOSTNAME", "harbour\nquay\nharbour\nharbour")
	n.wantRefused(t, a, "hostname other", "not permitted")
	n.wantSh(t, b, "hostname other && hostname", "other")
	n.wantSh(t, a, "hostname", "other")
	if host, err := os.Hostname(); err != nil || host == "other" || host == "harbour" {
		t.Errorf("the host is called %s now (%v)", host, err)
	}
}
