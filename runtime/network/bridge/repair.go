package bridge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Status implements network.Network.
func (b *Bridge) Status(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	link, err := b.host.LinkByName(b.cfg.Name)
	switch {
	case isNoLink(err):
		if err := b.overlap(); err != nil {
			return fmt.Errorf("cannot attach pods to bridge %s: %w", b.cfg.Name, err)
		}
		return nil // it is made with the first pod
	case err != nil:
		return fmt.Errorf("cannot look at bridge %s: %w", b.cfg.Name, err)
	case link.Type() != "bridge":
		return errkind.New(errkind.FailedPrecondition, "cannot attach pods to %s: it is an interface of type %s", b.cfg.Name, link.Type())
	}
	return nil
}

// InUse tells whether any pod has a lease.
func (b *Bridge) InUse() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.leases) > 0
}

// Check implements network.Network.
func (b *Bridge) Check(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	links, err := b.veths()
	if err != nil {
		return nil, err
	}
	if err := b.locate(); err != nil {
		return nil, err
	}
	attached := b.attachedByLink()
	diffs, bridge, err := b.checkBridge()
	if err != nil {
		return nil, err
	}
	if bridge == 0 && len(links) == 0 && len(attached) == 0 {
		return nil, nil // no pod has needed it yet
	}
	for _, name := range slices.Sorted(maps.Keys(attached)) {
		switch l := links[name]; {
		case l == nil && b.isLost(attached[name].lease.PodID):
			diffs = append(diffs, fmt.Sprintf("pod %s is attached but interface %s is missing", attached[name].lease.PodID, name))
		case l == nil: // it came or went meanwhile
		case l.Attrs().MasterIndex != bridge || l.Attrs().Flags&net.FlagUp == 0:
			diffs = append(diffs, b.wrongLink(name, attached[name].lease.PodID, bridge)...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(links)) {
		if b.isOrphan(links[name], bridge) && b.isThere(name) {
			diffs = append(diffs, fmt.Sprintf("interface %s on bridge %s belongs to no pod", name, b.cfg.Name))
		}
	}
	inTables, err := b.checkTables()
	return append(diffs, inTables...), err
}

// checkBridge compares the bridge itself. Its index is 0 if there is none.
func (b *Bridge) checkBridge() (diffs []string, index int, err error) {
	say := func(format string, args ...any) {
		diffs = append(diffs, "bridge "+b.cfg.Name+" "+fmt.Sprintf(format, args...))
	}
	link, err := b.host.LinkByName(b.cfg.Name)
	if isNoLink(err) {
		say("is missing")
		return diffs, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot look at bridge %s: %w", b.cfg.Name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		say("is down")
	}
	have, err := b.addresses(link)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the addresses of bridge %s: %w", b.cfg.Name, err)
	}
	for _, p := range b.pools {
		want := netip.PrefixFrom(p.gateway, p.prefix.Bits())
		if !slices.ContainsFunc(have, func(a netlink.Addr) bool { got, _ := prefixOf(a.IPNet); return got == want }) {
			say("has no address %s", want)
		}
	}
	for _, s := range append(b.bridgeSysctls(), b.routeLocalnet()) {
		if !s.holds() {
			say("wants net/%s to be %s", s.path, s.value)
		}
	}
	return diffs, link.Attrs().Index, nil
}

// Repair implements network.Network. The far end of a lost interface is known
// only of pods that this process attached, and only those are attached again.
func (b *Bridge) Repair(ctx context.Context) error {
	links, err := b.veths()
	if err != nil {
		return err
	}
	b.linkMu.Lock()
	bridge, err := b.makeLocked(ctx)
	b.linkMu.Unlock()
	if err != nil {
		return err
	}
	var errs []error
	for name, g := range b.attachedByLink() {
		if l := links[name]; l != nil {
			if err := b.adopt(l, bridge); err != nil && !isNoLink(err) {
				errs = append(errs, err)
			}
			continue
		}
		err := b.plug(g.netns, g.lease, bridge)
		if errkind.Is(err, errkind.NotFound) {
			err = b.republish(func() { b.setDetached(g.lease.PodID) })
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot attach pod %s to bridge %s again: %w", g.lease.PodID, b.cfg.Name, err))
		}
	}
	for name, l := range links {
		if !b.isOrphan(l, bridge.Attrs().Index) {
			continue
		}
		if err := b.host.LinkDel(l); err != nil && !isNoLink(err) {
			errs = append(errs, fmt.Errorf("cannot delete %s, which belongs to no pod: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Teardown removes the bridge, every interface on it that is ours, and the
// table. Leases stay; the next Attach makes it all again.
func (b *Bridge) Teardown() error {
	b.endWatch() // it would put back what is removed here
	b.linkMu.Lock()
	defer b.linkMu.Unlock()
	b.index = 0
	errs := []error{b.table.Remove(), b.senders.remove()}
	remove := func(l netlink.Link) {
		if err := b.host.LinkDel(l); err != nil && !isNoLink(err) {
			errs = append(errs, fmt.Errorf("cannot delete interface %s: %w", l.Attrs().Name, err))
		}
	}
	bridge, err := b.host.LinkByName(b.cfg.Name)
	if isNoLink(err) {
		return errors.Join(errs...)
	}
	links, listErr := b.veths()
	if err := errors.Join(err, listErr); err != nil {
		return errors.Join(append(errs, err)...)
	}
	if bridge.Type() != "bridge" {
		return errors.Join(append(errs, errkind.New(errkind.FailedPrecondition, "cannot remove %s: it is an interface of type %s", b.cfg.Name, bridge.Type()))...)
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			remove(l)
		}
	}
	remove(bridge)
	return errors.Join(errs...)
}

// veths lists the interfaces that may be ours by their name and type.
func (b *Bridge) veths() (map[string]netlink.Link, error) {
	all, err := whole(b.host.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list interfaces: %w", err)
	}
	out := make(map[string]netlink.Link)
	for _, l := range all {
		if l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, linkPrefix) {
			out[l.Attrs().Name] = l
		}
	}
	return out, nil
}

// isOrphan tells whether a veth hangs on our bridge without any lease, even
// one that is only reserved: its Attach may be under way.
func (b *Bridge) isOrphan(l netlink.Link, bridge int) bool {
	if bridge == 0 || l.Attrs().MasterIndex != bridge {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.leases {
		if hostLink(id) == l.Attrs().Name {
			return false
		}
	}
	return true
}

// wrongLink says what is wrong with the interface of an attached lease. It looks
// again: a list is made without the lock under which interfaces change, and has
// some that are half made or half gone (rtnl_dump_ifinfo of newer kernels).
func (b *Bridge) wrongLink(name, podID string, bridge int) []string {
	l, err := b.host.LinkByName(name)
	if err != nil {
		return nil // it has gone since, which the next check tells if it is wrong
	}
	switch {
	case l.Attrs().MasterIndex != bridge:
		return []string{fmt.Sprintf("interface %s of pod %s is not on bridge %s", name, podID, b.cfg.Name)}
	case l.Attrs().Flags&net.FlagUp == 0:
		return []string{fmt.Sprintf("interface %s of pod %s is down", name, podID)}
	}
	return nil
}

// isLost tells whether an attached lease has no interface. The kernel is asked
// first: an interface goes after its lease was noted as detached.
func (b *Bridge) isLost(podID string) bool {
	if b.isThere(hostLink(podID)) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.leases[podID]
	return g != nil && g.place == inKernel
}

func (b *Bridge) isThere(name string) bool {
	_, err := b.host.LinkByName(name)
	return !isNoLink(err)
}

// attachedByLink is a copy of the attached leases, by the name of their interface.
func (b *Bridge) attachedByLink() map[string]grant {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[string]grant)
	for id, g := range b.leases {
		if g.place == inKernel {
			out[hostLink(id)] = *g
		}
	}
	return out
}
