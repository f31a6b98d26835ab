package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/fail"
)

// Attach implements network.Network. A pod without host ports costs about ten
// netlink messages and no transaction of nftables.
func (b *Bridge) Attach(ctx context.Context, r network.Request, l network.Lease) error {
	if err := b.attach(ctx, r.Netns, l); err != nil {
		return fmt.Errorf("cannot attach pod %s to bridge %s: %w", l.PodID, b.cfg.Name, err)
	}
	return nil
}

func (b *Bridge) attach(ctx context.Context, path string, l network.Lease) error {
	if len(l.Addresses) == 0 || !l.Addresses[0].Is4() {
		return errkind.New(errkind.InvalidArgument, "its lease has no IPv4 address")
	}
	for _, a := range l.Addresses {
		if b.poolOf(a) == nil {
			return errkind.New(errkind.FailedPrecondition, "its address %s is in no subnet of the bridge", a)
		}
	}
	bridge, err := b.ensure(ctx)
	if err != nil {
		return err
	}
	// First, so that the pod is heard from its first frame on.
	if err := b.senders.admit(l); err != nil {
		return err
	}
	if err := b.plug(path, l, bridge); err != nil {
		return err
	}
	fail.Hit("bridge.attach.plugged")
	if len(l.Ports) == 0 {
		b.setAttached(l, path)
		return nil
	}
	return b.republish(func() { b.setAttached(l, path) })
}

// setAttached notes where a lease is, also one that came by no Reserve.
func (b *Bridge) setAttached(l network.Lease, path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.leases[l.PodID]
	if g == nil {
		g = &grant{lease: clone(l)}
		b.leases[l.PodID] = g
	}
	g.place, g.netns = inKernel, path
}

// plug makes the veth pair and sets up the pod's end of it.
func (b *Bridge) plug(path string, l network.Lease, bridge netlink.Link) error {
	ns, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return errkind.New(errkind.NotFound, "its network namespace %s does not exist", path)
	}
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	veth, err := b.addVeth(ns, l, bridge)
	if err != nil {
		return err
	}
	// A packet may have to leave through the port it came by: with
	// br_netfilter, a pod that reaches itself through a service address is
	// translated within the bridge.
	if err := b.host.LinkSetHairpin(veth, true); err != nil {
		return fmt.Errorf("cannot set hairpin on %s: %w", veth.Attrs().Name, err)
	}
	return netns.Do(path, func() error { return b.setUpPod(l) })
}

// addVeth makes the pair with its far end in ns from the start, or finds the
// one that an earlier Attach made.
func (b *Bridge) addVeth(ns *os.File, l network.Lease, bridge netlink.Link) (netlink.Link, error) {
	name := hostLink(l.PodID)
	add := func() (netlink.Link, error) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex, attrs.MTU, attrs.Flags = name, bridge.Attrs().Index, bridge.Attrs().MTU, net.FlagUp
		v := &netlink.Veth{LinkAttrs: attrs, PeerName: podLink, PeerTxQLen: -1,
			PeerHardwareAddr: hardwareAddr(l.Addresses[0]), PeerNamespace: netlink.NsFd(ns.Fd())}
		return v, b.host.LinkAdd(v)
	}
	v, err := add()
	if !errors.Is(err, unix.EEXIST) {
		if err != nil {
			err = fmt.Errorf("cannot make veth pair %s: %w", name, err)
		}
		return v, err
	}
	old, err := b.host.LinkByName(name)
	if isNoLink(err) {
		return nil, errkind.New(errkind.FailedPrecondition, "its network namespace %s has an %s that is not ours", ns.Name(), podLink)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look at %s: %w", name, err)
	}
	if leadsTo(ns.Name(), old) {
		return old, b.adopt(old, bridge)
	}
	// Another namespace of the same pod, from before: its end goes with ours.
	if err := b.host.LinkDel(old); err != nil && !isNoLink(err) {
		return nil, fmt.Errorf("cannot replace %s: %w", name, err)
	}
	if v, err = add(); err != nil {
		return nil, fmt.Errorf("cannot make veth pair %s: %w", name, err)
	}
	return v, nil
}

// leadsTo tells whether the far end of a veth is eth0 of the namespace at path.
func leadsTo(path string, host netlink.Link) bool {
	found := false
	_ = netns.Do(path, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		eth, err := h.LinkByName(podLink)
		found = err == nil && eth.Attrs().Index == host.Attrs().ParentIndex && eth.Attrs().ParentIndex == host.Attrs().Index
		return err
	})
	return found
}

// adopt puts a veth that is there on the bridge, up.
func (b *Bridge) adopt(veth, bridge netlink.Link) error {
	if veth.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := b.host.LinkSetMaster(veth, bridge); err != nil {
			return fmt.Errorf("cannot put %s on the bridge: %w", veth.Attrs().Name, err)
		}
	}
	if veth.Attrs().Flags&net.FlagUp == 0 {
		if err := b.host.LinkSetUp(veth); err != nil {
			return fmt.Errorf("cannot bring %s up: %w", veth.Attrs().Name, err)
		}
	}
	return nil
}

// setUpPod gives eth0 its addresses and routes. It runs on a thread in the
// pod's namespace. Where the pod has turned IPv6 off, that part is left out.
func (b *Bridge) setUpPod(l network.Lease) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot open netlink in the pod: %w", err)
	}
	defer h.Close()
	eth, err := h.LinkByName(podLink)
	if err != nil {
		return fmt.Errorf("cannot find %s in the pod: %w", podLink, err)
	}
	v6 := ipv6Enabled(podLink)
	if v6 {
		// No pod may become its neighbours' router (CVE-2020-10749).
		if err := setSysctls([]setting{{"ipv6/conf/eth0/accept_ra", "0"}, {"ipv6/conf/eth0/accept_dad", "0"}}); err != nil {
			return err
		}
	}
	var gateways []netip.Addr
	for _, a := range l.Addresses {
		if a.Is6() && !v6 {
			continue
		}
		p := b.poolOf(a)
		if err := h.AddrReplace(eth, addrOf(a, p.prefix.Bits())); err != nil {
			return fmt.Errorf("cannot give %s address %s: %w", podLink, a, err)
		}
		gateways = append(gateways, p.gateway)
	}
	if err := h.LinkSetUp(eth); err != nil {
		return fmt.Errorf("cannot bring %s up: %w", podLink, err)
	}
	for _, g := range gateways {
		if err := h.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: g.AsSlice()}); err != nil {
			return fmt.Errorf("cannot route through %s: %w", g, err)
		}
	}
	return nil
}

// Detach implements network.Network. Ports go before the interface, so that
// nobody is led to a pod that is not there.
func (b *Bridge) Detach(_ context.Context, l network.Lease, _ string) error {
	var errs []error
	if len(l.Ports) == 0 {
		b.setDetached(l.PodID)
	} else {
		errs = append(errs, b.republish(func() { b.setDetached(l.PodID) }))
	}
	fail.Hit("bridge.detach.unpublished")
	link, err := b.host.LinkByName(hostLink(l.PodID))
	if err == nil {
		err = b.host.LinkDel(link)
	}
	if err != nil && !isNoLink(err) {
		errs = append(errs, fmt.Errorf("cannot delete %s: %w", hostLink(l.PodID), err))
	} else {
		errs = append(errs, b.senders.dismiss(l))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot detach pod %s from bridge %s: %w", l.PodID, b.cfg.Name, err)
	}
	return nil
}

func (b *Bridge) setDetached(podID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.leases[podID]; g != nil {
		g.place = detached
	}
}
