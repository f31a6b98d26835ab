// Package bridge is the embedded pod network: a Linux bridge, a veth pair for
// each pod, and one nftables table, all made through netlink in process.
//
// The model: leases are memory, granted by Reserve and repeated by Restore;
// the kernel is a picture of the attached ones. The bridge holds the first
// address of each subnet and is every pod's gateway. Of a pod's veth pair the
// host end is called "bt" and the begin of the pod's id, the pod's end eth0.
// What is ours in the kernel is known by name or by hanging on our bridge, so
// Detach needs nothing but the lease and Repair nothing but the leases. Of a
// restored lease only the kernel knows whether it is attached; it is asked
// before anything is derived from that, so no verb waits for a Repair.
//
// A pod has NET_RAW and could send anything. A second table, of the bridge
// itself, holds each pod to its own addresses in frames, ARP and neighbour
// discovery, and lets none be a router (CVE-2020-10749).
//
// The law: outside of its bridge, its veths and its tables the package changes
// nothing on the host, except ip_forward if the Config says so. The bridge is
// made at first need, so a host whose pods use another network never sees it.
//
// Lock order: linkMu, tableMu, the senders', mu.
package bridge

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/portmap"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Config describes the network. The zero value of each field is usable.
type Config struct {
	Name       string         // of the bridge interface; default berth0
	Subnets    []netip.Prefix // one IPv4 and at most one IPv6; default DefaultSubnets
	MTU        int            // default: that of the interface of the host's default route
	Table      string         // of nftables; default berth-<Name>
	Masquerade bool           // pods leave the host under the host's address

	// SetIPForward turns forwarding on for the whole host, which traffic
	// between pods and other hosts needs. Off, that is the administrator's.
	// Note that a host that forwards IPv6 ignores router advertisements on
	// interfaces whose accept_ra is 1.
	SetIPForward bool

	// AllowRouteOverlap makes the bridge although a route of the host already
	// leads to addresses of Subnets. Those would be hidden by the bridge.
	AllowRouteOverlap bool

	// Isolated keeps pods from each other: they meet by published ports only.
	Isolated bool
	// Internal keeps pods from everything beyond the host, and that from them.
	Internal bool
	// ApartFrom are the interfaces whose pods, or hosts, reach the pods of this
	// bridge by published ports only, as in portmap.Config.
	ApartFrom []string
	// AllowSpoofing lets a pod send from any address, as one that routes for
	// others must; else it speaks with its own, at every layer.
	AllowSpoofing bool

	// Ports are those of the host, which all networks of a node share; nil: no
	// other network gives any.
	Ports *portmap.Ports
}

// DefaultSubnets are those of a Config that names none.
func DefaultSubnets() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.210.0.0/16"), netip.MustParsePrefix("fd00:be:27::/64")}
}

// complete fills in the defaults and checks the rest.
func (c Config) complete() (Config, error) {
	if c.Name == "" {
		c.Name = "berth0"
	}
	if len(c.Name) >= unix.IFNAMSIZ || strings.Trim(c.Name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return c, errkind.New(errkind.InvalidArgument, "cannot name a bridge %q: want up to 15 of a-z, 0-9, - and _", c.Name)
	}
	if c.Table == "" {
		c.Table = "berth-" + c.Name
	}
	if c.Subnets == nil {
		c.Subnets = DefaultSubnets()
	}
	n := len(c.Subnets)
	if n < 1 || n > 2 || !c.Subnets[0].Addr().Is4() || n == 2 && !c.Subnets[1].Addr().Is6() {
		return c, errkind.New(errkind.InvalidArgument, "cannot use subnets %v for pods: want an IPv4 one, then at most one of IPv6", c.Subnets)
	}
	for i, s := range c.Subnets {
		// The room is for the network, the gateway, a pod and the broadcast.
		if !s.IsValid() || s.Addr().Is4In6() || s.Addr().BitLen()-s.Bits() < 2 {
			return c, errkind.New(errkind.InvalidArgument, "cannot use subnet %s for pods: it has no room", s)
		}
		c.Subnets[i] = s.Masked()
	}
	if c.Isolated && c.AllowSpoofing {
		return c, errkind.New(errkind.InvalidArgument, "cannot isolate the pods of bridge %s: those that may send from any address cannot be told apart", c.Name)
	}
	return c, nil
}

