package bridge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network/netns"
)

// wiretap is a packet socket on one interface of a namespace: what NET_RAW
// allows, to send anything and to hear what arrives.
type wiretap struct {
	w  *world
	fd int
}

func (w *world) tap(path, iface string) *wiretap {
	w.Helper()
	t := &wiretap{w: w}
	w.ok(in(path, func() (err error) {
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
		if t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		i, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		wait := unix.NsecToTimeval(patience.Nanoseconds())
		return errors.Join(unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}),
			unix.SetsockoptTimeval(t.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
	}))
	w.Cleanup(func() { _ = unix.Close(t.fd) })
	return t
}

func (t *wiretap) send(frame []byte) {
	t.w.Helper()
	_, err := unix.Write(t.fd, frame)
	t.w.ok(err)
}

// heardBefore tells whether a frame with marker arrives before one with fence.
func (t *wiretap) heardBefore(marker, fence string) bool {
	t.w.Helper()
	buf := make([]byte, 2048)
	heard := false
	for end := time.Now().Add(patience); time.Now().Before(end); {
		n, from, err := unix.Recvfrom(t.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		t.w.ok(err)
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			continue // what we have sent
		}
		heard = heard || bytes.Contains(buf[:n], []byte(marker))
		if bytes.Contains(buf[:n], []byte(fence)) {
			return heard
		}
	}
	t.w.Fatalf("%q never came", fence)
	return false
}

func ethernet(to, from net.HardwareAddr, kind uint16, payload ...[]byte) []byte {
	out := binary.BigEndian.AppendUint16(append(bytes.Clone(to), from...), kind)
	return append(out, bytes.Join(payload, nil)...)
}

