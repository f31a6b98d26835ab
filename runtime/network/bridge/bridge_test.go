package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

var ctx = context.Background()

func TestPodsReachEachOtherAndTheHost(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.attach(), w.attach()
	w.serve(b.Netns, "b", ":80")
	w.serve("", "host", ":90")
	w.serve(w.other, "other", ":80")
	w.answers(a.Netns, b.v4(), 80, "b", a.v4())
	w.answers(a.Netns, b.v6(), 80, "b", a.v6())
	w.answers("", b.v4(), 80, "b", "10.210.0.1")
	w.answers("", b.v6(), 80, "b", "fd00:be:27::1")
	w.answers(a.Netns, "10.210.0.1", 90, "host", a.v4())
	w.answers(a.Netns, "fd00:be:27::1", 90, "host", a.v6())
	w.answers(a.Netns, otherV4, 80, "other", hostV4) // masqueraded
	w.answers(a.Netns, otherV6, 80, "other", hostV6)
	w.clean()
}

func TestHostPortsAnswerFromEverywhere(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.attach(both(80, 8080, "")...), w.attach()
	w.serve(a.Netns, "a", ":80")
	w.answers("", "127.0.0.1", 8080, "a", "10.210.0.1")
	w.answers("", "127.0.0.9", 8080, "a", "10.210.0.1")
	w.answers("", hostV4, 8080, "a", "")
	w.answers("", hostV6, 8080, "a", "")
	w.answers("", "10.210.0.1", 8080, "a", "")
	w.answers(w.other, hostV4, 8080, "a", otherV4) // the client's address is kept
	w.answers(w.other, hostV6, 8080, "a", otherV6)
	for _, p := range []*pod{a, b} { // itself, and a neighbour
		w.answers(p.Netns, hostV4, 8080, "a", "10.210.0.1")
		w.answers(p.Netns, "10.210.0.1", 8080, "a", "10.210.0.1")
		w.answers(p.Netns, hostV6, 8080, "a", "fd00:be:27::1")
	}
	if got, err := ask("", "tcp", "::1", 8080, patience); got != "a fd00:be:27::1" {
		t.Errorf("::1: got %q, %v", got, err)
	}
	if _, err := ask("", "udp", "::1", 8080, patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("::1 over UDP: got %v, want the host's own refusal", err)
	}
	w.clean()
}

func TestHostPortsOfOneAddressAnswerThereOnly(t *testing.T) {
	w := newWorld(t, nil)
	local, wire, six := w.attach(both(80, 8080, "127.0.0.1")...), w.attach(both(81, 8080, hostV4)...), w.attach(both(82, 8080, "::")...)
	w.serve(local.Netns, "local", ":80")
	w.serve(wire.Netns, "wire", ":81")
	w.serve(six.Netns, "six", ":82")
	w.answers("", "127.0.0.1", 8080, "local", "")
	w.answers("", hostV4, 8080, "wire", "")
	w.answers(w.other, hostV4, 8080, "wire", otherV4)
	w.answers(w.other, hostV6, 8080, "six", otherV6)
	w.clean()
}