// Bridge is the network of this package. Its methods are those of
// network.Network, but for Attach, which has nothing to add to a lease.
type Bridge struct {
	cfg   Config
	host  *netlink.Handle // owned; closed by Close
	table *portmap.Table
	ports *portmap.Ports

	senders *senders // nil: pods may send from any address

	linkMu sync.Mutex     // one maker of the bridge interface at a time
	index  int            // guarded by linkMu: of the bridge interface; 0: not made by this process
	watch  func()         // guarded by linkMu: ends watching; nil: it has not begun
	others sync.WaitGroup // goroutines that watch

	tableMu sync.Mutex // held from reading the leases to writing the table

	mu     sync.Mutex
	leases map[string]*grant // guarded by mu
	pools  []*pool           // guarded by mu
}

// grant is a lease and what is known of its place in the kernel.
type grant struct {
	lease network.Lease
	place place
	netns string // where this process attached it; empty after Restore
}

// place is where a lease is.
type place int

const (
	inMemory place = iota // not attached yet
	inKernel              // attached
	restored              // attached if the kernel has its interface: see locate
	detached              // no longer
)

// New makes a network in the network namespace of the caller. It reads the
// host and changes nothing. Where the host has no IPv6, neither have pods.
func New(cfg Config) (*Bridge, error) {
	cfg.Subnets = slices.Clone(cfg.Subnets)
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	if !ipv6Enabled("all") {
		cfg.Subnets = cfg.Subnets[:1]
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot open netlink: %w", err)
	}
	b := &Bridge{
		cfg:    cfg,
		host:   host,
		table:  portmap.New(cfg.table()),
		ports:  cmp.Or(cfg.Ports, &portmap.Ports{}),
		leases: make(map[string]*grant),
	}
	if !cfg.AllowSpoofing {
		b.senders = newSenders(cfg)
	}
	for _, s := range cfg.Subnets {
		b.pools = append(b.pools, newPool(s))
	}
	return b, nil
}

// table is what the network's nftables table is made of.
func (c Config) table() portmap.Config {
	return portmap.Config{Name: c.Table, Bridge: c.Name, Subnets: c.Subnets, Masquerade: c.Masquerade && !c.Internal,
		OwnSources: !c.AllowSpoofing, Isolated: c.Isolated, Internal: c.Internal, ApartFrom: c.ApartFrom}
}

// Close frees what New opened. The kernel's side stays as it is; no other
// method may be called after.
func (b *Bridge) Close() {
	b.endWatch()
	b.host.Close()
	b.table.Close()
	b.senders.Close()
}

// endWatch ends watching until the bridge is made again.
func (b *Bridge) endWatch() {
	b.linkMu.Lock()
	end := b.watch
	b.watch = nil
	b.linkMu.Unlock()
	if end != nil {
		end()
	}
	b.others.Wait()
}

