package hostcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// legacyTable is how iptables before nftables tells what is in a table: by two
// socket options, in the kernel's own layout (linux/netfilter_ipv4/ip_tables.h and
// the same of ip6_tables.h; 64 bit).
type legacyTable struct {
	names         string // file that lists the tables there are
	program       string
	family, level int
	interfaces    int // offset of the two names in an entry
	offsets       int // offset of the two lengths of an entry
}

var legacyTables = []legacyTable{
	{"/proc/thread-self/net/ip_tables_names", "iptables", unix.AF_INET, unix.SOL_IP, 16, 88},
	{"/proc/thread-self/net/ip6_tables_names", "ip6tables", unix.AF_INET6, unix.SOL_IPV6, 64, 140},
}

const (
	legacyInfo    = 64 // IPT_SO_GET_INFO
	legacyEntries = 65 // IPT_SO_GET_ENTRIES
	legacyForward = 2  // NF_INET_FORWARD
	legacyDrop    = -1 // what a target says for a drop
)

// legacyDrops looks at the policies of the filter tables of iptables-legacy. A
// table that is not there is not asked for, since asking makes it.
func (h Host) legacyDrops() ([]drop, error) {
	var out []drop
	for _, t := range legacyTables {
		if t.family == unix.AF_INET6 && !h.hasIPv6() {
			continue
		}
		names, err := os.ReadFile(t.names)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !slices.Contains(strings.Fields(string(names)), "filter") {
			continue
		}
		drops, knows, err := t.forward(h.Interface)
		if err != nil {
			return nil, fmt.Errorf("cannot read the filter table of %s: %w", t.program, err)
		}
		if drops {
			out = append(out, drop{where: "chain FORWARD of " + t.program + " (legacy)", knowsUs: knows, do: acceptForward(t.program, h.Interface)})
		}
	}
	return out, nil
}

// forward tells whether the FORWARD chain drops by default, and whether any
// rule of the table names an interface.
func (t legacyTable) forward(iface string) (drops, named bool, err error) {
	fd, err := unix.Socket(t.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, false, err
	}
	defer func() { _ = unix.Close(fd) }()
	const infoSize, head = 84, 40
	info := make([]byte, infoSize)
	copy(info, "filter")
	if err := getsockopt(fd, t.level, legacyInfo, info); err != nil {
		return false, false, err
	}
	number := func(b []byte, at int) int { return int(binary.NativeEndian.Uint32(b[at:])) }
	policy, size := number(info, 56+4*legacyForward), number(info, 80)
	const most = 256 << 20
	if size <= 0 || size > most {
		return false, false, fmt.Errorf("it has %d bytes", size)
	}
	all := make([]byte, head+size)
	copy(all, "filter")
	binary.NativeEndian.PutUint32(all[32:], uint32(size))
	if err := getsockopt(fd, t.level, legacyEntries, all); err != nil {
		return false, false, err // EAGAIN: it has changed in between
	}
	drops, named, ok := t.parse(all[head:], policy, iface)
	if !ok {
		return false, false, errors.New("it is not laid out as expected")
	}
	return drops, named, nil
}

// parse walks the entries; policy is where the FORWARD chain's last one is.
func (t legacyTable) parse(entries []byte, policy int, iface string) (drops, named, ok bool) {
	const nameSize, verdictAt = 16, 32
	for at := 0; at < len(entries); {
		e := entries[at:]
		if len(e) < t.offsets+4 {
			return false, false, false
		}
		target := int(binary.NativeEndian.Uint16(e[t.offsets:]))
		next := int(binary.NativeEndian.Uint16(e[t.offsets+2:]))
		if next < t.offsets+4 || next > len(e) || target+verdictAt+4 > next {
			return false, false, false
		}
		for _, n := range [][]byte{e[t.interfaces : t.interfaces+nameSize], e[t.interfaces+nameSize : t.interfaces+2*nameSize]} {
			if end := bytes.IndexByte(n, 0); end > 0 && (string(n[:end]) == iface) {
				named = true
			}
		}
		if at == policy {
			drops, ok = int32(binary.NativeEndian.Uint32(e[target+verdictAt:])) == legacyDrop, true
		}
		at += next
	}
	return drops, named, ok
}

// getsockopt fills b, whose begin the kernel reads.
func getsockopt(fd, level, name int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