func TestReserveRefusesPortsThatAreTaken(t *testing.T) {
	w := newWorld(t, nil)
	w.serve("", "host", "127.0.0.1:9000")
	first := w.attach(spec.PortMapping{Protocol: "tcp", ContainerPort: 1, HostPort: 8080})
	one := func(proto string, port uint16, ip string) []spec.PortMapping {
		return []spec.PortMapping{{Protocol: proto, ContainerPort: 1, HostPort: port, HostIP: ip}}
	}
	for _, c := range []struct {
		ports []spec.PortMapping
		kind  errkind.Kind
		says  string
	}{
		{one("tcp", 8080, ""), errkind.AlreadyExists, "host port tcp 0.0.0.0:8080 is held by pod tests/pod1 (" + first.PodID[:12] + ")"},
		{one("tcp", 8080, "127.0.0.1"), errkind.AlreadyExists, first.PodID[:12]},
		{one("tcp", 8080, "::"), errkind.AlreadyExists, first.PodID[:12]},
		{one("tcp", 9000, ""), errkind.AlreadyExists, fmt.Sprintf("host port tcp 0.0.0.0:9000 is taken: process %d of the host (exe) listens on 127.0.0.1:9000", os.Getpid())},
		{one("udp", 9000, "127.0.0.1"), errkind.AlreadyExists, fmt.Sprintf("host port udp 127.0.0.1:9000 is taken: process %d of the host (exe) listens on", os.Getpid())},
		{append(one("udp", 70, ""), one("udp", 70, "127.0.0.1")...), errkind.AlreadyExists, "held by pod"},
		{one("icmp", 70, ""), errkind.InvalidArgument, "unknown protocol"},
		{one("tcp", 70, "localhost"), errkind.InvalidArgument, "is no IP address"},
		{one("udp", 70, "::1"), errkind.Unimplemented, "::1"},
		{[]spec.PortMapping{{Protocol: "tcp", HostPort: 70}}, errkind.InvalidArgument, "no container port"},
	} {
		_, err := w.b.Reserve(ctx, network.Request{PodID: "another", Ports: c.ports})
		if !errkind.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: got %v, want kind %v saying %q", c.ports, err, c.kind, c.says)
		}
	}
	// Nothing of the refused requests is held, and other ports are free.
	for _, ports := range [][]spec.PortMapping{one("udp", 8080, ""), one("udp", 70, ""), one("tcp", 70, ""), one("tcp", 9000, hostV4), one("tcp", 0, "")} {
		if _, err := w.b.Reserve(ctx, network.Request{PodID: ports[0].Protocol + ports[0].HostIP, Ports: ports}); err != nil {
			t.Error(err)
		}
		w.b.Release(ports[0].Protocol + ports[0].HostIP)
	}
}

func TestReserveTwiceIsTheSameLease(t *testing.T) {
	w := newWorld(t, nil)
	r := network.Request{PodID: "one", Ports: both(80, 8080, "")}
	a, err := w.b.Reserve(ctx, r)
	w.ok(err)
	b, err := w.b.Reserve(ctx, r)
	w.ok(err)
	if !reflect.DeepEqual(a, b) || len(a.Addresses) != 2 || len(a.Ports) != 2 {
		t.Errorf("got %v, then %v", a, b)
	}
	w.b.Release("one")
	w.b.Release("one")
	c, err := w.b.Reserve(ctx, network.Request{PodID: "two", Ports: r.Ports})
	w.ok(err)
	if c.Addresses[0] == a.Addresses[0] {
		t.Errorf("address %s was given again at once", c.Addresses[0])
	}
}

func TestAddressesThatAreWishedFor(t *testing.T) {
	w := newWorld(t, nil)
	wish := func(ips ...string) network.Request {
		r := w.request(nil)
		for _, a := range ips {
			r.IPs = append(r.IPs, netip.MustParseAddr(a))
		}
		return r
	}
	p := w.attachRequest(wish("fd00:be:27::77", "10.210.3.7"))
	if p.v4() != "10.210.3.7" || p.v6() != "fd00:be:27::77" {
		t.Errorf("it got %v", p.lease.Addresses)
	}
	one := w.attachRequest(wish("10.210.3.9"))
	if one.v4() != "10.210.3.9" || one.v6() == p.v6() {
		t.Errorf("it got %v", one.lease.Addresses)
	}
	w.serve(p.Netns, "p", ":80")
	w.answers(one.Netns, p.v4(), 80, "p", "10.210.3.9")
	for _, c := range []struct {
		r    network.Request
		kind errkind.Kind
		says string
	}{
		{wish("10.210.3.7"), errkind.AlreadyExists, "held by pod " + p.PodID},
		{wish("10.210.0.1"), errkind.InvalidArgument, "not one for pods"},
		{wish("10.210.255.255"), errkind.InvalidArgument, "not one for pods"},
		{wish("10.211.0.7"), errkind.InvalidArgument, "it wants address 10.211.0.7"},
		{wish("10.210.3.8", "10.210.3.10"), errkind.InvalidArgument, "it wants address 10.210.3.10"},
	} {
		if _, err := w.b.Reserve(ctx, c.r); !errkind.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: got %v, want kind %v saying %q", c.r.IPs, err, c.kind, c.says)
		}
	}
	mac := wish()
	mac.MAC = "0a:58:0a:00:00:02"
	if _, err := w.b.Reserve(ctx, mac); !errkind.Is(err, errkind.Unimplemented) {
		t.Errorf("a hardware address: %v", err)
	}
	w.attachRequest(wish("10.210.3.8")) // which the refused request has not kept
	w.clean()
}