// Reserve implements network.Network. A host port that a process of the host
// listens on is taken, too.
func (b *Bridge) Reserve(ctx context.Context, r network.Request) (network.Lease, error) {
	if err := ctx.Err(); err != nil {
		return network.Lease{}, err
	}
	families := podFamilies(r.Netns)
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.leases[r.PodID]; g != nil {
		return clone(g.lease), nil
	}
	l := network.Lease{PodID: r.PodID, Pod: r.Pod()}
	if b.cfg.Internal && slices.ContainsFunc(r.Ports, func(m spec.PortMapping) bool { return m.HostPort != 0 }) {
		return l, errkind.New(errkind.InvalidArgument, "cannot reserve the network of pod %s: an internal network publishes no ports", r.PodID)
	}
	undo := func(err error) (network.Lease, error) {
		b.releaseLocked(l)
		return network.Lease{}, fmt.Errorf("cannot reserve the network of pod %s: %w", r.PodID, err)
	}
	pools := b.pools[:min(families, len(b.pools))]
	if a, ok := unfit(r.IPs, pools); ok {
		return undo(errkind.New(errkind.InvalidArgument, "it wants address %s, and pods of %s get one of each of %v", a, b.cfg.Name, b.cfg.Subnets[:len(pools)]))
	}
	if r.MAC != "" {
		return undo(errkind.New(errkind.Unimplemented, "it wants hardware address %s, and on bridge %s that follows from its IPv4 address", r.MAC, b.cfg.Name))
	}
	for _, p := range pools {
		a, err := p.grant(r.PodID, r.IPs)
		if err != nil {
			return undo(err)
		}
		l.Addresses, l.Gateways = append(l.Addresses, a), append(l.Gateways, p.gateway)
	}
	ports, err := b.ports.Grant(portmap.Owner{ID: r.PodID, Name: l.Pod}, r.Ports, len(l.Addresses) > 1)
	if err != nil {
		return undo(err)
	}
	l.Ports = ports
	b.leases[r.PodID] = &grant{lease: l}
	return clone(l), nil
}

// Restore implements network.Network. A lease of a subnet that is no longer
// configured is kept as it is: its pod lives on, with the addresses it has.
func (b *Bridge) Restore(l network.Lease) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.leases[l.PodID] != nil {
		return nil
	}
	l = clone(l)
	undo := func(err error) error {
		b.releaseLocked(l)
		return fmt.Errorf("cannot restore the lease of pod %s: %w", l.PodID, err)
	}
	for _, a := range l.Addresses {
		if p := b.poolOf(a); p != nil {
			if err := p.claim(l.PodID, a); err != nil {
				return undo(err)
			}
		}
	}
	if err := b.ports.Restore(portmap.Owner{ID: l.PodID, Name: l.Pod}, l.Ports); err != nil {
		return undo(err)
	}
	b.leases[l.PodID] = &grant{lease: l, place: restored}
	return nil
}

// Release implements network.Network.
func (b *Bridge) Release(podID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.leases[podID]; g != nil {
		b.releaseLocked(g.lease)
		delete(b.leases, podID)
	}
}

// releaseLocked gives back what the pod of l holds, which may be less than l.
func (b *Bridge) releaseLocked(l network.Lease) {
	for _, p := range b.pools {
		p.giveBack(l.PodID)
	}
	b.ports.GiveBack(l.PodID)
}

// poolOf is the pool with a, or nil. The pools' prefixes never change.
func (b *Bridge) poolOf(a netip.Addr) *pool {
	for _, p := range b.pools {
		if p.prefix.Contains(a) {
			return p
		}
	}
	return nil
}

// entries is what the attached leases publish.
func (b *Bridge) entries() []portmap.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []portmap.Entry
	for _, g := range b.leases {
		if g.place != inKernel {
			continue
		}
		out = append(out, portmap.Entries(g.lease.PodID, g.lease.Addresses, g.lease.Ports)...)
	}
	return out
}

// heard is whom the table of senders is about.
func (b *Bridge) heard() []voice {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []voice
	for _, g := range b.leases {
		out = append(out, voice{lease: g.lease, attached: g.place == inKernel, detached: g.place == detached})
	}
	return out
}

func clone(l network.Lease) network.Lease {
	l.Addresses, l.Gateways, l.Ports = slices.Clone(l.Addresses), slices.Clone(l.Gateways), slices.Clone(l.Ports)
	return l
}

// hostLink names the host end of a pod's veth pair, within the 15 characters
// of an interface name. Of a pod id it takes 44 random bits.
func hostLink(podID string) string { return linkPrefix + podID[:min(11, len(podID))] }

const (
	linkPrefix = "bt"
	podLink    = "eth0"
)
