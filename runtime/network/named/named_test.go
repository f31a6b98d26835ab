package named

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/bridge"
	"github.com/berth-runtime/berth/runtime/network/cni"
	"github.com/berth-runtime/berth/runtime/network/hostports"
	"github.com/berth-runtime/berth/runtime/network/modes"
	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/network/portmap"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

var ctx = context.Background()

// TestMain runs the tests in network and mount namespaces of their own.
func TestMain(m *testing.M) {
	const inside = "BERTH_NAMED_TEST_INSIDE"
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// host is the networks of a node.
type host struct {
	*testing.T
	*Set
	dir  string
	pods int
	rest *bridge.Bridge
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := &host{T: t, dir: t.TempDir()}
	h.ok(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	h.ok(netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}))
	h.start()
	t.Cleanup(func() {
		for _, m := range h.members() {
			h.ok(m.bridge.Teardown())
		}
		h.ok(h.rest.Teardown())
		h.Close()
		h.rest.Close()
	})
	return h
}

// start is what a daemon does that starts; the one before has ended.
func (h *host) start() {
	h.Helper()
	if h.Set != nil {
		h.Close()
		h.rest.Close()
	}
	ports := &portmap.Ports{}
	common := bridge.Config{Name: "tn0", Ports: ports, Masquerade: true, SetIPForward: true, ApartFrom: []string{"tn0-*"}, Subnets: bridge.DefaultSubnets()}
	var err error
	h.rest, err = bridge.New(common)
	h.ok(err)
	plugins, err := cni.New(ctx, cni.Config{ConfDir: filepath.Join(h.dir, "net.d"), BinDirs: []string{h.dir}, CacheDir: h.dir, Owner: h.dir,
		HostPorts: hostports.New(ports, "tn0-cni")})
	h.ok(err)
	h.Cleanup(plugins.Close)
	h.Set, err = New(ctx, Config{Dir: filepath.Join(h.dir, "networks"), Bridge: common,
		Pools: []netip.Prefix{netip.MustParsePrefix("10.211.0.0/16"), netip.MustParsePrefix("fd00:be:28::/48")}},
		modes.New(modes.Bridge, plugins, h.rest))
	h.ok(err)
}

func (h *host) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// attach makes a pod on a network.
func (h *host) attach(on string, ports ...spec.PortMapping) (network.Request, network.Lease) {
	h.Helper()
	r := h.request(on, ports...)
	l, err := h.Reserve(ctx, r)
	h.ok(err)
	l, err = h.Attach(ctx, r, l)
	h.ok(err)
	return r, l
}

func (h *host) request(on string, ports ...spec.PortMapping) network.Request {
	h.Helper()
	h.pods++
	id := fmt.Sprintf("%032x%032x", h.pods, 0)
	r := network.Request{PodID: id[21:] + id[:21], Namespace: "default", Name: fmt.Sprint("pod", h.pods), Network: on, Ports: ports,
		Netns: filepath.Join(h.TempDir(), "net")}
	h.ok(netns.Create(netns.Spec{Net: r.Netns}))
	h.Cleanup(func() { _ = netns.Remove(r.Netns) })
	return r
}

func (h *host) end(r network.Request, l network.Lease) {
	h.Helper()
	h.ok(h.Detach(ctx, l, r.Netns))
	h.Release(r.PodID)
}

func (h *host) clean() {
	h.Helper()
	diffs, err := h.Check(ctx)
	h.ok(err)
	if len(diffs) > 0 {
		h.Errorf("Check found:\n%s", strings.Join(diffs, "\n"))
	}
}

func (h *host) refuses(err error, kind errkind.Kind, says string) {
	h.Helper()
	if !errkind.Is(err, kind) || !strings.Contains(err.Error(), says) {
		h.Errorf("got %v, want kind %v saying %q", err, kind, says)
	}
}

// reach tells whether a listener in one namespace hears from another.
func reach(t *testing.T, from, to string, at netip.Addr) bool {
	t.Helper()
	var l net.Listener
	err := netns.Do(to, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(at, 80).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return netns.Do(from, func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(at, 80).String(), 1e9)
		if err == nil {
			_ = c.Close()
		}
		return err
	}) == nil
}

