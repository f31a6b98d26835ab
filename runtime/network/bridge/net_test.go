package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
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

// T-NET: a probe of ports from another host finds what is published for it, and
// nothing of what the host, or a pod, has for the host alone.
func TestNETProbeFromAnotherHostFindsWhatIsPublished(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach(slices.Concat(both(80, 1080, ""), both(81, 1081, "127.0.0.1"), both(82, 1082, hostV4), both(83, 1083, "::"), both(84, 1084, "::1")[:1])...)
	for _, at := range []string{":80", ":81", ":82", ":83", ":84", ":85"} {
		w.serve(p.Netns, "p", at)
	}
	for _, at := range []string{"127.0.0.1:1090", "[::1]:1091", "10.210.0.1:1092"} { // 1092 is the host's at an address that it has
		w.serve("", "host", at)
	}
	for host, want := range map[string]string{hostV4: "[1080 1082]", hostV6: "[1080 1083]"} {
		var open []int
		w.ok(netns.Do(w.other, func() error {
			for port := 1000; port < 1200; port++ {
				c, err := net.DialTimeout("tcp", net.JoinHostPort(host, fmt.Sprint(port)), patience)
				if err == nil {
					open = append(open, port)
					_ = c.Close()
				} else if !errors.Is(err, syscall.ECONNREFUSED) {
					return err
				}
			}
			return nil
		}))
		if fmt.Sprint(open) != want {
			t.Errorf("at %s ports %v are open, want %s", host, open, want)
		}
	}
	// What is the host's own is there for itself.
	w.answers("", "127.0.0.1", 1081, "p", "")
	if got, err := ask("", "tcp", "::1", 1084, patience); err != nil || got == "" {
		t.Errorf("::1: %q, %v", got, err)
	}
}
