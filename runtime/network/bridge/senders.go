package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/nft"
)

// senders is the nftables table, of family bridge, that says which frames may
// come from which interface: three sets, an element or two a pod in each, and
// rules that never change. A kernel that has no such tables is said so once and
// by Examine, and does without. The methods of nil do nothing.
type senders struct {
	name     string
	gateway  net.HardwareAddr // the bridge's own
	isolated bool             // pods send nothing to each other but through the host

	mu      sync.Mutex
	socket  nft.Socket // guarded by mu, owned
	missing error      // guarded by mu: why the kernel does not take the table
}

// The parts of the table.
const (
	chainFrames = "frames" // everything that enters any bridge of the host
	chainFrom   = "from"   // what comes from our interfaces
	setPorts    = "ports"  // interface
	setIPv4     = "ipv4"   // interface, hardware address, address
	setIPv6     = "ipv6"
)

func newSenders(c Config) *senders {
	return &senders{name: c.Table, isolated: c.Isolated, gateway: hardwareAddr(newPool(c.Subnets[0]).gateway)}
}

func (s *senders) table() *nftables.Table {
	return &nftables.Table{Name: s.name, Family: nftables.TableFamilyBridge}
}

func (s *senders) sets() map[string]*nftables.Set {
	out := make(map[string]*nftables.Set)
	for name, key := range map[string]nftables.SetDatatype{
		setPorts: nftables.TypeIFName,
		setIPv4:  nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr),
		setIPv6:  nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIP6Addr),
	} {
		out[name] = &nftables.Set{Table: s.table(), Name: name, KeyType: key}
	}
	return out
}

func (s *senders) chains() []*nftables.Chain {
	// Before all others, br_netfilter's hook among them (NF_BR_PRI_BRNF is 0).
	first := nftables.ChainPriorityRef(-300)
	return []*nftables.Chain{
		{Name: chainFrom},
		{Name: chainFrames, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: first},
	}
}

// Registers of 32 bits as the kernel numbers them: an interface's name fills the
// first four (1, as one of 128), a hardware address two more (2), then comes
// an address.
const (
	regName, regMAC = 1, 2
	regIP           = 14 // NFT_REG32_06
)

