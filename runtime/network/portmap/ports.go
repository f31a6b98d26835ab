package portmap

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network/hostcheck"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Ports knows which pod holds which ports of the host. One serves all networks
// of a node, since they share the host's ports. Its methods may be called
// concurrently; it is memory only, the durable copy is the lease of a pod.
type Ports struct {
	mu   sync.Mutex
	held []heldPort // guarded by mu
}

// Owner is a pod as holder of ports.
type Owner struct {
	ID   string
	Name string // namespace/name, for whoever finds the port taken
}

func (o Owner) String() string {
	if o.Name == "" {
		return "pod " + o.ID
	}
	return fmt.Sprintf("pod %s (%s)", o.Name, o.ID[:min(12, len(o.ID))])
}

// maxPerPod bounds what one pod can add to the table, which is written as a
// whole and looked through for each new connection.
const maxPerPod = 1024

// hostPort is a port of the host at one address, or at all of them.
type hostPort struct {
	protocol string
	ip       netip.Addr // invalid: every address of both families
	port     uint16
}

func (h hostPort) String() string {
	ip := h.ip
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	return h.protocol + " " + netip.AddrPortFrom(ip, h.port).String()
}

// meets tells whether some packet could be for both.
func (h hostPort) meets(o hostPort) bool {
	if h.protocol != o.protocol || h.port != o.port {
		return false
	}
	if !h.ip.IsValid() || !o.ip.IsValid() || h.ip == o.ip {
		return true
	}
	return h.ip.Is4() == o.ip.Is4() && (h.ip.IsUnspecified() || o.ip.IsUnspecified())
}

// heldPort is a host port and the pod that has it.
type heldPort struct {
	hostPort
	by Owner
}

// Grant gives the host ports of mappings to a pod, all or none, and returns the
// mappings that have one, each once. dual says that the pod has an IPv6 address.
// One that is held is errkind.AlreadyExists and names the holder: a pod, or the
// process of the host that listens there.
func (p *Ports) Grant(by Owner, mappings []spec.PortMapping, dual bool) (granted []spec.PortMapping, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() {
		if err != nil {
			p.giveBackLocked(by.ID)
		}
	}()
	if len(mappings) > maxPerPod {
		return nil, errkind.New(errkind.InvalidArgument, "it asks for %d ports, and a pod can have %d", len(mappings), maxPerPod)
	}
	for _, m := range mappings {
		if m.HostPort == 0 || slices.Contains(granted, m) {
			continue
		}
		k, err := p.takeLocked(by, m, dual)
		if err != nil {
			return nil, err
		}
		if err := k.probe(); err != nil {
			return nil, err
		}
		granted = append(granted, m)
	}
	return granted, nil
}

// Restore gives a pod the ports that its record says it has, unless one of
// them is held by another or they make no sense. Who listens is not asked: the
// pod has come first.
func (p *Ports) Restore(by Owner, mappings []spec.PortMapping) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range mappings {
		if _, err := p.takeLocked(by, m, true); err != nil {
			p.giveBackLocked(by.ID)
			return err
		}
	}
	return nil
}

// GiveBack frees the ports of a pod. Idempotent.
func (p *Ports) GiveBack(podID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.giveBackLocked(podID)
}

// Held lists what all pods hold, for an examination of the host.
func (p *Ports) Held() []hostcheck.Port {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []hostcheck.Port
	for _, h := range p.held {
		out = append(out, hostcheck.Port{Protocol: h.protocol, HostIP: h.ip, Port: h.port, Pod: h.by.String()})
	}
	return out
}

func (p *Ports) takeLocked(by Owner, m spec.PortMapping, dual bool) (hostPort, error) {
	k, err := parseMapping(m, dual)
	if err != nil {
		return k, err
	}
	for _, o := range p.held {
		if o.meets(k) {
			return k, errkind.New(errkind.AlreadyExists, "host port %s is held by %s", k, o.by)
		}
	}
	p.held = append(p.held, heldPort{k, by})
	return k, nil
}

func (p *Ports) giveBackLocked(podID string) {
	p.held = slices.DeleteFunc(p.held, func(o heldPort) bool { return o.by.ID == podID })
}

