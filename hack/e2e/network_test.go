//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/hack/lab"
)

// TestNetworksOfPeople is networks that people make: containers of one find each
// other by name, as they come and go, across the death of the daemon too.
func TestNetworksOfPeople(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.web)
	n.berth("pull", n.shell)
	n.berth("network", "create", "--label", "of=test", "blue")
	n.berth("network", "create", "--internal", "red")
	want(t, n.berth("network", "ls"), "blue")
	want(t, n.berth("network", "ls", "-q", "--filter", "label=of=test"), "blue")

	n.berth("run", "-d", "--name", "watch", "--network", "blue", n.shell, "sleep", "1000")
	n.berth("run", "-d", "--name", "db", "--network", "blue", "--network-alias", "database", "--hostname", "db-1", n.web)
	ask := func(from, url string) error {
		out, err := n.Berth(t.Context(), "exec", from, "wget", "-qO-", url)
		if err == nil && !strings.Contains(out, page) {
			err = fmt.Errorf("%s says %q", url, out)
		}
		return err
	}
	for _, name := range []string{"db", "database", "db-1"} {
		n.eventually(func() error { return ask("watch", "http://"+name+"/") })
	}
	// Of another network, and of the usual one, nobody knows the name or gets there.
	n.berth("run", "-d", "--name", "stranger", n.shell, "sleep", "1000")
	n.berth("run", "-d", "--name", "walled", "--network", "red", n.shell, "sleep", "1000")
	var blue []api.Network
	if err := json.Unmarshal([]byte(n.berth("network", "inspect", "blue")), &blue); err != nil || len(blue) != 1 || len(blue[0].Pods) != 2 || len(blue[0].Subnets) == 0 {
		t.Fatalf("inspect: %+v, %v", blue, err)
	}
	address := ""
	for _, p := range blue[0].Pods {
		if p.Name == "db" {
			address = p.Addresses[0]
		}
	}
	for _, from := range []string{"stranger", "walled"} {
		if hosts := n.berth("exec", from, "cat", "/etc/hosts"); strings.Contains(hosts, "\tdb") {
			t.Errorf("%s knows a pod of another network:\n%s", from, hosts)
		}
		if out, err := n.Berth(t.Context(), "exec", from, "wget", "-qO-", "-T", "1", "http://"+address+"/"); err == nil {
			t.Errorf("%s reaches a pod of another network: %q", from, out)
		}
	}
	if _, err := n.Berth(t.Context(), "network", "rm", "blue"); err == nil {
		t.Error("a network with pods was removed")
	}
	if _, err := n.Berth(t.Context(), "run", "--network", "green", n.shell, "true"); err == nil {
		t.Error("a container runs on a network that is not there")
	}

	// Who goes while the daemon is dead is forgotten by the next one.
	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ask("watch", "http://db/"); err != nil {
		t.Error(err)
	}
	wished := blue[0].Subnets[0][:strings.LastIndexByte(blue[0].Subnets[0], '.')] + ".77"
	n.berth("run", "-d", "--name", "wished", "--network", "blue", "--ip", wished, n.web)
	want(t, n.berth("exec", "watch", "cat", "/etc/hosts"), wished+"\twished")
	n.berth("rm", "-f", "wished")
	n.berth("run", "-d", "--name", "late", "--network", "blue", n.web)
	n.eventually(func() error { return ask("watch", "http://late/") })
	n.berth("rm", "-f", "db")
	if hosts := n.berth("exec", "watch", "cat", "/etc/hosts"); strings.Contains(hosts, "\tdb") || !strings.Contains(hosts, "late") {
		t.Errorf("after the end of db:\n%s", hosts)
	}
	want(t, n.berth("check"), "as recorded")
	n.berth("rm", "-f", "watch", "late", "walled", "stranger")
	n.berth("network", "rm", "blue")
	want(t, n.berth("network", "prune", "--force"), "red")
	want(t, n.berth("check"), "as recorded")
}

