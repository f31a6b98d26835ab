// Package hostcheck looks at what a host's administrator decides and a pod
// network depends on: forwarding, bridged packets, nftables, other firewalls,
// routes, and who listens where.
//
// The law: it reads, and changes nothing that anybody could see; that nftables
// is usable is found by a transaction that takes back what it makes. A thing that
// cannot be looked at is a warning that says why: it is never thought to be good.
package hostcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/berth-runtime/berth/runtime/network"
)

// Host is what a network needs of the machine.
type Host struct {
	Interface    string         // that the pods are behind, which may be absent: a bridge
	Subnets      []netip.Prefix // of the pods
	SetIPForward bool           // the network itself switches forwarding on
	MTU          int            // of the pods' interfaces; 0: not known
	Table        string         // name of the network's own nftables tables; the prefix of another's that is left out too
	Ports        []Port         // that pods have been given
	// Probe writes what the network needs of nftables and takes it back; nil: it needs none.
	Probe func() error
}

// Examine looks at everything, in the network namespace of the caller.
func Examine(ctx context.Context, h Host) []network.Finding {
	var out []network.Finding
	for _, look := range []func(Host) []network.Finding{forwarding, bridged, usable, firewalls, routes, clashes} {
		if ctx.Err() != nil {
			return append(out, network.Finding{Name: "network", Verdict: network.Warn, Why: "the rest was not looked at: " + ctx.Err().Error()})
		}
		out = append(out, look(h)...)
	}
	return out
}

// hasIPv6 tells whether pods have IPv6 at all.
func (h Host) hasIPv6() bool {
	for _, s := range h.Subnets {
		if s.Addr().Is6() {
			return true
		}
	}
	return false
}

// readSysctl reads a file below /proc/sys of the calling thread's namespaces.
func readSysctl(path string) (string, error) {
	b, err := os.ReadFile("/proc/sys/" + path)
	return strings.TrimSpace(string(b)), err
}

// forwarding: without it packets of pods end at the host.
func forwarding(h Host) []network.Finding {
	one := func(name, family, key string) network.Finding {
		f := network.Finding{Name: name}
		value, err := readSysctl(strings.ReplaceAll(key, ".", "/"))
		switch {
		case err != nil:
			f.Verdict, f.Why = network.Warn, fmt.Sprintf("cannot read %s: %v", key, err)
		case value != "0":
			f.Verdict, f.Why = network.OK, "the host forwards "+family
		case h.SetIPForward:
			f.Verdict, f.Why = network.Warn, "the host does not forward "+family+" yet; the first pod switches it on (network.set_ip_forward)"
			f.Do = "nothing, unless pods run already: then something has switched it off, and berthd switches it on at its next start"
		default:
			f.Verdict, f.Why = network.Fail, "the host does not forward "+family+": pods reach the host and each other, and nothing beyond"
			f.Do = "sysctl -w " + key + "=1 (and a file in /etc/sysctl.d), or network.set_ip_forward = true in the configuration of berthd"
		}
		return f
	}
	out := []network.Finding{one("ipv4-forwarding", "IPv4", "net.ipv4.ip_forward")}
	if h.hasIPv6() {
		out = append(out, one("ipv6-forwarding", "IPv6", "net.ipv6.conf.all.forwarding"))
	}
	return out
}

// bridged: with br_netfilter what pods of one bridge send each other passes the
// host's own rules. The embedded network works both ways; kube-proxy's iptables
// mode wants it, and a firewall that drops what is forwarded then drops this too.
func bridged(Host) []network.Finding {
	f := network.Finding{Name: "br-netfilter", Verdict: network.OK}
	value, err := readSysctl("net/bridge/bridge-nf-call-iptables")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Why = "br_netfilter is not loaded: what pods of one bridge send each other passes no rules of the host; kube-proxy's iptables mode needs it (modprobe br_netfilter)"
	case err != nil:
		f.Verdict, f.Why = network.Warn, fmt.Sprintf("cannot read net.bridge.bridge-nf-call-iptables: %v", err)
	case value == "0":
		f.Why = "br_netfilter is off: what pods of one bridge send each other passes no rules of the host"
	default:
		f.Why = "br_netfilter is on: what pods of one bridge send each other passes the host's rules too"
	}
	return []network.Finding{f}
}

// usable: nftables does what the network needs, found by doing it.
func usable(h Host) []network.Finding {
	if h.Probe == nil {
		return nil
	}
	if err := h.Probe(); err != nil {
		return []network.Finding{{Name: "nftables", Verdict: network.Fail, Why: "the kernel does not take our rules: " + err.Error(),
			Do: "load or build nf_tables with nat, masq, ct, fib and the families inet and bridge (modprobe nf_tables nft_chain_nat nft_masq nft_fib_inet)"}}
	}
	return []network.Finding{{Name: "nftables", Verdict: network.OK, Why: "the kernel takes our rules"}}
}