func parseMapping(m spec.PortMapping, dual bool) (hostPort, error) {
	ip, err := parseHostIP(m.HostIP)
	k := hostPort{protocol: m.Protocol, ip: ip, port: m.HostPort}
	switch {
	case err != nil:
		return k, err
	case m.Protocol != "tcp" && m.Protocol != "udp" && m.Protocol != "sctp":
		return k, errkind.New(errkind.InvalidArgument, "host port %s has an unknown protocol", k)
	case m.ContainerPort == 0:
		return k, errkind.New(errkind.InvalidArgument, "host port %s leads to no container port", k)
	case ip == netip.IPv6Loopback() && m.Protocol != "tcp":
		return k, errkind.New(errkind.Unimplemented, "host port %s: the kernel cannot translate ::1, and only TCP is forwarded there; use 127.0.0.1", k)
	case ip.Is6() && ip != netip.IPv6Loopback() && !dual:
		return k, errkind.New(errkind.InvalidArgument, "host port %s: the pod has no IPv6 address", k)
	}
	return k, nil
}

// parseHostIP reads a mapping's address; the invalid Addr means every address.
func parseHostIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, errkind.New(errkind.InvalidArgument, "host address %q is no IP address", s)
	}
	return a.Unmap(), nil
}

// Entries is what a pod with these addresses publishes by these mappings, which
// have been granted.
func Entries(podID string, addresses []netip.Addr, mappings []spec.PortMapping) []Entry {
	var out []Entry
	for _, m := range mappings {
		on, err := parseHostIP(m.HostIP)
		if err != nil {
			continue // Grant and Restore have refused it
		}
		for i, a := range addresses {
			e := Entry{PodID: podID, Protocol: m.Protocol, HostPort: m.HostPort, PodIP: a, PodPort: m.ContainerPort}
			switch {
			case on == netip.IPv6Loopback():
				if i > 0 {
					continue // one forwarder is enough, to the primary address
				}
				e.HostIP = on
			case on.IsValid() && on.Is4() != a.Is4():
				continue
			case on.IsValid() && !on.IsUnspecified():
				e.HostIP = on
			}
			out = append(out, e)
		}
		if only4 := len(addresses) == 1 && addresses[0].Is4(); only4 && !on.IsValid() && m.Protocol == "tcp" {
			// Nothing else would answer whoever looks for localhost as ::1.
			out = append(out, Entry{PodID: podID, Protocol: m.Protocol, HostIP: netip.IPv6Loopback(), HostPort: m.HostPort, PodIP: addresses[0], PodPort: m.ContainerPort})
		}
	}
	return out
}

// probe finds a process of the host that listens on h, by binding to it for a
// moment. The port is not held afterwards: our rules come before the sockets,
// and a socket for each port would only make the same promise again.
func (h hostPort) probe() error {
	ips := []netip.Addr{h.ip}
	if !h.ip.IsValid() {
		ips = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, ip := range ips {
		if err := bind(h.protocol, netip.AddrPortFrom(ip, h.port)); errors.Is(err, unix.EADDRINUSE) {
			who := "another process has it"
			if l, found := hostcheck.FindListener(h.protocol, ip, h.port); found {
				who = l.String()
			}
			return errkind.New(errkind.AlreadyExists, "host port %s is taken: %s", hostPort{h.protocol, ip, h.port}, who)
		}
		// Any other answer (no such address now, no such protocol) tells
		// nothing of a listener.
	}
	return nil
}

func bind(protocol string, at netip.AddrPort) error {
	kind, proto := unix.SOCK_STREAM, 0
	switch protocol {
	case "udp":
		kind = unix.SOCK_DGRAM
	case "sctp":
		proto = unix.IPPROTO_SCTP
	}
	family := unix.AF_INET
	var to unix.Sockaddr
	if at.Addr().Is6() {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	} else {
		to = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if family == unix.AF_INET6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if kind == unix.SOCK_STREAM {
		// With it, connections in TIME_WAIT do not count, listeners do. For
		// UDP it would mean sharing the port, and find nobody.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	return unix.Bind(fd, to)
}
