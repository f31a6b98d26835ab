package portmap

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// staleFlows picks the tracked UDP flows that a change of the table has made
// wrong. Translation is decided by the first packet of a flow, and a UDP flow
// has a first packet only after a silence of minutes: clients that keep
// talking would keep a way that no rule explains.
type staleFlows struct {
	gone []Entry // flows that these took lead to a pod that is no longer meant
	come []Entry // flows that reached the host before these were published
	// unexplained are the pods' subnets, if whoever wrote the table before is not
	// known: what leads there by no entry of kept is stale.
	unexplained []netip.Prefix
	kept        []Entry
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	asked, okA := netip.AddrFromSlice(f.Forward.DstIP)
	answers, okB := netip.AddrFromSlice(f.Reverse.SrcIP)
	if !okA || !okB {
		return false
	}
	asked, answers = asked.Unmap(), answers.Unmap()
	took := func(e Entry) bool {
		return f.Forward.DstPort == e.HostPort && asked.Is4() == e.PodIP.Is4() && (!e.HostIP.IsValid() || e.HostIP == asked)
	}
	toPod := func(p netip.Prefix) bool { return answers != asked && p.Contains(answers) }
	if slices.ContainsFunc(s.unexplained, toPod) &&
		!slices.ContainsFunc(s.kept, func(e Entry) bool { return e.Protocol == "udp" && took(e) && answers == e.PodIP }) {
		return true
	}
	return slices.ContainsFunc(s.gone, func(e Entry) bool { return took(e) && answers == e.PodIP }) ||
		slices.ContainsFunc(s.come, func(e Entry) bool { return took(e) && answers == asked })
}

// forgetFlows deletes the stale flows of a change. It costs a dump of the
// tracked connections, so it does so only if UDP ports have changed, or where
// it is not known what they were.
func (t *Table) forgetFlows(after []Entry) error {
	s := staleFlows{gone: udpWithout(t.last, after), come: udpWithout(after, t.last)}
	if !t.written {
		s.unexplained, s.kept = t.cfg.Subnets, after
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		of := func(e Entry) bool { return e.PodIP.Is4() == (family == unix.AF_INET) }
		if len(s.unexplained) == 0 && !slices.ContainsFunc(s.gone, of) && !slices.ContainsFunc(s.come, of) {
			continue
		}
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, s); err != nil {
			return fmt.Errorf("cannot forget the UDP flows of changed host ports: %w", err)
		}
	}
	return nil
}

// Forget deletes the tracked UDP flows that somebody else's rules led to a pod,
// by ports that are no longer published.
func Forget(entries []Entry) error {
	return (&Table{last: entries, written: true}).forgetFlows(nil)
}

// udpWithout is the UDP part of a that is not in b.
func udpWithout(a, b []Entry) []Entry {
	var out []Entry
	for _, e := range a {
		if e.Protocol == "udp" && !slices.Contains(b, e) {
			out = append(out, e)
		}
	}
	return out
}