func TestNetworksAreMadeByNameAndOutliveTheDaemon(t *testing.T) {
	h := newHost(t)
	a, err := h.Create(Record{Name: "a"})
	h.ok(err)
	b, err := h.Create(Record{Name: "b", Internal: true, MTU: 1400, Labels: map[string]string{"team": "blue"}})
	h.ok(err)
	if a.Interface != "tn0-1" || b.Interface != "tn0-2" || len(a.Subnets) != 2 || a.Subnets[0].Overlaps(b.Subnets[0]) || a.Subnets[1].Overlaps(b.Subnets[1]) {
		t.Errorf("a is %+v, b is %+v", a, b)
	}
	if _, err := netlink.LinkByName("tn0-1"); err == nil {
		t.Error("the bridge is there before a pod needs it")
	}
	one, oneLease := h.attach("a", spec.PortMapping{Protocol: "tcp", HostPort: 8080, ContainerPort: 80})
	two, twoLease := h.attach("a")
	other, otherLease := h.attach("b")
	plain, plainLease := h.attach("")
	if oneLease.Network != "a" || !a.Subnets[0].Contains(oneLease.Addresses[0]) || oneLease.Gateways[0] != a.Subnets[0].Addr().Next() || plainLease.Network != "" {
		t.Errorf("leases %+v, %+v", oneLease, plainLease)
	}
	for i := range 2 {
		if !reach(t, two.Netns, one.Netns, oneLease.Addresses[i]) {
			t.Errorf("pods of one network do not reach each other at %s", oneLease.Addresses[i])
		}
		for _, from := range []network.Request{other, plain} {
			if reach(t, from.Netns, one.Netns, oneLease.Addresses[i]) {
				t.Errorf("a pod of another network reaches %s", oneLease.Addresses[i])
			}
		}
		if reach(t, one.Netns, plain.Netns, plainLease.Addresses[i]) {
			t.Errorf("a pod of a named network reaches %s", plainLease.Addresses[i])
		}
	}
	if l, err := netlink.LinkByName("tn0-2"); err != nil || l.Attrs().MTU != 1400 {
		t.Errorf("the MTU is not as asked: %v", err)
	}
	h.clean()
	h.refuses(h.Remove("a"), errkind.FailedPrecondition, one.PodID[:12])

	// A daemon that ends leaves all of it, and the next one knows it.
	h.start()
	if got := h.List(); len(got) != 2 || got[0].Name != "a" || !slices.Equal(got[0].Subnets, a.Subnets) || got[1].Labels["team"] != "blue" {
		t.Errorf("after a restart: %+v", got)
	}
	for _, l := range []network.Lease{oneLease, twoLease, otherLease, plainLease} {
		h.ok(h.Restore(l))
	}
	h.ok(h.Repair(ctx))
	h.clean()
	_, err = h.Reserve(ctx, h.request("b", spec.PortMapping{Protocol: "tcp", HostPort: 1, ContainerPort: 80}))
	h.refuses(err, errkind.InvalidArgument, "internal network publishes no ports")
	_, err = h.Reserve(ctx, h.request("", spec.PortMapping{Protocol: "tcp", HostPort: 8080, ContainerPort: 80}))
	h.refuses(err, errkind.AlreadyExists, "held by pod default/pod1")
	h.refuses(h.Remove("a"), errkind.FailedPrecondition, one.PodID[:12])

	h.end(one, oneLease)
	h.end(two, twoLease)
	h.ok(h.Remove("a"))
	h.refuses(h.Remove("a"), errkind.NotFound, `"a" does not exist`)
	_, err = h.Reserve(ctx, h.request("a"))
	h.refuses(err, errkind.NotFound, `network "a" does not exist`)
	if _, err := netlink.LinkByName("tn0-1"); err == nil {
		t.Error("the bridge is left")
	}
	tables, err := (&nftables.Conn{}).ListTables()
	h.ok(err)
	for _, table := range tables {
		if table.Name == "berth-tn0-1" {
			t.Error("a table is left")
		}
	}
	// The name, the interface and the subnet are free again.
	again, err := h.Create(Record{Name: "a"})
	h.ok(err)
	if again.Interface != "tn0-1" || !slices.Equal(again.Subnets, a.Subnets) {
		t.Errorf("made again: %+v", again)
	}
	h.end(other, otherLease)
	h.end(plain, plainLease)
	h.clean()
}

