package portmap

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network/nft"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// The chains of the table.
const (
	chainGuard       = "guard"       // drops what no pod may send, and what route_localnet would let in
	chainApart       = "apart"       // drops what may not be forwarded to pods, or from them
	chainPrerouting  = "prerouting"  // host ports, for packets that come in
	chainOutput      = "output"      // host ports, for the host's own packets
	chainPostrouting = "postrouting" // source addresses
	chainHostPorts   = "hostports"   // one rule an entry; the other two jump here
)

func (c Config) chains() []*nftables.Chain {
	return []*nftables.Chain{
		{Name: chainGuard, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw},
		{Name: chainApart, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter},
		{Name: chainHostPorts},
		{Name: chainPrerouting, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest},
		{Name: chainOutput, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest},
		{Name: chainPostrouting, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource},
	}
}

// rules is the table's content for entries, which are sorted.
func (c Config) rules(entries []Entry) ([]nft.Rule, error) {
	out := append(c.guard(), c.apart()...)
	for _, e := range entries {
		if e.HostIP == netip.IPv6Loopback() {
			continue // the forwarder's
		}
		r, err := e.rule()
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	toHostPorts := []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		nft.Equal(1, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
		&expr.Verdict{Kind: expr.VerdictJump, Chain: chainHostPorts},
	}
	out = append(out,
		nft.In(chainPrerouting, "to the host", toHostPorts),
		nft.In(chainOutput, "::1 cannot be translated", nft.Address(nft.Destination, netip.PrefixFrom(netip.IPv6Loopback(), 128)), nft.Verdict(expr.VerdictReturn)),
		nft.In(chainOutput, "to the host", toHostPorts),
	)
	out = append(out, c.sources()...)
	for _, e := range entries {
		if e.Beside.IsValid() && e.HostIP != netip.IPv6Loopback() {
			out = append(out, e.beside())
		}
	}
	return out, nil
}

// behind matches the interface behind which the pods are, of packets from or to
// them. Where that is not known it is any but the loopback: nothing that comes
// in by another has an address of 127.0.0.0/8, unless it is what guard is for.
func (c Config) behind(key expr.MetaKey) []expr.Any {
	if c.Bridge == "" {
		return nft.Interface(key, expr.CmpOpNeq, "lo")
	}
	return nft.Interface(key, expr.CmpOpEq, c.Bridge)
}

// fromPods and toPods match what comes from the pods' side and what goes there.
func (c Config) fromPods() []expr.Any {
	return c.behind(expr.MetaKeyIIFNAME)
}
func (c Config) toPods() []expr.Any {
	return c.behind(expr.MetaKeyOIFNAME)
}

// guard closes what route_localnet opens on the bridge: without the first rules
// a pod could reach what the host serves on 127.0.0.1 only (CVE-2020-8558).
// The others hold pods to sources of their subnets; which pod has which address
// is for whoever knows the pods' interfaces.
func (c Config) guard() []nft.Rule {
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	drop := nft.Verdict(expr.VerdictDrop)
	out := []nft.Rule{
		nft.In(chainGuard, "no pod reaches the host's loopback", c.fromPods(), nft.Address(nft.Destination, loopback), drop),
		nft.In(chainGuard, "no pod speaks as the host's loopback", c.fromPods(), nft.Address(nft.Source, loopback), drop),
	}
	if !c.OwnSources {
		return out
	}
	six := c.fromPods()
	for _, s := range c.Subnets {
		if s.Addr().Is4() {
			out = append(out, nft.In(chainGuard, "pods speak as pods", c.fromPods(), nft.Outside(nft.Source, s), drop))
			continue
		}
		six = append(six, nft.Outside(nft.Source, s)...)
	}
	// What a neighbour says before and beside its address goes no further than
	// the host: the kernel forwards neither.
	six = append(six, nft.Outside(nft.Source, netip.MustParsePrefix("fe80::/10"))...)
	six = append(six, nft.Outside(nft.Source, netip.PrefixFrom(netip.IPv6Unspecified(), 128))...)
	return append(out, nft.In(chainGuard, "pods speak as pods", six, nft.Family(unix.NFPROTO_IPV6), drop))
}

// apart keeps pods from each other, and networks. What a host port has
// translated was let in when the port was published.
func (c Config) apart() []nft.Rule {
	drop := nft.Verdict(expr.VerdictDrop)
	away := nft.Interface(expr.MetaKeyOIFNAME, expr.CmpOpNeq, c.Bridge)
	elsewhere := nft.Interface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, c.Bridge)
	var out []nft.Rule
	if c.Isolated {
		out = append(out, nft.In(chainApart, "pods reach each other by host ports only", c.fromPods(), c.toPods(), nft.NotTranslated(), drop))
	}
	if c.Internal {
		out = append(out,
			nft.In(chainApart, "pods reach nothing beyond the host", c.fromPods(), away, drop),
			nft.In(chainApart, "nothing beyond the host reaches pods", elsewhere, c.toPods(), drop))
	}
	for _, from := range c.ApartFrom {
		by := nft.Interface(expr.MetaKeyIIFNAME, expr.CmpOpEq, from)
		if from == "*" {
			by = elsewhere
		}
		out = append(out, nft.In(chainApart, "from "+from+" by host ports only", by, c.toPods(), nft.NotEstablished(), nft.NotTranslated(), drop))
	}
	return out
}

