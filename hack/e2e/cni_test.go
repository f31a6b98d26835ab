//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/churn"
	"github.com/berth-runtime/berth/hack/cnitest"
	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// newCNINode is a node in a network namespace of its own, with the reference
// plugins and that of the tests.
func newCNINode(t *testing.T, mode string) *node {
	t.Helper()
	n := newNode(t, lab.Options{Network: mode, OwnNet: true})
	for _, plugin := range []string{"bridge", "host-local", "portmap", cnitest.Type} {
		if _, err := os.Stat(filepath.Join(n.Plugins(), plugin)); err != nil {
			t.Fatalf("the plugins of CNI are not built: make cni: %v", err)
		}
	}
	return n
}

// network puts a configuration in place and waits until the daemon says so.
func (n *node) network(text string) {
	n.t.Helper()
	if err := n.SetNetwork("10.conflist", text); err != nil {
		n.t.Fatal(err)
	}
	n.eventually(func() error { return n.condition(n.runtime(), "") })
}

// condition wants NetworkReady to be false for a reason with these words, or true.
func (n *node) condition(rt criv1.RuntimeServiceClient, words string) error {
	st, err := rt.Status(n.t.Context(), &criv1.StatusRequest{})
	if err != nil {
		return err
	}
	for _, c := range st.Status.Conditions {
		if c.Type != criv1.NetworkReady {
			continue
		}
		if words == "" && !c.Status || words != "" && (c.Status || c.Reason != "NetworkPluginNotReady" || !strings.Contains(c.Message, words)) {
			return fmt.Errorf("NetworkReady is %v: %s: %s", c.Status, c.Reason, c.Message)
		}
		return nil
	}
	return fmt.Errorf("there is no NetworkReady")
}

// kubelet is the other view of the node.
func (n *node) kubelet() criv1.RuntimeServiceClient {
	n.t.Helper()
	conn, err := n.Dial(n.Kubelet)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return criv1.NewRuntimeServiceClient(conn)
}

// fetch gets the page of a web server from within the node's network.
func (n *node) fetch(address string) error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.DialInside}}
	resp, err := client.Get("http://" + address + "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && string(body) != page {
		err = fmt.Errorf("%s: %q", resp.Status, body)
	}
	return err
}

// addresses are those that a pod's status tells.
func (n *node) addresses(id string) []netip.Addr {
	n.t.Helper()
	r, err := n.runtime().PodSandboxStatus(n.t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		n.t.Fatal(err)
	}
	out := []netip.Addr{netip.MustParseAddr(r.Status.Network.Ip)}
	for _, more := range r.Status.Network.AdditionalIps {
		out = append(out, netip.MustParseAddr(more.Ip))
	}
	return out
}

// nothing wants no pod to have left anything anywhere.
func (n *node) nothing() {
	n.t.Helper()
	for _, left := range churn.Left(n.t.Context(), n.Lab) {
		n.t.Errorf("left: %s", left)
	}
}

func (n *node) remove(ids ...string) {
	n.t.Helper()
	for _, id := range ids {
		if err := n.RemovePod(n.t.Context(), id); err != nil {
			n.t.Error(err)
		}
	}
}