func TestNetworksThatCannotBeAreRefused(t *testing.T) {
	h := newHost(t)
	subnet := func(s ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	_, err := h.Create(Record{Name: "taken", Subnets: subnet("fd00:99::/64", "10.99.0.5/24")})
	h.ok(err)
	if got := h.List()[0].Subnets; got[0] != netip.MustParsePrefix("10.99.0.0/24") {
		t.Errorf("subnets %v", got)
	}
	for _, c := range []struct {
		r    Record
		kind errkind.Kind
		says string
	}{
		{Record{Name: ""}, errkind.InvalidArgument, "a name is of"},
		{Record{Name: "../x"}, errkind.InvalidArgument, "a name is of"},
		{Record{Name: strings.Repeat("n", 640_000)}, errkind.InvalidArgument, "at most 63"},
		{Record{Name: "host"}, errkind.InvalidArgument, "meaning of its own"},
		{Record{Name: "none"}, errkind.InvalidArgument, "meaning of its own"},
		{Record{Name: "taken"}, errkind.AlreadyExists, "there is one of that name"},
		{Record{Name: "x", Subnets: subnet("10.99.0.128/25")}, errkind.FailedPrecondition, "10.99.0.128/25 overlaps 10.99.0.0/24"},
		{Record{Name: "x", Subnets: subnet("10.210.3.0/24")}, errkind.FailedPrecondition, "overlaps 10.210.0.0/16"},
		{Record{Name: "x", Subnets: subnet("fd00:99::/96")}, errkind.FailedPrecondition, "overlaps fd00:99::/64"},
		{Record{Name: "x", Subnets: subnet("fd00:98::/64")}, errkind.InvalidArgument, "want an IPv4 one"},
		{Record{Name: "x", Subnets: subnet("10.98.0.0/31")}, errkind.InvalidArgument, "no room"},
		{Record{Name: "x", MTU: 68}, errkind.InvalidArgument, "MTU 68"},
	} {
		_, err := h.Create(c.r)
		h.refuses(err, c.kind, c.says)
	}
	// What the host leads to is not taken, neither by choice nor by chance.
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = "uplink", net.FlagUp
	up := &netlink.Bridge{LinkAttrs: attrs}
	h.ok(netlink.LinkAdd(up))
	t.Cleanup(func() { _ = netlink.LinkDel(up) })
	_, dst, err := net.ParseCIDR("10.211.0.0/22")
	h.ok(err)
	h.ok(netlink.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}))
	_, err = h.Create(Record{Name: "x", Subnets: subnet("10.211.1.0/24")})
	h.refuses(err, errkind.FailedPrecondition, "overlaps 10.211.0.0/22")
	r, err := h.Create(Record{Name: "x"})
	h.ok(err)
	if r.Subnets[0] != netip.MustParsePrefix("10.211.4.0/24") || r.Subnets[1] != netip.MustParsePrefix("fd00:be:28::/64") {
		t.Errorf("subnets %v", r.Subnets)
	}
}

// A network whose record is lost or cannot be read keeps no daemon from starting,
// and its pods can be ended.
func TestPodsOfALostNetworkCanBeEnded(t *testing.T) {
	h := newHost(t)
	_, err := h.Create(Record{Name: "lost"})
	h.ok(err)
	r, l := h.attach("lost")
	record := filepath.Join(h.dir, "networks", "lost.json")
	h.ok(os.WriteFile(record, []byte("{"), 0o600))
	h.start()
	if len(h.List()) != 0 {
		t.Errorf("networks %+v", h.List())
	}
	h.ok(h.Restore(l))
	h.end(r, l)
	h.ok(netns.Do(r.Netns, func() error {
		if _, err := net.InterfaceByName("eth0"); err == nil {
			t.Error("the interface is left")
		}
		return nil
	}))
	left, err := netlink.LinkByName("tn0-1")
	h.ok(err)
	h.ok(netlink.LinkDel(left))
	conn := &nftables.Conn{}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		conn.DelTable(&nftables.Table{Name: "berth-tn0-1", Family: family})
	}
	h.ok(conn.Flush())
}

func TestPartsOfAPool(t *testing.T) {
	for _, c := range []struct {
		pool string
		bits int
		want string
	}{
		{"10.0.254.0/23", 24, "[10.0.254.0/24 10.0.255.0/24]"},
		{"255.255.254.0/23", 24, "[255.255.254.0/24 255.255.255.0/24]"},
		{"10.0.0.0/30", 24, "[10.0.0.0/30]"},
		{"10.0.0.0/21", 22, "[10.0.0.0/22 10.0.4.0/22]"},
		{"fd00:1:2:fffe::/63", 64, "[fd00:1:2:fffe::/64 fd00:1:2:ffff::/64]"},
	} {
		var got []netip.Prefix
		for p := range parts(netip.MustParsePrefix(c.pool), c.bits) {
			got = append(got, p)
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%s in /%d: %v, want %s", c.pool, c.bits, got, c.want)
		}
	}
}
