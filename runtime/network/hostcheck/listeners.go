package hostcheck

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berth-runtime/berth/runtime/network"
)

// Port is a port of the host that a pod has been given.
type Port struct {
	Protocol string     // tcp, udp or sctp
	HostIP   netip.Addr // invalid: every address of both families
	Port     uint16
	Pod      string // for people
}

// Listener is a process of the host that has a port.
type Listener struct {
	Address netip.AddrPort
	Pid     int    // 0: not found, its owner may be in another PID namespace
	Command string // of the process
}

// String says who that is, as far as it is known.
func (l Listener) String() string {
	if l.Pid == 0 {
		return fmt.Sprintf("a process of the host listens on %s", l.Address)
	}
	return fmt.Sprintf("process %d of the host (%s) listens on %s", l.Pid, l.Command, l.Address)
}

// FindListener looks for who listens on a port of the host at one address, or
// at any if that is invalid or unspecified. It reads the descriptors of all
// processes, so it is for when somebody has to be told.
func FindListener(protocol string, ip netip.Addr, port uint16) (Listener, bool) {
	return findListener(protocol, ip, port, -1)
}

// findListener is FindListener but for the sockets of one process.
func findListener(protocol string, ip netip.Addr, port uint16, but int) (Listener, bool) {
	for _, s := range listening(protocol) {
		if s.at.Port() != port || !reaches(s.at.Addr(), ip) {
			continue
		}
		pid := ownerOf(s.inode)
		if pid == but {
			continue
		}
		l := Listener{Address: s.at, Pid: pid}
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
			l.Command = strings.TrimSpace(strings.ToValidUTF8(string(comm), "?"))
		}
		return l, true
	}
	return Listener{}, false
}

// reaches tells whether a socket at have may be meant with want.
func reaches(have, want netip.Addr) bool {
	have = have.Unmap()
	switch {
	case !want.IsValid() || have == want:
		return true
	case have.IsUnspecified():
		return have.Is6() || want.Is4() // [::] takes IPv4 too, unless told otherwise
	case want.IsUnspecified():
		return have.Is4() == want.Is4()
	}
	return false
}

// socket is a line of /proc/net/tcp and its like.
type socket struct {
	at    netip.AddrPort
	inode string
}

// listening reads the sockets that take what comes in for a protocol, in the
// network namespace of the calling thread.
func listening(protocol string) []socket {
	// Where the state tells of a listener, and its number.
	state := map[string]string{"tcp": "0A", "udp": "07"}[protocol]
	if state == "" {
		return nil // SCTP's file has another form
	}
	var out []socket
	for _, suffix := range []string{"", "6"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + protocol + suffix)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == state {
				if at, ok := parseSocket(f[1]); ok {
					out = append(out, socket{at, f[9]})
				}
			}
		}
	}
	return out
}

// parseSocket reads an address as these files have it: words of 32 bits in
// the byte order of the machine.
func parseSocket(s string) (netip.AddrPort, bool) {
	addr, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(addr)
	n, errPort := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || errPort != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a, uint16(n)), ok
}

// ownerOf finds a process that has the socket open; 0 if none can be seen.
func ownerOf(inode string) int {
	want := "socket:[" + inode + "]"
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		fds, err := os.ReadDir(p + "/fd")
		if err != nil {
			continue // it has ended
		}
		for _, fd := range fds {
			if to, err := os.Readlink(p + "/fd/" + fd.Name()); err == nil && to == want {
				pid, _ := strconv.Atoi(filepath.Base(p))
				return pid
			}
		}
	}
	return 0
}

// clashes: our rules come before the sockets of the host, so a process that
// came to listen on a pod's port hears nothing from elsewhere.
func clashes(h Host) []network.Finding {
	var out []network.Finding
	for _, p := range h.Ports {
		l, found := findListener(p.Protocol, p.HostIP, p.Port, os.Getpid()) // ours forward to the pod
		if !found {
			continue
		}
		out = append(out, network.Finding{Name: "host-ports", Verdict: network.Fail,
			Why: fmt.Sprintf("%s, and %s port %d leads to pod %s: the process hears nothing that comes to that port", l, p.Protocol, p.Port, p.Pod),
			Do:  "end one of the two, or give it another port"})
	}
	if len(out) == 0 && len(h.Ports) > 0 {
		out = append(out, network.Finding{Name: "host-ports", Verdict: network.OK, Why: fmt.Sprintf("no process of the host listens on the %d ports that lead to pods", len(h.Ports))})
	}
	return out
}