// rules are the table's, whatever pods there are.
func (s *senders) rules() []nft.Rule {
	ethertype := func(t uint16) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1}, nft.Equal(1, []byte{byte(t >> 8), byte(t)})}
	}
	load := func(register uint32, base expr.PayloadBase, offset, length uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
	}
	// from matches, or not, if the interface has the hardware address that
	// mac loads and the address that ip loads.
	from := func(set string, not bool, mac, ip expr.Any) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regName}, mac, ip,
			&expr.Lookup{SourceRegister: regName, SetName: set, Invert: not}}
	}
	icmp6 := func(kind byte) []expr.Any {
		return append(ethertype(unix.ETH_P_IPV6), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, nft.Equal(1, []byte{unix.IPPROTO_ICMPV6}),
			load(1, expr.PayloadBaseTransportHeader, 0, 1), nft.Equal(1, []byte{kind}))
	}
	const link, header = expr.PayloadBaseLLHeader, expr.PayloadBaseNetworkHeader
	sender := load(regMAC, link, 6, 6) // of the frame
	drop, accept := nft.Verdict(expr.VerdictDrop), nft.Verdict(expr.VerdictAccept)
	const redirect, advert, solicit, router = 137, 136, 135, 134 // RFC 4861
	var out []nft.Rule
	if s.isolated {
		// A bridge's own way, isolated ports, drops what br_netfilter translates
		// within the bridge as well, and with it published ports.
		past := []expr.Any{load(1, link, 0, 6), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: s.gateway}}
		const why = "pods reach each other through the host only"
		notMulticastICMP := append(ethertype(unix.ETH_P_IPV6), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, nft.Equal(1, []byte{unix.IPPROTO_ICMPV6}),
			load(1, expr.PayloadBaseTransportHeader, 0, 1))
		for _, kind := range []byte{131, 132, 143, solicit, advert} { // who listens to what, and who is where
			notMulticastICMP = append(notMulticastICMP, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{kind}})
		}
		out = append(out,
			nft.In(chainFrom, why, ethertype(unix.ETH_P_IP), past, drop),
			nft.In(chainFrom, why, ethertype(unix.ETH_P_IPV6), past,
				[]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}}}, drop),
			nft.In(chainFrom, why, notMulticastICMP, past, drop))
	}
	return append(out,
		nft.In(chainFrom, "pods speak with their own address", ethertype(unix.ETH_P_IP), from(setIPv4, false, sender, load(regIP, header, 12, 4)), accept),
		nft.In(chainFrom, "and frame", ethertype(unix.ETH_P_ARP), from(setIPv4, true, sender, load(regIP, header, 14, 4)), drop),
		nft.In(chainFrom, "and answer for their own address", ethertype(unix.ETH_P_ARP), from(setIPv4, false, load(regMAC, header, 8, 6), load(regIP, header, 14, 4)), accept),
		nft.In(chainFrom, "no pod is a router", icmp6(router), drop),
		nft.In(chainFrom, "no pod knows a better one", icmp6(redirect), drop),
		nft.In(chainFrom, "and answer for their own address", icmp6(advert), from(setIPv6, true, sender, load(regIP, expr.PayloadBaseTransportHeader, 8, 16)), drop),
		nft.In(chainFrom, "pods speak with their own address", ethertype(unix.ETH_P_IPV6), from(setIPv6, false, sender, load(regIP, header, 8, 16)), accept),
		nft.In(chainFrom, "and nothing else", drop),
		nft.In(chainFrames, "from a pod", []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: setPorts}},
			[]expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chainFrom}}))
}

// elements are a pod's, by set.
func elements(l network.Lease) map[string][]nftables.SetElement {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, hostLink(l.PodID))
	out := map[string][]nftables.SetElement{setPorts: {{Key: name}}}
	if len(l.Addresses) == 0 || !l.Addresses[0].Is4() {
		return out // no frame of such a pod is let through
	}
	mac := hardwareAddr(l.Addresses[0])
	for _, a := range append(slices.Clone(l.Addresses), linkLocal(mac)) {
		set := setIPv6
		if a.Is4() {
			set = setIPv4
		}
		key := slices.Concat(name, mac, []byte{0, 0}, a.AsSlice()) // each part fills whole registers
		out[set] = append(out[set], nftables.SetElement{Key: key})
	}
	return out
}

// linkLocal is the IPv6 address that the kernel makes of a hardware address
// (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// voice is a lease as the table sees it. Who is neither attached nor detached
// is on the way from the one to the other.
type voice struct {
	lease              network.Lease
	attached, detached bool
}

// write makes the table that of voices, which are asked for under the lock: a
// pod that goes meanwhile is dismissed after.
func (s *senders) write(voices func() []voice) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeLocked(voices())
}

