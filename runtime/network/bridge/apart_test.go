package bridge

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/network/portmap"
)

// silent fails the test if anybody answers.
func (w *world) silent(path, host string, port int) {
	w.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		if got, err := ask(path, proto, host, port, time.Second/2); err == nil {
			w.Errorf("%s to %s port %d: %q answers", proto, host, port, got)
		}
	}
}

// throughGateway makes a pod send what is for another by the bridge's own
// address, as NET_ADMIN lets it.
func (w *world) throughGateway(p *pod, to *pod) {
	w.Helper()
	w.ok(netns.Do(p.Netns, func() error {
		eth, err := netlink.LinkByName(podLink)
		errs := []error{err}
		for i, a := range to.lease.Addresses {
			errs = append(errs, netlink.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index,
				Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), Gw: w.b.pools[i].gateway.AsSlice()}))
		}
		return errors.Join(errs...)
	}))
}

// T-NET: isolated pods meet by published ports, and in no other way.
func TestNETIsolatedPodsMeetByPublishedPorts(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Isolated = true })
	a, b := w.attach(both(80, 8080, "")...), w.attach()
	w.serve(a.Netns, "a", ":80")
	w.serve(w.other, "other", ":80")
	for i := range 2 {
		to := a.lease.Addresses[i].String()
		w.answers("", to, 80, "a", "")
		w.silent(b.Netns, to, 80)
		w.answers(b.Netns, []string{hostV4, hostV6}[i], 8080, "a", "")
		w.answers(a.Netns, []string{hostV4, hostV6}[i], 8080, "a", "") // itself
		w.answers(b.Netns, []string{otherV4, otherV6}[i], 80, "other", "")
		w.answers(w.other, []string{hostV4, hostV6}[i], 8080, "a", "")
	}
	w.throughGateway(b, a)
	w.silent(b.Netns, a.v4(), 80)
	w.silent(b.Netns, a.v6(), 80)
	w.clean()
}

// T-NET: an internal network ends at the host, both ways.
func TestNETInternalNetworkEndsAtTheHost(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Internal = true })
	a, b := w.attach(), w.attach()
	w.serve(a.Netns, "a", ":80")
	w.serve(w.other, "other", ":80")
	w.serve("", "host", ":80")
	for i := range 2 {
		to := a.lease.Addresses[i]
		w.answers("", to.String(), 80, "a", "")
		w.answers(b.Netns, to.String(), 80, "a", "")
		w.answers(b.Netns, w.b.pools[i].gateway.String(), 80, "host", "")
		w.silent(a.Netns, []string{otherV4, otherV6}[i], 80)
		w.ok(netns.Do(w.other, func() error {
			wire, err := netlink.LinkByName("wire0")
			return errors.Join(err, netlink.RouteReplace(&netlink.Route{LinkIndex: wire.Attrs().Index,
				Dst: ipNet(w.b.pools[i].prefix), Gw: net.ParseIP([]string{hostV4, hostV6}[i])}))
		}))
		w.silent(w.other, to.String(), 80)
	}
	if _, err := w.b.Reserve(ctx, w.request(nil, both(80, 8080, "")...)); err == nil {
		t.Error("an internal network publishes a port")
	}
	w.clean()
}

// T-NET: two networks of a host know of each other by published ports only, and
// share the host's ports.
func TestNETNetworksAreApart(t *testing.T) {
	ports := &portmap.Ports{}
	w := newWorld(t, func(c *Config) { c.Ports, c.ApartFrom = ports, []string{"berth0-*"} })
	second := &world{T: t, other: w.other, pods: 100}
	second.b = second.newBridge(Config{Name: "berth0-1", Masquerade: true, SetIPForward: true, Ports: ports, ApartFrom: []string{"*"},
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.211.0.0/24"), netip.MustParsePrefix("fd00:be:28::/64")}})
	t.Cleanup(func() { w.ok(second.b.Teardown()) })
	a, b := w.attach(both(80, 8080, "")...), second.attach(both(80, 8081, "")...)
	w.serve(a.Netns, "a", ":80")
	w.serve(b.Netns, "b", ":80")
	w.serve(w.other, "other", ":80")
	for i := range 2 {
		w.silent(a.Netns, b.lease.Addresses[i].String(), 80)
		w.silent(b.Netns, a.lease.Addresses[i].String(), 80)
		at := []string{hostV4, hostV6}[i]
		w.answers(a.Netns, at, 8081, "b", "")
		w.answers(b.Netns, at, 8080, "a", "")
		w.answers(b.Netns, at, 8081, "b", "")
		w.answers(w.other, at, 8081, "b", "")
		w.answers(b.Netns, []string{otherV4, otherV6}[i], 80, "other", "")
		w.answers("", b.lease.Addresses[i].String(), 80, "b", "")
		w.ok(netns.Do(w.other, func() error {
			wire, err := netlink.LinkByName("wire0")
			return errors.Join(err, netlink.RouteReplace(&netlink.Route{LinkIndex: wire.Attrs().Index, Dst: ipNet(second.b.pools[i].prefix), Gw: net.ParseIP(at)}),
				netlink.RouteReplace(&netlink.Route{LinkIndex: wire.Attrs().Index, Dst: ipNet(w.b.pools[i].prefix), Gw: net.ParseIP(at)}))
		}))
		w.silent(w.other, b.lease.Addresses[i].String(), 80)
		w.answers(w.other, a.lease.Addresses[i].String(), 80, "a", "") // the first one is routed, as ever
	}
	w.answers("", "127.0.0.1", 8081, "b", "10.211.0.1")
	if _, err := second.b.Reserve(ctx, second.request(nil, both(80, 8080, "")...)); err == nil {
		t.Error("a port is given twice, by two networks")
	}
	w.clean()
	second.clean()
}