// packet is an IP packet with UDP or ICMPv6 in it.
func packet(from, to netip.Addr, proto byte, body []byte) (kind uint16, out []byte) {
	if from.Is4() {
		h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
		h = append(append(h, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		return unix.ETH_P_IP, append(h, body...)
	}
	h := []byte{0x60, 0, 0, 0, 0, 0, proto, 255}
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	h = append(append(h, from.AsSlice()...), to.AsSlice()...)
	// Of both protocols the checksum is over a header made up of these.
	pseudo := append(bytes.Clone(h[8:]), 0, 0, byte(len(body)>>8), byte(len(body)), 0, 0, 0, proto)
	at := map[byte]int{unix.IPPROTO_UDP: 6, unix.IPPROTO_ICMPV6: 2}[proto]
	binary.BigEndian.PutUint16(body[at:], checksum(append(pseudo, body...)))
	return unix.ETH_P_IPV6, append(h, body...)
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func datagram(text string) []byte {
	h := []byte{0, 9, 0, 9, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(h[4:], uint16(8+len(text)))
	return append(h, text...)
}

func arp(op uint16, mac net.HardwareAddr, ip netip.Addr, toMAC net.HardwareAddr, to netip.Addr) []byte {
	out := binary.BigEndian.AppendUint16([]byte{0, 1, 8, 0, 6, 4}, op)
	out = append(append(out, mac...), ip.AsSlice()...)
	return append(append(append(out, toMAC...), to.AsSlice()...), "arp-mark"...)
}

func neighbour(kind byte, target netip.Addr, mac net.HardwareAddr, mark string) []byte {
	out := []byte{kind, 0, 0, 0, 0x20, 0, 0, 0}
	if kind == 134 { // a router advertisement has no target, and times
		out = append([]byte{kind, 0, 0, 0, 64, 0, 0x07, 0x08}, make([]byte, 8)...)
	} else {
		out = append(out, target.AsSlice()...)
	}
	if kind == 137 {
		out = append(out, target.AsSlice()...)
	}
	out = append(append(out, 2, 1), mac...) // the target's hardware address
	if len(mark)%8 != 6 {
		panic("an option is a multiple of eight bytes")
	}
	return append(append(out, 200, byte((len(mark)+2)/8)), mark...) // an option that nobody knows
}

// T-NET: a pod has NET_RAW, and speaks for itself only. Each lie is told with
// the protection and, to see that it is one, without.
func TestNETPodsSpeakForThemselvesOnly(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		t.Run(fmt.Sprintf("allow_spoofing=%v", allowed), func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.AllowSpoofing = allowed; c.Masquerade = false })
			liar, other, victim := w.attach(), w.attach(), w.attach()
			mac := func(p *pod) net.HardwareAddr { return hardwareAddr(p.lease.Addresses[0]) }
			gateway := hardwareAddr(w.b.pools[0].gateway)
			all := net.HardwareAddr{255, 255, 255, 255, 255, 255}
			all6, every := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, netip.MustParseAddr("ff02::1")
			from, hears := w.tap(liar.Netns, podLink), w.tap(victim.Netns, podLink)
			foreign4, foreign6 := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:7::7")
			ll := linkLocal(mac(liar))
			frame := func(to, from net.HardwareAddr, src, dst netip.Addr, proto byte, body []byte) []byte {
				kind, p := packet(src, dst, proto, body)
				return ethernet(to, from, kind, p)
			}
			fences := 0
			// lie sends frames; they arrive only where that is allowed.
			lie := func(what, mark string, frames ...[]byte) {
				t.Helper()
				for _, f := range frames {
					from.send(f)
				}
				fences++
				fence := fmt.Sprintf("fence-%d.", fences)
				from.send(frame(mac(victim), mac(liar), liar.lease.Addresses[0], victim.lease.Addresses[0], unix.IPPROTO_UDP, datagram(fence)))
				if heard := hears.heardBefore(mark, fence); heard != allowed {
					t.Errorf("%s: arrives is %v, want %v", what, heard, allowed)
				}
			}
			for i, foreign := range []netip.Addr{foreign4, foreign6} {
				to, theirs, own := victim.lease.Addresses[i], other.lease.Addresses[i], liar.lease.Addresses[i]
				lie("a neighbour's address "+theirs.String(), "mark-a", frame(mac(victim), mac(liar), theirs, to, unix.IPPROTO_UDP, datagram("mark-a")))
				lie("a foreign address "+foreign.String(), "mark-b", frame(mac(victim), mac(liar), foreign, to, unix.IPPROTO_UDP, datagram("mark-b")))
				lie("the gateway's address", "mark-c", frame(mac(victim), mac(liar), w.b.pools[i].gateway, to, unix.IPPROTO_UDP, datagram("mark-c")))
				lie("a neighbour's frame", "mark-d", frame(mac(victim), mac(other), own, to, unix.IPPROTO_UDP, datagram("mark-d")))
				lie("the gateway's frame", "mark-e", frame(mac(victim), gateway, own, to, unix.IPPROTO_UDP, datagram("mark-e")))
			}
			lie("an answer for a neighbour", "arp-mark", ethernet(mac(victim), mac(liar), unix.ETH_P_ARP, arp(2, mac(liar), other.lease.Addresses[0], mac(victim), victim.lease.Addresses[0])))
			lie("an announcement for the gateway", "arp-mark", ethernet(all, mac(liar), unix.ETH_P_ARP, arp(1, mac(liar), w.b.pools[0].gateway, all, w.b.pools[0].gateway)))
			lie("an answer with a neighbour's hardware address", "arp-mark", ethernet(mac(victim), mac(liar), unix.ETH_P_ARP, arp(2, mac(other), liar.lease.Addresses[0], mac(victim), victim.lease.Addresses[0])))
			lie("an answer for a neighbour over IPv6", "mark-f", frame(all6, mac(liar), ll, every, unix.IPPROTO_ICMPV6, neighbour(136, other.lease.Addresses[1], mac(liar), "mark-f")))
			lie("an answer for the gateway over IPv6", "mark-g", frame(all6, mac(liar), liar.lease.Addresses[1], every, unix.IPPROTO_ICMPV6, neighbour(136, w.b.pools[1].gateway, mac(liar), "mark-g")))
			lie("a router's advertisement", "mark-h", frame(all6, mac(liar), ll, every, unix.IPPROTO_ICMPV6, neighbour(134, netip.Addr{}, mac(liar), "mark-h")))
			lie("a redirect", "mark-i", frame(all6, mac(liar), ll, every, unix.IPPROTO_ICMPV6, neighbour(137, other.lease.Addresses[1], mac(liar), "mark-i")))
			lie("a neighbour's link-local address", "mark-j", frame(all6, mac(liar), linkLocal(mac(other)), every, unix.IPPROTO_UDP, datagram("mark-j")))
			lie("a protocol of its own", "mark-k", ethernet(mac(victim), mac(liar), 0x88b5, []byte("mark-k, of the experimental kind, and long enough to be a frame")))

			// Whatever was told, neighbours are found where they are.
			if !allowed {
				w.serve(other.Netns, "other", ":80")
				for _, at := range []string{other.v4(), other.v6()} {
					w.answers(victim.Netns, at, 80, "other", "")
					w.answers("", at, 80, "other", "")
				}
				w.clean()
			}
		})
	}
}