func TestAttachIsIdempotentAndDetachLeavesNothing(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach(both(80, 8080, "")...)
	link, err := netlink.LinkByName(hostLink(p.PodID))
	w.ok(err)
	w.ok(w.b.Attach(ctx, p.Request, p.lease))
	again, err := netlink.LinkByName(hostLink(p.PodID))
	w.ok(err)
	if link.Attrs().Index != again.Attrs().Index {
		t.Error("the second Attach made another interface")
	}
	w.serve(p.Netns, "p", ":80")
	w.answers(w.other, hostV4, 8080, "p", otherV4)

	for range 2 {
		w.ok(w.b.Detach(ctx, p.lease, p.Netns))
		w.clean()
	}
	if _, err := netlink.LinkByName(hostLink(p.PodID)); !isNoLink(err) {
		t.Errorf("the host's interface is there: %v", err)
	}
	w.ok(netns.Do(p.Netns, func() error {
		if _, err := net.InterfaceByName(podLink); err == nil {
			t.Error("the pod's interface is there")
		}
		return nil
	}))
	if _, err := ask("", "tcp", "127.0.0.1", 8080, patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the host port still leads somewhere: %v", err)
	}

	// Attached again after all, then the namespace goes first.
	w.ok(w.b.Attach(ctx, p.Request, p.lease))
	w.ok(netns.Remove(p.Netns))
	w.ok(w.b.Detach(ctx, p.lease, p.Netns))
	w.b.Release(p.PodID)
	w.clean()
	if err := w.b.Attach(ctx, p.Request, p.lease); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("Attach without a namespace: got %v, want NotFound", err)
	}
}

func TestAttachReplacesTheInterfaceOfAnotherNamespace(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach()
	old := p.Netns
	p.Netns = w.request(nil).Netns
	w.ok(w.b.Attach(ctx, p.Request, p.lease))
	w.serve(p.Netns, "p", ":80")
	w.answers("", p.v4(), 80, "p", "")
	w.ok(netns.Do(old, func() error {
		if _, err := net.InterfaceByName(podLink); err == nil {
			t.Error("the old namespace has an interface")
		}
		return nil
	}))
}

func TestPodsWithoutPortsLeaveNftablesAlone(t *testing.T) {
	w := newWorld(t, nil)
	w.unwatched()
	w.attach()
	// A rule that is not ours stays until the table is written.
	c, err := nftables.New()
	w.ok(err)
	table := &nftables.Table{Name: "berth-berth0", Family: nftables.TableFamilyINet}
	c.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "guard", Table: table}})
	w.ok(c.Flush())
	p := w.attach()
	w.ok(w.b.Detach(ctx, p.lease, p.Netns))
	w.finds(`rule "" of chain guard is not ours`)
	w.attach(both(80, 8080, "")...)
	w.clean()
}