// beside is sources for one entry of a pod whose network is not ours: what comes
// to it from its own network through a host port gets the answer through the
// host as well.
func (e Entry) beside() nft.Rule {
	return nft.In(chainPostrouting, "beside the pod: "+e.String(), nft.Address(nft.Source, e.Beside),
		nft.Address(nft.Destination, netip.PrefixFrom(e.PodIP, e.PodIP.BitLen())), nft.Translated(), []expr.Any{&expr.Masq{}})
}

// sources gives packets a source address to which the answer comes back.
func (c Config) sources() []nft.Rule {
	masquerade := []expr.Any{&expr.Masq{}}
	away := nft.Interface(expr.MetaKeyOIFNAME, expr.CmpOpNeq, c.Bridge)
	out := []nft.Rule{nft.In(chainPostrouting, "the host's loopback to a host port",
		c.toPods(), nft.Address(nft.Source, netip.MustParsePrefix("127.0.0.0/8")), masquerade)}
	for _, s := range c.Subnets {
		// A pod that meets a pod of the same bridge through a host port would
		// get the answer past the host, from an address it never spoke to.
		out = append(out, nft.In(chainPostrouting, "pod to pod through a translated address",
			c.toPods(), nft.Address(nft.Source, s), nft.Translated(), masquerade))
		if c.Masquerade {
			out = append(out, nft.In(chainPostrouting, "pod to the outside", away, nft.Address(nft.Source, s), masquerade))
		}
	}
	return out
}

// rule translates the destination of what arrives for e.
func (e Entry) rule() (nft.Rule, error) {
	proto := map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}[e.Protocol]
	if proto == 0 || !e.PodIP.IsValid() || e.HostIP.IsValid() && e.HostIP.Is4() != e.PodIP.Is4() {
		return nft.Rule{}, errkind.New(errkind.InvalidArgument, "cannot publish host port %s: bad protocol or mixed address families", e)
	}
	family := uint32(unix.NFPROTO_IPV4)
	if e.PodIP.Is6() {
		family = unix.NFPROTO_IPV6
	}
	to := nft.Family(byte(family))
	if e.HostIP.IsValid() {
		to = nft.Address(nft.Destination, netip.PrefixFrom(e.HostIP, e.HostIP.BitLen()))
	}
	return nft.In(chainHostPorts, e.String(), to,
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			nft.Equal(1, []byte{proto}),
			// The destination port is at the same place in all three protocols.
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			nft.Equal(1, binary.BigEndian.AppendUint16(nil, e.HostPort)),
			&expr.Immediate{Register: 1, Data: e.PodIP.AsSlice()},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, e.PodPort)},
			// The maxima and the flag are what the kernel makes of the minima;
			// said here, they let Check compare what it reads back.
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: 2, RegProtoMax: 2, Specified: true},
		}), nil
}
