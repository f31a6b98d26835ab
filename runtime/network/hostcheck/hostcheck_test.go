package hostcheck

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/netns"
)

// onHost runs fn on a host of its own, as far as the network is concerned.
func onHost(t *testing.T, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	path := t.TempDir() + "/net"
	if err := netns.Create(netns.Spec{Net: path}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = netns.Remove(path) }()
	if err := netns.Do(path, func() error { fn(); return nil }); err != nil {
		t.Error(err)
	}
}

func host() Host {
	return Host{Interface: "berth0", Table: "berth-", MTU: 1500,
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.210.0.0/16"), netip.MustParsePrefix("fd00:be:27::/64")}}
}

// wants fails the test unless a finding of that name has the verdict and says
// all of parts.
func wants(t *testing.T, h Host, name string, v network.Verdict, parts ...string) {
	t.Helper()
	all := Examine(context.Background(), h)
	for _, f := range all {
		text := f.Why + "; " + f.Do
		ok := f.Name == name && f.Verdict == v
		for _, p := range parts {
			ok = ok && strings.Contains(text, p)
		}
		if ok {
			return
		}
	}
	t.Errorf("want %s to be %s with %q, got %+v", name, v, parts, all)
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestForwardingIsAskedOfTheHost(t *testing.T) {
	onHost(t, func() {
		for _, family := range [][2]string{{"ipv4-forwarding", "ipv4/ip_forward"}, {"ipv6-forwarding", "ipv6/conf/all/forwarding"}} {
			set := func(v string) { must(t, os.WriteFile("/proc/sys/net/"+family[1], []byte(v), 0)) }
			set("0")
			wants(t, host(), family[0], network.Fail, "does not forward", "sysctl -w net."+strings.ReplaceAll(family[1], "/", "."))
			h := host()
			h.SetIPForward = true
			wants(t, h, family[0], network.Warn, "switches it on")
			set("1")
			wants(t, host(), family[0], network.OK)
		}
		only4 := host()
		only4.Subnets = only4.Subnets[:1]
		for _, f := range Examine(context.Background(), only4) {
			if f.Name == "ipv6-forwarding" {
				t.Error("pods without IPv6 need no forwarding of IPv6")
			}
		}
	})
}

func TestNftablesIsTried(t *testing.T) {
	onHost(t, func() {
		h := host()
		h.Probe = func() error { return errors.New("no masq") }
		wants(t, h, "nftables", network.Fail, "no masq")
		h.Probe = func() error { return nil }
		wants(t, h, "nftables", network.OK)
	})
}

func TestAnothersDropIsFound(t *testing.T) {
	drop := nftables.ChainPolicyDrop
	accept := nftables.ChainPolicyAccept
	from := func(name string) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(name)}, &expr.Verdict{Kind: expr.VerdictAccept}}
	}
	for name, c := range map[string]struct {
		table, chain string
		family       nftables.TableFamily
		policy       *nftables.ChainPolicy
		rules        [][]expr.Any
		want         network.Verdict
		says         string
	}{
		"iptables-nft":           {"filter", "FORWARD", nftables.TableFamilyIPv4, &drop, nil, network.Fail, "iptables -I FORWARD -i berth0"},
		"ip6tables-nft":          {"filter", "FORWARD", nftables.TableFamilyIPv6, &drop, nil, network.Fail, "ip6tables -I FORWARD -i berth0"},
		"it knows us":            {"filter", "FORWARD", nftables.TableFamilyIPv4, &drop, [][]expr.Any{from("berth0\x00")}, network.OK, "has rules for berth0"},
		"it knows our like":      {"filter", "FORWARD", nftables.TableFamilyIPv4, &drop, [][]expr.Any{from("ber")}, network.OK, "has rules for berth0"},
		"it knows another":       {"filter", "FORWARD", nftables.TableFamilyIPv4, &drop, [][]expr.Any{from("berth\x00"), from("docker0\x00")}, network.Fail, ""},
		"firewalld":              {"firewalld", "filter_FORWARD", nftables.TableFamilyINet, &accept, [][]expr.Any{{&expr.Counter{}, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: 3}}}, network.Fail, "--zone=trusted --add-interface=berth0"},
		"a rule that drops some": {"own", "forward", nftables.TableFamilyINet, &accept, [][]expr.Any{{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{132}}, &expr.Verdict{Kind: expr.VerdictDrop}}}, network.OK, "no firewall"},
		"our own":                {"berth-berth0", "apart", nftables.TableFamilyINet, &drop, nil, network.OK, "no firewall"},
	} {
		t.Run(name, func(t *testing.T) {
			onHost(t, func() {
				conn, err := nftables.New()
				must(t, err)
				table := conn.AddTable(&nftables.Table{Name: c.table, Family: c.family})
				chain := conn.AddChain(&nftables.Chain{Name: c.chain, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
					Priority: nftables.ChainPriorityFilter, Policy: c.policy})
				for _, r := range c.rules {
					conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r})
				}
				must(t, conn.Flush())
				wants(t, host(), "forward-policy", c.want, c.says)
			})
		})
	}
}