// TestPublishedPorts is what docker's -p means, and who has a port.
func TestPublishedPorts(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.web)
	n.berth("run", "-d", "--name", "any", "-p", "80", n.web)
	at := strings.TrimSpace(strings.Split(n.berth("port", "any", "80"), "\n")[0])
	_, port, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatalf("port says %q", at)
	}
	for _, host := range []string{"127.0.0.1", "[::1]"} { // of which the second is forwarded
		n.eventually(func() error { return get("http://"+host+":"+port+"/", page) })
	}
	want(t, n.berth("port", "any"), "80/tcp -> "+at)
	want(t, n.berth("ps"), ":"+port+"->80/tcp")

	// The one that is free of a range, beside a process of the host.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	first := taken.Addr().(*net.TCPAddr).Port
	n.berth("run", "-d", "--name", "range", "-p", fmt.Sprintf("127.0.0.1:%d-%d:80", first, first+20), n.web)
	if got := n.berth("port", "range", "80/tcp"); strings.Contains(got, fmt.Sprint(":", first, "\n")) || !strings.HasPrefix(got, "127.0.0.1:") {
		t.Errorf("port says %q", got)
	}
	for holder, number := range map[string]string{"pod default/any": port, "of the host (": fmt.Sprint(first)} {
		out, err := n.Berth(t.Context(), "run", "-d", "-p", "127.0.0.1:"+number+":80", n.web)
		if err == nil || !strings.Contains(err.Error()+out, holder) {
			t.Errorf("port %s: %q, %v does not name %q", number, out, err, holder)
		}
	}
	// After a restart of the daemon ::1 answers again.
	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := get("http://[::1]:"+port+"/", page); err != nil {
		t.Error(err)
	}
	n.berth("rm", "-f", "any", "range")
	if _, err := net.Dial("tcp", "[::1]:"+port); err == nil {
		t.Error("the port of a pod that is gone answers")
	}
}

// TestNamesInFiles is what a container finds in resolv.conf and hosts.
func TestNamesInFiles(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	cat := func(file string, flags ...string) string {
		return n.berth(append(append([]string{"run", "--rm"}, flags...), n.shell, "cat", file)...)
	}
	if got := cat("/etc/resolv.conf", "--dns", "192.0.2.53", "--dns", "2001:db8::53", "--dns-search", "a.example", "--dns-search", "b.example", "--dns-option", "ndots:3"); got !=
		"search a.example b.example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions ndots:3" {
		t.Errorf("resolv.conf is %q", got)
	}
	if got := cat("/etc/resolv.conf", "--dns", "192.0.2.53", "--dns-search", "."); strings.Contains(got, "search") || !strings.Contains(got, "nameserver 192.0.2.53") {
		t.Errorf("resolv.conf is %q", got)
	}
	if got := cat("/etc/resolv.conf"); strings.Contains(got, "nameserver 127.") || strings.Contains(got, "nameserver ::1") {
		t.Errorf("a name server of the host's loopback is of no use in a pod: %q", got)
	}
	got := cat("/etc/hosts", "--add-host", "db:192.0.2.7", "--add-host", "six=[2001:db8::7]", "--add-host", "here:host-gateway", "--hostname", "me")
	gateway := n.Subnets[0].Addr().Next().String()
	for _, line := range []string{"192.0.2.7\tdb\n", "2001:db8::7\tsix\n", gateway + "\there\n", "\tme\n"} {
		if !strings.Contains(got+"\n", line) {
			t.Errorf("hosts has no %q:\n%s", line, got)
		}
	}
	if got := strings.Fields(n.berth("run", "--rm", "--network", "none", n.shell, "ls", "/sys/class/net")); len(got) != 1 || got[0] != "lo" {
		t.Errorf("without a network there are %v", got)
	}

	// A container in the pod of another has its network.
	n.berth("run", "-d", "--name", "one", n.shell, "sh", "-c", "mkdir /www; echo shared > /www/index.html; httpd -f -p 8081 -h /www")
	n.eventually(func() error {
		out, err := n.Berth(t.Context(), "run", "--rm", "--network", "container:one", n.shell, "wget", "-qO-", "http://127.0.0.1:8081/")
		if err == nil && !strings.Contains(out, "shared") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	n.berth("rm", "-f", "one")
	// All that was looked at is said, whatever this machine lacks.
	out, _ := n.Berth(t.Context(), "network", "check")
	for _, name := range []string{"network.ipv4-forwarding", "network.nftables", "network.forward-policy", "network.subnets", "network.spoofing", "network.dns"} {
		want(t, out, name)
	}
}
