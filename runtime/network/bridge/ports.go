package bridge

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

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
	podID string
}

// hostPorts knows which pod holds which ports.
type hostPorts []heldPort

// grant gives the host port of m to a pod, unless it is invalid or held.
func (h *hostPorts) grant(podID string, m spec.PortMapping, dual bool) (hostPort, error) {
	k, err := parseMapping(m, dual)
	if err != nil {
		return k, err
	}
	for _, o := range *h {
		if o.meets(k) {
			return k, errkind.New(errkind.AlreadyExists, "host port %s is held by pod %s", k, o.podID)
		}
	}
	*h = append(*h, heldPort{k, podID})
	return k, nil
}

func (h *hostPorts) giveBack(podID string) {
	*h = slices.DeleteFunc(*h, func(o heldPort) bool { return o.podID == podID })
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
	case ip == netip.IPv6Loopback():
		return k, errkind.New(errkind.Unimplemented, "host port %s: the kernel cannot translate ::1, use 127.0.0.1", k)
	case ip.Is6() && !dual:
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
			return errkind.New(errkind.AlreadyExists, "host port %s is in use by another process", hostPort{h.protocol, ip, h.port})
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