func (s *senders) writeLocked(voices []voice) error {
	if s.missing != nil && !s.isolated {
		return nil
	}
	err := s.socket.Talk(func(conn *nftables.Conn) error {
		if err := s.queue(conn, voices); err != nil {
			return err
		}
		return conn.Flush()
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		klog.Background().Error(err, "The kernel has no nftables of bridges: pods can send from the addresses of others")
		s.missing = err
		if s.isolated {
			return fmt.Errorf("cannot keep pods from each other: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot write nftables table %s of family bridge: %w", s.name, err)
	}
	return nil
}

// queue is the transaction that makes the table that of voices.
func (s *senders) queue(conn *nftables.Conn, voices []voice) error {
	sets, content := s.sets(), map[string][]nftables.SetElement{}
	for _, v := range voices {
		if v.detached {
			continue
		}
		for set, e := range elements(v.lease) {
			content[set] = append(content[set], e...)
		}
	}
	nft.Renew(conn, s.table())
	for _, name := range []string{setPorts, setIPv4, setIPv6} {
		if err := conn.AddSet(sets[name], nil); err != nil {
			return err
		}
		// The kernel takes one list of elements in one attribute of 64 KiB.
		for some := range slices.Chunk(content[name], 500) {
			if err := conn.SetAddElements(sets[name], some); err != nil {
				return err
			}
		}
	}
	nft.Fill(conn, s.table(), s.chains(), s.rules())
	return nil
}

// admit lets a pod's frames in. Idempotent.
func (s *senders) admit(l network.Lease) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.changeLocked((*nftables.Conn).SetAddElements, l)
	if errors.Is(err, unix.ENOENT) {
		return nil // the table was taken away; whoever takes it is being watched
	}
	if err != nil {
		return fmt.Errorf("cannot let in what pod %s sends: %w", l.PodID, err)
	}
	return nil
}

// dismiss takes a pod's elements away. Those that are not there are success.
func (s *senders) dismiss(l network.Lease) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.changeLocked((*nftables.Conn).SetDeleteElements, l); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot forget what pod %s sends: %w", l.PodID, err)
	}
	return nil
}

func (s *senders) changeLocked(change func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error, l network.Lease) error {
	if s.missing != nil {
		return nil
	}
	return s.socket.Talk(func(conn *nftables.Conn) error {
		sets := s.sets()
		for set, e := range elements(l) {
			if err := change(conn, sets[set], e); err != nil {
				return err
			}
		}
		return conn.Flush()
	})
}

// check names the differences between the table and voices.
func (s *senders) check(voices func() []voice) ([]string, error) {
	if s == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.missing != nil {
		return nil, nil
	}
	want := voices()
	var diffs []string
	err := s.socket.Talk(func(conn *nftables.Conn) (err error) {
		diffs, err = s.differences(conn, want)
		return err
	})
	return diffs, err
}

func (s *senders) differences(conn *nftables.Conn, voices []voice) ([]string, error) {
	say := nft.Name(s.table())
	diffs, err := nft.Differences(conn, s.table(), s.chains(), s.rules())
	if err != nil || slices.Contains(diffs, nft.Missing(s.table())) {
		return diffs, err
	}
	have := map[string][]nftables.SetElement{}
	for name, set := range s.sets() {
		if have[name], err = conn.GetSetElements(set); err != nil {
			return nil, fmt.Errorf("cannot read set %s of %s: %w", name, say, err)
		}
	}
	for _, v := range voices {
		missing := false
		for name, e := range elements(v.lease) {
			for _, one := range e {
				at := slices.IndexFunc(have[name], func(h nftables.SetElement) bool { return bytes.Equal(h.Key, one.Key) })
				if at < 0 {
					missing = true
					continue
				}
				have[name] = slices.Delete(have[name], at, at+1)
			}
		}
		if missing && v.attached {
			diffs = append(diffs, fmt.Sprintf("%s does not let pod %s speak", say, v.lease.PodID))
		}
	}
	for name, left := range have {
		for _, e := range left {
			diffs = append(diffs, fmt.Sprintf("%s: an element of set %s, of interface %s, is not ours", say, name, strings.TrimRight(string(e.Key[:min(unix.IFNAMSIZ, len(e.Key))]), "\x00")))
		}
	}
	return diffs, nil
}

// remove deletes the table. One that is absent is success.
func (s *senders) remove() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.socket.Talk(func(conn *nftables.Conn) error {
		conn.DelTable(s.table())
		return conn.Flush()
	})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("cannot delete nftables table %s of family bridge: %w", s.name, err)
	}
	return nil
}

// Close frees what the other methods opened; the table stays in the kernel.
func (s *senders) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.socket.Close()
}