// T-NET: what leaves the host has a pod's own address; a lie goes no further
// than the bridge, where the guard of what is routed is by itself enough.
func TestNETNoSourceIsMadeUpBeyondTheHost(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		t.Run(fmt.Sprintf("allow_spoofing=%v", allowed), func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Masquerade, c.AllowSpoofing = false, allowed })
			p := w.attach()
			// Only the guard: the frames' own rules are as if the kernel had none.
			w.ok(w.b.senders.remove())
			from, hears := w.tap(p.Netns, podLink), w.tap(w.other, "wire0")
			gateway := hardwareAddr(w.b.pools[0].gateway)
			// The other host is known, so that nothing waits for it.
			w.serve(w.other, "other", ":80")
			w.answers("", otherV4, 80, "other", "")
			w.answers("", otherV6, 80, "other", "")
			for i, c := range []struct{ lie, to string }{{"198.51.100.7", otherV4}, {"2001:db8:7::7", otherV6}} {
				to := netip.MustParseAddr(c.to)
				send := func(src netip.Addr, text string) {
					kind, b := packet(src, to, unix.IPPROTO_UDP, datagram(text))
					from.send(ethernet(gateway, hardwareAddr(p.lease.Addresses[0]), kind, b))
				}
				mark, fence := fmt.Sprint("made-up-", i), fmt.Sprint("own-", i)
				send(netip.MustParseAddr(c.lie), mark)
				send(p.lease.Addresses[i], fence)
				if left := hears.heardBefore(mark, fence); left != allowed {
					t.Errorf("a packet from %s left the host is %v, want %v", c.lie, left, allowed)
				}
			}
		})
	}
}

// CVE-2020-8558, for IPv6: a published port leads nobody to what the host serves
// on ::1, neither does the forwarder, and a frame to ::1 ends at the interface.
func TestNETNoPodReachesTheHostsIPv6Loopback(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach(both(80, 8080, "")...)
	w.serve("", "secret", "[::1]:9000")
	secret, err := net.ListenPacket("udp", "[::1]:9001")
	w.ok(err)
	defer func() { _ = secret.Close() }()
	from := w.tap(p.Netns, podLink)
	gateway := hardwareAddr(w.b.pools[0].gateway)
	kind, b := packet(p.lease.Addresses[1], netip.IPv6Loopback(), unix.IPPROTO_UDP, func() []byte {
		d := datagram("from a pod")
		binary.BigEndian.PutUint16(d[2:], 9001)
		return d
	}())
	from.send(ethernet(gateway, hardwareAddr(p.lease.Addresses[0]), kind, b))
	w.ok(secret.SetReadDeadline(time.Now().Add(time.Second / 2)))
	if n, who, err := secret.ReadFrom(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes of a pod came to ::1, from %v", n, who)
	}
	for _, path := range []string{p.Netns, w.other} {
		for _, at := range []string{hostV6, "fd00:be:27::1"} {
			if got, err := ask(path, "tcp", at, 9000, time.Second); err == nil {
				t.Errorf("%s of the host says %q", at, got)
			}
		}
	}
	// Nor by the name that its own loopback has.
	w.ok(netns.Do(p.Netns, func() error {
		if got, err := ask("", "tcp", "::1", 8080, time.Second); err == nil {
			return fmt.Errorf("the pod's own ::1 says %q", got)
		}
		return nil
	}))
}