// TestCNI: the configuration comes when the node is up, goes while pods are on
// its network, and each pod leaves the network that it was put on.
func TestCNI(t *testing.T) {
	n := newCNINode(t, "auto")
	rt, kubelet := n.runtime(), n.kubelet()
	n.crictl("pull", n.web)
	if err := n.condition(rt, ""); err != nil {
		t.Error(err)
	}
	if err := n.condition(kubelet, n.NetworkConf()); err != nil {
		t.Error(err)
	}
	if _, err := kubelet.RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: n.podConfig("early")}); err == nil || !strings.Contains(err.Error(), n.NetworkConf()) {
		t.Errorf("a pod of the kubelet without a network: %v", err)
	}
	embedded, _ := n.run("embedded", lab.ContainerConfig("c", n.web))

	n.network(n.BridgeList("1.1.0"))
	n.eventually(func() error { return n.condition(kubelet, "") })
	web := func(name string, port int) (string, []netip.Addr) {
		t.Helper()
		id, _ := n.run(name, lab.ContainerConfig("c", n.web), &criv1.PortMapping{ContainerPort: 80, HostPort: int32(port)})
		all := n.addresses(id)
		for i, subnet := range n.CNISubnets() {
			if len(all) <= i || !subnet.Contains(all[i]) {
				t.Fatalf("%s has %v, want addresses of %v", name, all, n.CNISubnets())
			}
		}
		n.eventually(func() error { return n.fetch(net.JoinHostPort(all[0].String(), "80")) })
		return id, all
	}
	gateway := n.CNISubnets()[0].Addr().Next().String()
	answers := func(name, port string, also ...string) {
		t.Helper()
		for _, host := range append([]string{"127.0.0.1", gateway}, also...) {
			if err := n.fetch(net.JoinHostPort(host, port)); err != nil {
				t.Errorf("%s by %s:%s: %v", name, host, port, err)
			}
		}
	}
	// Before any plugin set up what ports need.
	own, addresses := web("own", 8082)
	answers("a port of ours", "8082")

	n.network(n.BridgeList("1.0.0", lab.Portmap()))
	n.eventually(func() error {
		st, err := rt.Status(t.Context(), &criv1.StatusRequest{Verbose: true})
		if err == nil && !strings.Contains(st.Info["cniconfig"], "portmap") {
			err = fmt.Errorf("the configuration is %s", st.Info["cniconfig"])
		}
		return err
	})
	plugin, _ := web("plugin", 8081)
	answers("a port of the plugin", "8081")
	for name, from := range map[string]string{"another pod": plugin, "the pod itself": own} {
		err := netns.Do(filepath.Join(n.State, "netns", "berth-"+from), func() error {
			conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", net.JoinHostPort(gateway, "8082"))
			if err != nil {
				return err
			}
			return conn.Close()
		})
		if err != nil {
			t.Errorf("%s through the host port: %v", name, err)
		}
	}
	taken := n.podConfig("taken")
	taken.PortMappings = []*criv1.PortMapping{{ContainerPort: 80, HostPort: 8081}}
	if _, err := rt.RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: taken}); err == nil || !strings.Contains(err.Error(), "lab/plugin") {
		t.Errorf("a port that another pod has: %v", err)
	}

	// The configuration goes, and the daemon with it.
	if err := os.RemoveAll(n.NetworkConf()); err != nil {
		t.Fatal(err)
	}
	n.eventually(func() error { return n.condition(kubelet, n.NetworkConf()) })
	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	answers("after the restart", "8082")
	answers("after the restart", "8081")
	if got := n.addresses(own); fmt.Sprint(got) != fmt.Sprint(addresses) {
		t.Errorf("after the restart %v, before %v", got, addresses)
	}
	if problems, err := n.Admin().Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("berth check: %+v, %v", problems, err)
	}
	n.remove(plugin, own, embedded)
	n.nothing()
	if err := n.fetch("127.0.0.1:8082"); err == nil {
		t.Error("the host port still answers")
	}
}

// TestCNIFaults: a plugin that fails leaves nothing of the pod, one that cannot
// detach it is asked again until it can, by the next daemon too, and says what is
// the matter meanwhile.
func TestCNIFaults(t *testing.T) {
	n := newCNINode(t, "cni")
	rt := n.runtime()
	n.crictl("pull", n.shell)
	dir := cnitest.Dir(filepath.Join(n.Dir, "fault"))
	faults := func(f cnitest.Faults) {
		t.Helper()
		if err := dir.SetFaults(f); err != nil {
			t.Fatal(err)
		}
	}
	faults(cnitest.Faults{"STATUS": cnitest.Fail})
	if err := n.SetNetwork("10.conflist", n.BridgeList("1.1.0", lab.Plugin{"type": cnitest.Type, "dir": string(dir)}, lab.Portmap())); err != nil {
		t.Fatal(err)
	}
	n.eventually(func() error { return n.condition(rt, "plugin fault: STATUS: the cable is cut") })
	faults(nil)
	n.eventually(func() error { return n.condition(rt, "") })

	for _, fault := range []string{cnitest.Fail, cnitest.Garbage, cnitest.After} {
		faults(cnitest.Faults{"ADD": fault})
		_, err := rt.RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: n.podConfig("failed")})
		if err == nil || !strings.Contains(err.Error(), "cannot attach pod lab/failed (") || !strings.Contains(err.Error(), `to network "`+n.Name+`": plugin fault: ADD: `) {
			t.Errorf("%s: %v", fault, err)
		}
		n.nothing()
	}

	faults(nil)
	pod, _ := n.run("stuck", lab.ContainerConfig("c", n.shell, "sleep", "1000"), &criv1.PortMapping{ContainerPort: 80, HostPort: 8083})
	faults(cnitest.Faults{"DEL": cnitest.Fail})
	if _, err := rt.StopPodSandbox(t.Context(), &criv1.StopPodSandboxRequest{PodSandboxId: pod}); err == nil || !strings.Contains(err.Error(), "plugin fault: DEL: the cable is cut") {
		t.Errorf("stopped: %v", err)
	}
	if out, _ := n.Berth(t.Context(), "why", pod); !strings.Contains(out, "the cable is cut") {
		t.Errorf("berth why: %s", out)
	}
	if _, err := rt.RemovePodSandbox(t.Context(), &criv1.RemovePodSandboxRequest{PodSandboxId: pod}); err == nil {
		t.Error("removed although it is attached")
	}
	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(n.CNIAddresses()) == 0 {
		t.Error("the address is given back although no plugin did so")
	}
	faults(nil)
	n.eventually(func() error { // nobody asks for it
		if left := n.CNIAddresses(); len(left) > 0 {
			return fmt.Errorf("held: %v", left)
		}
		return nil
	})
	n.remove(pod)
	n.nothing()
}

