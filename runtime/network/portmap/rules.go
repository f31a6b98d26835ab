package portmap

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// The chains of the table.
const (
	chainGuard       = "guard"       // drops what route_localnet would let in
	chainPrerouting  = "prerouting"  // host ports, for packets that come in
	chainOutput      = "output"      // host ports, for the host's own packets
	chainPostrouting = "postrouting" // source addresses
	chainHostPorts   = "hostports"   // one rule an entry; the other two jump here
)

// rule is a rule before it has a table. Two tables are the same if their
// rules are, in order.
type rule struct {
	chain   string
	comment string
	exprs   []expr.Any
}

func (c Config) chains() []*nftables.Chain {
	return []*nftables.Chain{
		{Name: chainGuard, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw},
		{Name: chainHostPorts},
		{Name: chainPrerouting, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest},
		{Name: chainOutput, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest},
		{Name: chainPostrouting, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource},
	}
}

// rules is the table's content for entries, which are sorted.
func (c Config) rules(entries []Entry) ([]rule, error) {
	out := c.guard()
	for _, e := range entries {
		r, err := e.rule()
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	toHostPorts := []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		equal(1, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
		&expr.Verdict{Kind: expr.VerdictJump, Chain: chainHostPorts},
	}
	out = append(out,
		rule{chainPrerouting, "to the host", toHostPorts},
		rule{chainOutput, "::1 cannot be translated", join(address(destination, netip.PrefixFrom(netip.IPv6Loopback(), 128)), verdict(expr.VerdictReturn))},
		rule{chainOutput, "to the host", toHostPorts},
	)
	out = append(out, c.sources()...)
	for _, e := range entries {
		if e.Beside.IsValid() {
			out = append(out, e.beside())
		}
	}
	return out, nil
}

// guard closes what route_localnet opens on the bridge: without these rules a
// pod could reach what the host serves on 127.0.0.1 only (CVE-2020-8558).
func (c Config) guard() []rule {
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	from := c.behind(expr.MetaKeyIIFNAME)
	return []rule{
		{chainGuard, "no pod reaches the host's loopback", join(from, address(destination, loopback), verdict(expr.VerdictDrop))},
		{chainGuard, "no pod speaks as the host's loopback", join(from, address(source, loopback), verdict(expr.VerdictDrop))},
	}
}

// behind matches the interface behind which the pods are, of packets from or to
// them. Where that is not known it is any but the loopback: nothing that comes
// in by another has an address of 127.0.0.0/8, unless it is what guard is for.
func (c Config) behind(key expr.MetaKey) []expr.Any {
	if c.Bridge == "" {
		return iface(key, expr.CmpOpNeq, "lo")
	}
	return iface(key, expr.CmpOpEq, c.Bridge)
}

// beside is sources for one entry of a pod whose network is not ours: what comes
// to it from its own network through a host port gets the answer through the
// host as well.
func (e Entry) beside() rule {
	return rule{chainPostrouting, "beside the pod: " + e.String(), join(address(source, e.Beside),
		address(destination, netip.PrefixFrom(e.PodIP, e.PodIP.BitLen())), translated(), []expr.Any{&expr.Masq{}})}
}

// sources gives packets a source address to which the answer comes back.
func (c Config) sources() []rule {
	masquerade := []expr.Any{&expr.Masq{}}
	toPods := c.behind(expr.MetaKeyOIFNAME)
	away := iface(expr.MetaKeyOIFNAME, expr.CmpOpNeq, c.Bridge)
	out := []rule{{chainPostrouting, "the host's loopback to a host port",
		join(toPods, address(source, netip.MustParsePrefix("127.0.0.0/8")), masquerade)}}
	for _, s := range c.Subnets {
		// A pod that meets a pod of the same bridge through a host port would
		// get the answer past the host, from an address it never spoke to.
		out = append(out, rule{chainPostrouting, "pod to pod through a translated address",
			join(toPods, address(source, s), translated(), masquerade)})
		if c.Masquerade {
			out = append(out, rule{chainPostrouting, "pod to the outside", join(away, address(source, s), masquerade)})
		}
	}
	return out
}

// rule translates the destination of what arrives for e.
func (e Entry) rule() (rule, error) {
	proto := map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}[e.Protocol]
	if proto == 0 || !e.PodIP.IsValid() || e.HostIP.IsValid() && e.HostIP.Is4() != e.PodIP.Is4() {
		return rule{}, errkind.New(errkind.InvalidArgument, "cannot publish host port %s: bad protocol or mixed address families", e)
	}
	family := uint32(unix.NFPROTO_IPV4)
	if e.PodIP.Is6() {
		family = unix.NFPROTO_IPV6
	}
	to := nfproto(byte(family))
	if e.HostIP.IsValid() {
		to = address(destination, netip.PrefixFrom(e.HostIP, e.HostIP.BitLen()))
	}
	return rule{chainHostPorts, e.String(), join(to,
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			equal(1, []byte{proto}),
			// The destination port is at the same place in all three protocols.
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			equal(1, binary.BigEndian.AppendUint16(nil, e.HostPort)),
			&expr.Immediate{Register: 1, Data: e.PodIP.AsSlice()},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, e.PodPort)},
			// The maxima and the flag are what the kernel makes of the minima;
			// said here, they let Check compare what it reads back.
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: 2, RegProtoMax: 2, Specified: true},
		})}, nil
}

// side is which end of a packet a match is about.
type side int

const (
	source side = iota
	destination
)

// address matches packets of p's family with the address at s inside p.
func address(s side, p netip.Prefix) []expr.Any {
	family, offset, length := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if p.Addr().Is6() {
		family, offset, length = unix.NFPROTO_IPV6, 8, 16
	}
	if s == destination {
		offset += length
	}
	out := append(nfproto(family), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length})
	if p.Bits() < p.Addr().BitLen() {
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length,
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, length)})
	}
	return append(out, equal(1, p.Masked().Addr().AsSlice()))
}

func nfproto(family byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal(1, []byte{family})}
}

func iface(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

// translated matches packets of connections whose destination was changed, by
// us or by another (a service address, say).
func translated() []expr.Any {
	const ipsDstNAT = 1 << 5 // enum ip_conntrack_status, IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

func equal(register uint32, data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

func join(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