// TestLegacyIptablesDropIsFound turns the policy of iptables-legacy around by the
// socket option that its program uses.
func TestLegacyIptablesDropIsFound(t *testing.T) {
	for _, table := range legacyTables {
		t.Run(table.program, func(t *testing.T) {
			onHost(t, func() {
				if _, err := os.Stat(table.names); err != nil {
					t.Skipf("the kernel has no %s of before nftables", table.program)
				}
				wants(t, host(), "forward-policy", network.OK, "no firewall")
				fd, err := unix.Socket(table.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
				must(t, err)
				defer func() { _ = unix.Close(fd) }()
				info := make([]byte, 84)
				copy(info, "filter")
				must(t, getsockopt(fd, table.level, legacyInfo, info))
				size, count := binary.NativeEndian.Uint32(info[80:]), binary.NativeEndian.Uint32(info[76:])
				all := make([]byte, 40+size)
				copy(all, "filter")
				binary.NativeEndian.PutUint32(all[32:], size)
				must(t, getsockopt(fd, table.level, legacyEntries, all))
				wants(t, host(), "forward-policy", network.OK, "no firewall")

				entries := all[40:]
				policy := entries[binary.NativeEndian.Uint32(info[56+4*legacyForward:]):]
				target := binary.NativeEndian.Uint16(policy[table.offsets:])
				binary.NativeEndian.PutUint32(policy[target+32:], 0xffffffff) // NF_DROP
				// struct ipt_replace: what info has, then room for the old counters.
				old := make([]byte, 16*count)
				replace := append([]byte{}, info[:36]...)
				replace = binary.NativeEndian.AppendUint32(replace, count)
				replace = binary.NativeEndian.AppendUint32(replace, size)
				replace = append(replace, info[36:76]...)
				replace = binary.NativeEndian.AppendUint32(replace, count)
				replace = binary.NativeEndian.AppendUint64(replace, uint64(uintptr(unsafe.Pointer(&old[0]))))
				replace = append(replace, entries...)
				_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(table.level), 64, uintptr(unsafe.Pointer(&replace[0])), uintptr(len(replace)), 0)
				if errno != 0 {
					t.Fatal(errno)
				}
				wants(t, host(), "forward-policy", network.Fail, table.program+" (legacy)", table.program+" -I FORWARD -i berth0")
			})
		})
	}
}

func TestRoutesOfTheHostAreFound(t *testing.T) {
	onHost(t, func() {
		wants(t, host(), "subnets", network.OK)
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Flags, attrs.MTU = "uplink", net.FlagUp, 1400
		must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
		l, err := netlink.LinkByName("uplink")
		must(t, err)
		cidr := func(s string) *net.IPNet { _, n, err := net.ParseCIDR(s); must(t, err); return n }
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr("10.210.7.0/24"), Scope: netlink.SCOPE_LINK}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: cidr("fd00:be::/32")}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: cidr("0.0.0.0/0")}))
		wants(t, host(), "subnets", network.Fail, "10.210.7.0/24 (uplink)", "network.subnets")
		wants(t, host(), "subnets", network.Fail, "fd00:be::/32 (uplink)")
		wants(t, host(), "mtu", network.Warn, "MTU 1400", "network.mtu = 1400")
		own := host()
		own.Interface, own.MTU = "uplink", 1400
		wants(t, own, "subnets", network.OK)
		wants(t, own, "mtu", network.OK)
	})
}

// TestMain is also the process that listens, of the test below.
func TestMain(m *testing.M) {
	if at := os.Getenv("HOSTCHECK_LISTEN"); at != "" {
		network, at, _ := strings.Cut(at, " ")
		var held any
		var err error
		if network == "udp" {
			held, err = net.ListenPacket(network, at)
		} else {
			held, err = net.Listen(network, at)
		}
		fmt.Println("listening", err)
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends it; the runtime calls select {} a deadlock
		runtime.KeepAlive(held)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestListenersAreNamed(t *testing.T) {
	for _, c := range []struct {
		at   string
		port Port
		meet bool
	}{
		{"tcp 127.0.0.1:8080", Port{Protocol: "tcp", Port: 8080}, true},
		{"tcp 127.0.0.1:8080", Port{Protocol: "tcp", Port: 8080, HostIP: netip.MustParseAddr("127.0.0.1")}, true},
		{"tcp 127.0.0.1:8080", Port{Protocol: "tcp", Port: 8080, HostIP: netip.MustParseAddr("192.0.2.1")}, false},
		{"tcp 127.0.0.1:8080", Port{Protocol: "udp", Port: 8080}, false},
		{"tcp [::]:8080", Port{Protocol: "tcp", Port: 8080, HostIP: netip.MustParseAddr("192.0.2.1")}, true},
		{"tcp [::1]:8080", Port{Protocol: "tcp", Port: 8080, HostIP: netip.IPv6Unspecified()}, true},
		{"tcp [::1]:8080", Port{Protocol: "tcp", Port: 8080, HostIP: netip.IPv4Unspecified()}, false},
		{"udp 127.0.0.1:53", Port{Protocol: "udp", Port: 53}, true},
	} {
		t.Run(c.at+" and "+c.port.Protocol+" "+c.port.HostIP.String(), func(t *testing.T) {
			onHost(t, func() {
				lo, err := netlink.LinkByName("lo")
				must(t, err, netlink.LinkSetUp(lo))
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), "HOSTCHECK_LISTEN="+c.at)
				out, err := cmd.StdoutPipe()
				must(t, err)
				_, err = cmd.StdinPipe()
				must(t, err, cmd.Start())
				defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
				line := make([]byte, 100)
				n, err := out.Read(line)
				must(t, err)
				if got := string(line[:n]); got != "listening <nil>\n" {
					t.Fatal(got)
				}
				h := host()
				h.Ports = []Port{c.port}
				h.Ports[0].Pod = "default/web"
				if !c.meet {
					wants(t, h, "host-ports", network.OK)
					return
				}
				_, at, _ := strings.Cut(c.at, " ")
				wants(t, h, "host-ports", network.Fail, fmt.Sprintf("process %d of the host (", cmd.Process.Pid), "listens on "+at, "leads to pod default/web")
			})
		})
	}
}