func TestRepairPutsBackWhatWasTaken(t *testing.T) {
	w := newWorld(t, nil)
	w.unwatched()
	p, q := w.attach(both(80, 8080, "")...), w.attach()
	w.serve(p.Netns, "p", ":80")
	conn, err := nftables.New()
	w.ok(err)
	table := &nftables.Table{Name: "berth-berth0", Family: nftables.TableFamilyINet}
	bridge := func() netlink.Link {
		l, err := netlink.LinkByName("berth0")
		w.ok(err)
		return l
	}
	for name, c := range map[string]struct {
		spoil func()
		finds string
	}{
		"nothing": {func() {}, ""},
		"table":   {func() { conn.DelTable(table); w.ok(conn.Flush()) }, "nftables table berth-berth0 is missing"},
		"flushed": {func() { conn.FlushTable(table); w.ok(conn.Flush()) }, `rule "tcp 0.0.0.0:8080 to 10.210.0.2:80 of pod`},
		"foreign": {func() {
			conn.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "guard", Table: table}})
			w.ok(conn.Flush())
		}, "is not ours"},
		"veth":     {func() { w.ok(netlink.LinkDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: hostLink(q.PodID)}})) }, "is attached but interface " + hostLink(q.PodID) + " is missing"},
		"bridge":   {func() { w.ok(netlink.LinkDel(bridge())) }, "bridge berth0 is missing"},
		"down":     {func() { w.ok(netlink.LinkSetDown(bridge())) }, "bridge berth0 is down"},
		"address":  {func() { w.ok(netlink.AddrDel(bridge(), addrOf(w.b.pools[0].gateway, 16))) }, "has no address 10.210.0.1/16"},
		"localnet": {func() { w.ok(setting{"ipv4/conf/berth0/route_localnet", "0"}.set()) }, "route_localnet to be 1"},
		"no master": {func() {
			w.ok(netlink.LinkSetNoMaster(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: hostLink(p.PodID)}}))
		}, "is not on bridge"},
		"orphan": {func() {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MasterIndex = "bt0123", bridge().Attrs().Index
			w.ok(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "lost", PeerTxQLen: -1}))
		}, "interface bt0123 on bridge berth0 belongs to no pod"},
	} {
		c.spoil()
		w.finds(c.finds)
		w.ok(w.b.Repair(ctx))
		w.clean()
		if w.answers("", "127.0.0.1", 8080, "p", ""); t.Failed() {
			t.Fatalf("after the repair of: %s", name)
		}
		w.answers(q.Netns, p.v4(), 80, "p", q.v4())
	}
	if _, err := netlink.LinkByName("bt0123"); !isNoLink(err) {
		t.Error("the orphan is still there")
	}
}

func TestRestartFindsEverythingAgain(t *testing.T) {
	w := newWorld(t, nil)
	p, gone := w.attach(both(80, 8080, "")...), w.attach(both(80, 8081, "")...)
	w.serve(p.Netns, "p", ":80")

	w.b = w.newBridge(Config{Masquerade: true, SetIPForward: true})
	w.ok(w.b.Restore(p.lease))
	w.ok(w.b.Restore(network.Lease{PodID: "reserved", Addresses: gone.lease.Addresses[:0]}))
	if err := w.b.Restore(network.Lease{PodID: "thief", Addresses: p.lease.Addresses}); err == nil {
		t.Error("an address was restored to two pods")
	}
	w.ok(w.b.Repair(ctx))
	w.clean()
	w.answers("", "127.0.0.1", 8080, "p", "")
	if _, err := netlink.LinkByName(hostLink(gone.PodID)); !isNoLink(err) {
		t.Error("the interface that no lease explains is still there")
	}
	_, err := w.b.Reserve(ctx, network.Request{PodID: "new", Ports: both(1, 8080, "")})
	if !errkind.Is(err, errkind.AlreadyExists) {
		t.Errorf("a restored port was given again: %v", err)
	}
	if n := w.attach(both(80, 8081, "")...); n.lease.Addresses[0] == p.lease.Addresses[0] {
		t.Error("a restored address was given again")
	}
	w.ok(w.b.Detach(ctx, p.lease, p.Netns))
	w.b.Release(p.PodID)
	w.clean()
}

