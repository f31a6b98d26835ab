package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// ensure returns the bridge interface, making it if this process
// has not or if somebody took it away. When it is there, that costs one message.
func (b *Bridge) ensure(ctx context.Context) (netlink.Link, error) {
	b.linkMu.Lock()
	defer b.linkMu.Unlock()
	if b.index != 0 {
		l, err := b.host.LinkByIndex(b.index)
		if err == nil && l.Attrs().Name == b.cfg.Name && l.Attrs().Flags&net.FlagUp != 0 {
			return l, nil
		}
	}
	return b.makeLocked(ctx)
}

// makeLocked makes the bridge, or what is missing of it. The caller holds linkMu.
//
// The order matters: the guard is in force before route_localnet is, and the
// interface is up only when it is complete.
func (b *Bridge) makeLocked(ctx context.Context) (netlink.Link, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.index = 0
	link, err := b.host.LinkByName(b.cfg.Name)
	if isNoLink(err) {
		link, err = b.addBridge()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make bridge %s: %w", b.cfg.Name, err)
	}
	if link.Type() != "bridge" {
		return nil, errkind.New(errkind.FailedPrecondition, "cannot make bridge %s: there is an interface of that name and type %s", b.cfg.Name, link.Type())
	}
	for _, step := range []func() error{
		func() error { return setSysctls(b.bridgeSysctls()) },
		func() error { return b.setAddresses(link) },
		b.publish,
		func() error { return setSysctls([]setting{b.routeLocalnet()}) },
		func() error { return b.host.LinkSetUp(link) },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("cannot set up bridge %s: %w", b.cfg.Name, err)
		}
	}
	b.index = link.Attrs().Index
	b.watchLocked()
	return link, nil
}

// watchLocked begins to repair the tables whenever somebody else has changed
// them, as a firewall does that reloads its rules. The caller holds linkMu.
func (b *Bridge) watchLocked() {
	if b.watch != nil {
		return
	}
	ctx, end := context.WithCancel(context.Background())
	b.watch = end
	b.others.Go(func() {
		if err := b.table.Watch(ctx, b.repairTables); err != nil {
			klog.Background().Error(err, "Rules that others take away are found by a check only")
		}
	})
}

// repairTables writes the tables again if they are not what they should be.
func (b *Bridge) repairTables() {
	diffs, err := b.checkTables()
	if err == nil && len(diffs) == 0 {
		return
	}
	if err == nil {
		err = b.publish()
	}
	if err != nil {
		klog.Background().Error(err, "Cannot repair the rules of a bridge", "bridge", b.cfg.Name)
		return
	}
	klog.Background().Info("Somebody changed the rules of a bridge; they are as recorded again", "bridge", b.cfg.Name, "was", diffs)
}

// checkTables compares both tables with the leases.
func (b *Bridge) checkTables() ([]string, error) {
	b.tableMu.Lock()
	defer b.tableMu.Unlock()
	if err := b.locate(); err != nil {
		return nil, err
	}
	diffs, err := b.table.Check(b.entries())
	if err != nil {
		return nil, err
	}
	more, err := b.senders.check(b.heard)
	return append(diffs, more...), err
}

func isNoLink(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none) || errors.Is(err, unix.ENODEV)
}

// addBridge makes the interface, down and bare.
func (b *Bridge) addBridge() (netlink.Link, error) {
	if err := b.overlap(); err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = b.cfg.Name
	attrs.MTU = b.mtu()
	// Without an address of its own a bridge takes the lowest of its ports,
	// a new one each time that pod comes or goes, and every pod's neighbour
	// table has the old one.
	attrs.HardwareAddr = hardwareAddr(b.pools[0].gateway)
	link := &netlink.Bridge{LinkAttrs: attrs}
	if err := b.host.LinkAdd(link); err != nil {
		return nil, err
	}
	return link, nil
}

// hardwareAddr is a locally administered address made of an IPv4 one, so that
// an IP address has the same neighbour entry whichever pod holds it.
func hardwareAddr(a netip.Addr) net.HardwareAddr {
	v4 := a.As4()
	return append(net.HardwareAddr{0x0a, 0x58}, v4[:]...)
}