// TestCNIReboot: what pods had before a reboot is given back after it, without
// their namespaces, and without the configuration that they were attached by.
func TestCNIReboot(t *testing.T) {
	n := newCNINode(t, "cni")
	n.crictl("pull", n.shell)
	dir := cnitest.Dir(filepath.Join(n.Dir, "fault"))
	n.network(n.BridgeList("1.0.0", lab.Plugin{"type": cnitest.Type, "dir": string(dir)}, lab.Portmap()))
	var pods []string
	for i := range 3 {
		id, _ := n.run(fmt.Sprintf("reboot%d", i), lab.ContainerConfig("c", n.shell, "sleep", "1000"), &criv1.PortMapping{ContainerPort: 80, HostPort: int32(8090 + i)})
		pods = append(pods, id)
	}
	if got := len(n.CNIAddresses()); got != len(pods)*len(n.CNISubnets()) {
		t.Errorf("%d addresses are held", got)
	}
	if err := os.RemoveAll(n.NetworkConf()); err != nil {
		t.Fatal(err)
	}
	n.reboot()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Where plugins are slow, the daemon is ready before all is given back.
	n.eventually(func() error {
		if left := n.CNIAddresses(); len(left) > 0 {
			return fmt.Errorf("held after the reboot: %v", left)
		}
		return nil
	})
	calls, err := dir.Calls("DEL")
	if err != nil || len(calls) != len(pods) {
		t.Errorf("DEL: %+v, %v", calls, err)
	}
	for _, c := range calls {
		if c.Netns != "" || !strings.Contains(string(c.Stdin), `"prevResult"`) {
			t.Errorf("DEL in namespace %q with %s", c.Netns, c.Stdin)
		}
	}
	for _, id := range pods {
		r, err := n.runtime().PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: id})
		if err != nil || r.Status.State != criv1.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("%v, %v", r, err)
		}
	}
	n.remove(pods...)
	n.nothing()
}

// reboot leaves the node as one finds it after a reboot: no process, nothing
// mounted, an empty state directory, interfaces and rules gone, and records of
// another boot.
func (n *node) reboot() {
	n.t.Helper()
	info, err := n.Admin().Info(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	n.Kill()
	for _, pid := range n.containerPids() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	n.eventually(func() error { // the shim reaps them
		if left := n.containerPids(); len(left) > 0 {
			return fmt.Errorf("still there: %v", left)
		}
		return nil
	})
	for _, pid := range info.Pids.Shims {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	table, err := mount.Table()
	if err != nil {
		n.t.Fatal(err)
	}
	for i := len(table) - 1; i >= 0; i-- {
		if strings.HasPrefix(table[i].Target, n.State+"/") {
			if err := unix.Unmount(table[i].Target, unix.MNT_DETACH); err != nil {
				n.t.Fatal(err)
			}
		}
	}
	if err := os.RemoveAll(n.State); err != nil {
		n.t.Fatal(err)
	}
	if err := n.EndNetwork(); err != nil {
		n.t.Fatal(err)
	}
	for _, kind := range []string{"pods", "containers"} {
		rows, err := filepath.Glob(filepath.Join(n.Root, kind, "*.json"))
		if err != nil {
			n.t.Fatal(err)
		}
		for _, file := range rows {
			text, err := os.ReadFile(file)
			if err != nil {
				n.t.Fatal(err)
			}
			var row map[string]json.RawMessage
			if err := json.Unmarshal(text, &row); err != nil {
				n.t.Fatal(err)
			}
			row["boot_id"] = json.RawMessage(`"the boot before"`)
			if text, err = json.Marshal(row); err == nil {
				err = os.WriteFile(file, text, 0o600)
			}
			if err != nil {
				n.t.Fatal(err)
			}
		}
	}
}

// containerPids are the processes in the node's cgroups.
func (n *node) containerPids() []int {
	var out []int
	for _, m := range cgroupMounts() {
		_ = filepath.WalkDir(filepath.Join(m, n.CgroupParent), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Name() == "cgroup.procs" {
				text, _ := os.ReadFile(path)
				for _, line := range strings.Fields(string(text)) {
					var pid int
					if _, err := fmt.Sscan(line, &pid); err == nil {
						out = append(out, pid)
					}
				}
			}
			return nil
		})
	}
	return out
}

func cgroupMounts() []string {
	table, _ := mount.Table()
	var out []string
	for _, m := range table {
		if strings.HasPrefix(m.FSType, "cgroup") {
			out = append(out, m.Target)
		}
	}
	return out
}

// TestChurn is a small run of what hack/soak does for long: pods come and go, the
// daemon is killed, a plugin fails one call in five, and nothing is left.
func TestChurn(t *testing.T) {
	for _, s := range churn.Setups() {
		t.Run(s.Name, func(t *testing.T) {
			n := newCNINode(t, s.Mode)
			if s.List != nil {
				n.network(s.List(n.Lab))
				if err := s.Dir(n.Lab).SetFaults(cnitest.Faults{"ADD": cnitest.Fifth, "DEL": cnitest.Fifth}); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			count, err := churn.Run(ctx, n.Lab, churn.Plan{Pods: 12, AtATime: 6, Kills: 2})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d kills cut %d calls, %d pods failed at first", count.Killed, count.Cut.Load(), count.Failed.Load())
			if s.List != nil && count.Failed.Load() == 0 {
				t.Error("no plugin failed")
			}
			n.nothing()
		})
	}
}