func TestUDPFlowFollowsThePort(t *testing.T) {
	w := newWorld(t, nil)
	var c net.Conn
	w.ok(netns.Do(w.other, func() (err error) {
		c, err = net.Dial("udp", hostV4+":8080")
		return err
	}))
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	// Nobody is there yet: the host refuses, and remembers a flow to itself.
	if got, err := exchange(c); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %q (%v), want a refusal", got, err)
	}
	for _, name := range []string{"first", "second"} {
		p := w.attach(both(80, 8080, "")...)
		w.serve(p.Netns, name, ":80")
		if got, err := exchange(c); err != nil || got != name+" "+otherV4 {
			t.Fatalf("got %q (%v), want %s", got, err, name)
		}
		w.ok(w.b.Detach(ctx, p.lease, p.Netns))
		w.b.Release(p.PodID)
	}
}

// CVE-2020-8558.
func TestNETNoPodReachesTheHostsLoopback(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach()
	w.serve("", "secret", "127.0.0.1:9000")
	// The pod does what it can: it is root in its namespace and sends what is
	// for 127.0.0.1 to the gateway.
	w.ok(netns.Do(p.Netns, func() error {
		lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
		eth, err := netlink.LinkByName(podLink)
		return errors.Join(err,
			os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0),
			netlink.AddrDel(lo, addrOf(netip.MustParseAddr("127.0.0.1"), 8)),
			netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 1).To4(), Mask: net.CIDRMask(32, 32)}, Gw: w.b.pools[0].gateway.AsSlice()}))
	}))
	attack := func(wait time.Duration) (got string, err error) {
		err = netns.Do(p.Netns, func() error {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: p.lease.Addresses[0].AsSlice()}}
			c, err := d.Dial("udp", "127.0.0.1:9000")
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(wait))
			got, err = exchange(c)
			return err
		})
		return got, err
	}
	if got, err := attack(time.Second / 2); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the pod got %q (%v), want silence", got, err)
	}
	// The attempt is a real one: it works when the guard is gone.
	conn, err := nftables.New()
	w.ok(err)
	table := &nftables.Table{Name: "berth-berth0", Family: nftables.TableFamilyINet}
	conn.FlushChain(&nftables.Chain{Name: "guard", Table: table})
	w.ok(conn.Flush())
	if got, err := attack(patience); err != nil || got != "secret "+p.v4() {
		t.Errorf("without the guard: got %q (%v), want the secret", got, err)
	}
}

func TestPodWithoutIPv6GetsIPv4(t *testing.T) {
	w := newWorld(t, nil)
	off := map[string]string{"net.ipv6.conf.all.disable_ipv6": "1"}
	p := w.attachRequest(w.request(off, both(80, 8080, "")...))
	if len(p.lease.Addresses) != 1 {
		t.Errorf("got addresses %v, want one", p.lease.Addresses)
	}
	w.serve(p.Netns, "p", ":80")
	w.answers("", "127.0.0.1", 8080, "p", "")
	// The pod may also turn it off between Reserve and Attach.
	r := w.request(off)
	path := r.Netns
	r.Netns = ""
	l, err := w.b.Reserve(ctx, r)
	w.ok(err)
	r.Netns = path
	w.ok(w.b.Attach(ctx, r, l))
	w.answers(r.Netns, p.v4(), 80, "p", l.Addresses[0].String())
	w.clean()
}

func TestHostWithoutIPv6(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	set := setting{"ipv6/conf/all/disable_ipv6", "1"}
	if err := set.set(); err != nil {
		t.Fatal(err)
	}
	b, err := New(Config{})
	if err := (setting{set.path, "0"}).set(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	l, err := b.Reserve(ctx, network.Request{PodID: "one"})
	if err != nil || len(l.Addresses) != 1 {
		t.Errorf("got %v (%v), want an IPv4 address", l, err)
	}
}

func TestSubnetThatTheHostRoutesIsRefused(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Subnets = DefaultSubnets(); c.Subnets[0] = network24("192.0.2.0") })
	r := w.request(nil)
	l, err := w.b.Reserve(ctx, r)
	w.ok(err)
	for _, err := range []error{w.b.Status(ctx), w.b.Attach(ctx, r, l)} {
		if !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "192.0.2.0/24") {
			t.Errorf("got %v, want FailedPrecondition naming the route", err)
		}
	}
	if _, err := netlink.LinkByName("berth0"); !isNoLink(err) {
		t.Error("the bridge was made all the same")
	}
}