// mtu is the configured one, or that of the way out of the host: larger
// packets would be cut, or lost where nobody tells.
func (b *Bridge) mtu() int {
	const ethernet = 1500
	if b.cfg.MTU != 0 {
		return b.cfg.MTU
	}
	routes, err := b.mainRoutes(unix.AF_INET)
	if err != nil {
		return ethernet
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); (!ok || p.Bits() == 0) && r.LinkIndex != 0 {
			if l, err := b.host.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().MTU > 0 {
				return min(l.Attrs().MTU, ethernet)
			}
		}
	}
	return ethernet
}

// overlap refuses a subnet that the host already has a way to.
func (b *Bridge) overlap() error {
	if b.cfg.AllowRouteOverlap {
		return nil
	}
	for _, s := range b.cfg.Subnets {
		family := unix.AF_INET
		if s.Addr().Is6() {
			family = unix.AF_INET6
		}
		routes, err := b.mainRoutes(family)
		if err != nil {
			return fmt.Errorf("cannot read the host's routes: %w", err)
		}
		for _, r := range routes {
			if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 && p.Overlaps(s) {
				return errkind.New(errkind.FailedPrecondition, "subnet %s overlaps the host's route to %s; configure another subnet", s, p)
			}
		}
	}
	return nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if !ok {
		return netip.Prefix{}, false
	}
	if a.Is4In6() && len(n.Mask) == net.IPv4len {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits), true
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addrOf makes the kernel's form of an address. There is nobody to ask
// whether an IPv6 address is taken: we gave it, so it is valid at once.
func addrOf(a netip.Addr, bits int) *netlink.Addr {
	out := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, bits))}
	if a.Is6() {
		out.Flags = unix.IFA_F_NODAD
	}
	return out
}

// setAddresses gives the bridge its gateway addresses and takes others away,
// which an earlier Config has left.
func (b *Bridge) setAddresses(link netlink.Link) error {
	wanted := make(map[netip.Prefix]bool)
	for _, p := range b.pools {
		wanted[netip.PrefixFrom(p.gateway, p.prefix.Bits())] = true
		if err := b.host.AddrReplace(link, addrOf(p.gateway, p.prefix.Bits())); err != nil {
			return fmt.Errorf("cannot give it address %s: %w", p.gateway, err)
		}
	}
	have, err := b.addresses(link)
	if err != nil {
		return fmt.Errorf("cannot read its addresses: %w", err)
	}
	for _, a := range have {
		if p, ok := prefixOf(a.IPNet); ok && !wanted[p] && !p.Addr().IsLinkLocalUnicast() {
			if err := b.host.AddrDel(link, &a); err != nil {
				return fmt.Errorf("cannot take address %s away: %w", p, err)
			}
		}
	}
	return nil
}

// publish writes the table from the leases, whatever it holds.
func (b *Bridge) publish() error {
	b.tableMu.Lock()
	defer b.tableMu.Unlock()
	if err := b.locate(); err != nil {
		return err
	}
	return errors.Join(b.senders.write(b.heard), b.table.Apply(b.entries()))
}

// republish changes leases and has the table follow. Nobody who holds tableMu
// sees the one without the other.
func (b *Bridge) republish(change func()) error {
	b.tableMu.Lock()
	defer b.tableMu.Unlock()
	change()
	if err := b.locate(); err != nil {
		return err
	}
	return b.table.Update(b.entries())
}

// locate asks the kernel where the restored leases are.
func (b *Bridge) locate() error {
	b.mu.Lock()
	unknown := make(map[string]place)
	for id, g := range b.leases {
		if g.place == restored {
			unknown[id] = inMemory
		}
	}
	b.mu.Unlock()
	for id := range unknown {
		_, err := b.host.LinkByName(hostLink(id))
		switch {
		case err == nil:
			unknown[id] = inKernel
		case !isNoLink(err):
			return fmt.Errorf("cannot look at %s: %w", hostLink(id), err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, found := range unknown {
		if g := b.leases[id]; g != nil && g.place == restored {
			g.place = found
		}
	}
	return nil
}
