package bridge

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/berth-runtime/berth/runtime/network/netns"
)

// CVE-2025-67499: a host port takes what is for the host. What a pod, or
// another host through this one, sends to the same port elsewhere goes there.
func TestNETHostPortsTakeOnlyWhatIsForTheHost(t *testing.T) {
	w := newWorld(t, nil)
	published, client := w.attach(both(80, 8080, "")...), w.attach()
	w.serve(published.Netns, "published", ":80")
	w.serve(w.other, "other", ":8080")
	w.serve(client.Netns, "client", ":8080")
	for _, at := range []string{otherV4, otherV6} {
		w.answers(client.Netns, at, 8080, "other", "")
		w.answers("", at, 8080, "other", "")
	}
	for i, at := range []string{client.v4(), client.v6()} {
		w.answers("", at, 8080, "client", "")
		via, to := []string{hostV4, hostV6}[i], netip.MustParseAddr(at)
		w.ok(netns.Do(w.other, func() error {
			link, err := netlink.LinkByName("wire0")
			return errors.Join(err, netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index,
				Dst: ipNet(netip.PrefixFrom(to, to.BitLen())), Gw: netip.MustParseAddr(via).AsSlice()}))
		}))
		w.answers(w.other, at, 8080, "client", "")
	}
	w.answers(w.other, hostV4, 8080, "published", otherV4) // which is the test's test
}

// CVE-2020-10749: no pod makes itself the router of its neighbours.
func TestNETPodsTakeNoRouterAdvertisements(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach()
	w.ok(netns.Do(p.Netns, func() error {
		for _, s := range []setting{{"ipv6/conf/" + podLink + "/accept_ra", "0"}, {"ipv6/conf/" + podLink + "/forwarding", "0"}} {
			if !s.holds() {
				t.Errorf("net/%s is not %s", s.path, s.value)
			}
		}
		return nil
	}))
}