func TestNothingIsMadeBeforeItIsNeeded(t *testing.T) {
	w := newWorld(t, nil)
	w.ok(w.b.Status(ctx))
	_, err := w.b.Reserve(ctx, network.Request{PodID: "one", Ports: both(1, 8080, "")})
	w.ok(err)
	w.clean()
	w.ok(w.b.Detach(ctx, network.Lease{PodID: "never", Ports: both(1, 1, "")}, "/nowhere"))
	if _, err := netlink.LinkByName("berth0"); !isNoLink(err) {
		t.Error("the bridge is there")
	}
	w.ok(w.b.Teardown())
}

func TestAnInterfaceOfTheSameNameIsLeftAlone(t *testing.T) {
	w := newWorld(t, nil)
	d := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "berth0"}, PeerName: "peer0"}
	w.ok(netlink.LinkAdd(d))
	defer func() { _ = netlink.LinkDel(d) }()
	if err := w.b.Status(ctx); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("Status: got %v, want FailedPrecondition", err)
	}
	if err := w.b.Repair(ctx); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("Repair: got %v, want FailedPrecondition", err)
	}
	if err := w.b.Teardown(); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("Teardown: got %v, want FailedPrecondition", err)
	}
}

func TestManyPodsAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	const n = 24
	var requests []network.Request
	for i := range n {
		requests = append(requests, w.request(nil, both(80, uint16(7000+i), "")...))
	}
	var wg sync.WaitGroup
	for _, r := range requests {
		wg.Go(func() {
			l, err := w.b.Reserve(ctx, r)
			if err == nil {
				err = w.b.Attach(ctx, r, l)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.clean()
	for _, r := range requests {
		wg.Go(func() {
			l, err := w.b.Reserve(ctx, r)
			if err == nil {
				err = w.b.Detach(ctx, l, r.Netns)
			}
			if err != nil {
				t.Error(err)
			}
			w.b.Release(r.PodID)
		})
	}
	wg.Wait()
	w.clean()
	links, err := netlink.LinkList()
	w.ok(err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, linkPrefix) {
			t.Errorf("%s was left", l.Attrs().Name)
		}
	}
}

func TestTeardownLeavesTheHostAsItWas(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach(both(80, 8080, "")...)
	w.ok(w.b.Teardown())
	for _, name := range []string{"berth0", hostLink(p.PodID)} {
		if _, err := netlink.LinkByName(name); !isNoLink(err) {
			t.Errorf("%s is there", name)
		}
	}
	c, err := nftables.New()
	w.ok(err)
	tables, err := c.ListTables()
	w.ok(err)
	if len(tables) > 0 {
		t.Errorf("table %s is there", tables[0].Name)
	}
	w.ok(w.b.Attach(ctx, p.Request, p.lease))
	w.clean()
}

func BenchmarkAttachDetach(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	br, err := New(Config{Masquerade: true})
	if err != nil {
		b.Fatal(err)
	}
	defer br.Close()
	defer func() { _ = br.Teardown() }()
	r := network.Request{PodID: "0123456789abcdef", Netns: b.TempDir() + "/net"}
	if err := netns.Create(netns.Spec{Net: r.Netns}); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = netns.Remove(r.Netns) }()
	for b.Loop() {
		l, err := br.Reserve(ctx, r)
		if err != nil {
			b.Fatal(err)
		}
		if err := br.Attach(ctx, r, l); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := br.Detach(ctx, l, r.Netns); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
