package hostcheck

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network"
)

// routes: a subnet that the host has another way to is hidden by the pods', and
// packets larger than the way out are cut or lost.
func routes(h Host) []network.Finding {
	const name = "subnets"
	own := 0
	if l, err := netlink.LinkByName(h.Interface); err == nil {
		own = l.Attrs().Index
	}
	all, err := mainRoutes()
	if err != nil {
		return []network.Finding{{Name: name, Verdict: network.Warn, Why: "cannot read the host's routes: " + err.Error()}}
	}
	out := conflicts(h, all, own)
	if len(out) == 0 && len(h.Subnets) > 0 {
		out = append(out, network.Finding{Name: name, Verdict: network.OK, Why: fmt.Sprintf("no other route of the host leads to %v", h.Subnets)})
	}
	return append(out, mtu(h, all)...)
}

// Routes are the subnets that the host's main tables lead to, default routes
// aside.
func Routes() ([]netip.Prefix, error) {
	all, err := mainRoutes()
	var out []netip.Prefix
	for _, r := range all {
		if to, ok := prefixOf(r.Dst); ok && to.Bits() > 0 {
			out = append(out, to)
		}
	}
	return out, err
}

func conflicts(h Host, all []netlink.Route, own int) []network.Finding {
	var out []network.Finding
	for _, r := range all {
		to, ok := prefixOf(r.Dst)
		if !ok || to.Bits() == 0 || own != 0 && r.LinkIndex == own {
			continue
		}
		for _, s := range h.Subnets {
			if to.Overlaps(s) {
				out = append(out, network.Finding{Name: "subnets", Verdict: network.Fail,
					Why: fmt.Sprintf("the host's route to %s%s overlaps the pods' subnet %s", to, through(r), s),
					Do:  "give the pods another subnet (network.subnets), or take the route away"})
			}
		}
	}
	return out
}

// through names where a route leads.
func through(r netlink.Route) string {
	l, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return ""
	}
	return " (" + l.Attrs().Name + ")"
}

func mtu(h Host, all []netlink.Route) []network.Finding {
	for _, r := range all {
		if to, ok := prefixOf(r.Dst); h.MTU == 0 || r.LinkIndex == 0 || ok && to.Bits() != 0 {
			continue
		}
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil || l.Attrs().MTU == 0 {
			continue
		}
		if l.Attrs().MTU >= h.MTU {
			return []network.Finding{{Name: "mtu", Verdict: network.OK, Why: fmt.Sprintf("packets of pods (MTU %d) fit into %s (MTU %d)", h.MTU, l.Attrs().Name, l.Attrs().MTU)}}
		}
		return []network.Finding{{Name: "mtu", Verdict: network.Warn,
			Why: fmt.Sprintf("packets of pods (MTU %d) are larger than the way out %s takes (MTU %d): connections that look open may hang", h.MTU, l.Attrs().Name, l.Attrs().MTU),
			Do:  fmt.Sprintf("set network.mtu = %d, and make the pods again", l.Attrs().MTU)}}
	}
	return nil
}

// mainRoutes lists the main table of both families.
func mainRoutes() ([]netlink.Route, error) {
	var out []netlink.Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		var all []netlink.Route
		err := error(netlink.ErrDumpInterrupted)
		for n := 0; n < 100 && errors.Is(err, netlink.ErrDumpInterrupted); n++ {
			all, err = netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, all...)
	}
	return out, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || size == 0 {
		return netip.Prefix{}, false
	}
	if size == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits), true
}
