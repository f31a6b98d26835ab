package bridge

import (
	"net/netip"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// pool hands out the addresses of one subnet. It goes around: the address of
// a pod that has just gone is the last to be given again, so what the world
// still sends to it meets nobody.
type pool struct {
	prefix  netip.Prefix
	gateway netip.Addr // the first address, the bridge's
	last    netip.Addr // of those for pods
	next    netip.Addr // where the search begins
	holder  map[netip.Addr]string
}

func newPool(p netip.Prefix) *pool {
	gateway := p.Addr().Next()
	last := lastAddr(p)
	if p.Addr().Is4() {
		last = last.Prev() // the broadcast address
	}
	return &pool{prefix: p, gateway: gateway, last: last, next: gateway.Next(), holder: make(map[netip.Addr]string)}
}

// lastAddr is p's address with all host bits set.
func lastAddr(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(raw)
	return a
}

func (p *pool) take(podID string) (netip.Addr, error) {
	start := p.next
	for a := start; ; {
		if _, taken := p.holder[a]; !taken {
			p.holder[a] = podID
			p.next = p.after(a)
			return a, nil
		}
		if a = p.after(a); a == start {
			return netip.Addr{}, errkind.New(errkind.ResourceExhausted, "subnet %s has no free address, %d are held", p.prefix, len(p.holder))
		}
	}
}

// grant takes the one of wishes that is of the subnet, or any.
func (p *pool) grant(podID string, wishes []netip.Addr) (netip.Addr, error) {
	for _, a := range wishes {
		if p.prefix.Contains(a) {
			return a, p.claim(podID, a)
		}
	}
	return p.take(podID)
}

// unfit finds a wish that is of no pool, or of the same as one before it.
func unfit(wishes []netip.Addr, pools []*pool) (netip.Addr, bool) {
	given := map[*pool]bool{}
	for _, a := range wishes {
		fits := false
		for _, p := range pools {
			if p.prefix.Contains(a) && !given[p] {
				given[p], fits = true, true
			}
		}
		if !fits {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// after is the address that follows a, round the end.
func (p *pool) after(a netip.Addr) netip.Addr {
	if a == p.last {
		return p.gateway.Next()
	}
	return a.Next()
}

// claim takes an address that was given before a restart, or is wished for.
func (p *pool) claim(podID string, a netip.Addr) error {
	if holder, taken := p.holder[a]; taken && holder != podID {
		return errkind.New(errkind.AlreadyExists, "address %s is held by pod %s", a, holder)
	}
	if a.Less(p.gateway.Next()) || p.last.Less(a) {
		return errkind.New(errkind.InvalidArgument, "address %s of subnet %s is not one for pods", a, p.prefix)
	}
	p.holder[a] = podID
	if !a.Less(p.next) {
		p.next = p.after(a)
	}
	return nil
}

func (p *pool) giveBack(podID string) {
	for a, holder := range p.holder {
		if holder == podID {
			delete(p.holder, a)
		}
	}
}
