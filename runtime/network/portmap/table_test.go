package portmap

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// inNamespace runs fn where no other table is, and the host's are not seen.
func inNamespace(t *testing.T, fn func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	path := t.TempDir() + "/net"
	if err := netns.Create(netns.Spec{Net: path}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = netns.Remove(path) }()
	if err := netns.Do(path, fn); err != nil {
		t.Error(err)
	}
}

func table(tb testing.TB) *Table {
	t := New(Config{Name: "berth-test", Bridge: "berth0", Masquerade: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.210.0.0/16"), netip.MustParsePrefix("fd00::/64")}})
	tb.Cleanup(t.Close)
	return t
}

// many makes n entries of both families and all protocols.
func many(n int) []Entry {
	var out []Entry
	for i := range n {
		e := Entry{PodID: fmt.Sprintf("%064x", i), Protocol: []string{"tcp", "udp", "sctp"}[i%3], HostPort: uint16(1000 + i),
			PodIP: netip.AddrFrom4([4]byte{10, 210, byte(i >> 8), byte(i)}), PodPort: 80}
		if i%2 == 1 {
			e.PodIP = netip.MustParseAddr(fmt.Sprintf("fd00::%x", i))
		}
		if i%5 == 0 && e.PodIP.Is4() {
			e.HostIP = netip.MustParseAddr("192.0.2.1")
		}
		out = append(out, e)
	}
	return out
}

func TestCheckAgreesWithApply(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 20, 1000} { // 1000 do not fit into the socket's default buffers
		inNamespace(t, func() error {
			tab := table(t)
			if diffs, err := tab.Check(nil); err != nil || len(diffs) != 1 || diffs[0] != "nftables table berth-test is missing" {
				t.Errorf("before Apply: %v (%v)", diffs, err)
			}
			for range 2 {
				if err := tab.Apply(many(n)); err != nil {
					return err
				}
			}
			backwards := many(n)
			slices.Reverse(backwards)
			diffs, err := tab.Check(backwards)
			if len(diffs) > 0 {
				t.Errorf("%d entries: Check found %d differences, first: %s", n, len(diffs), diffs[0])
			}
			return err
		})
	}
}

func TestCheckNamesEachDifference(t *testing.T) {
	t.Parallel()
	inNamespace(t, func() error {
		tab := table(t)
		if err := tab.Apply(many(2)); err != nil {
			return err
		}
		moved := many(2)
		moved[0].PodPort = 81
		for _, c := range []struct {
			entries []Entry
			says    []string
		}{
			{many(1), []string{`rule "udp [::]:1001 to [fd00::1]:80 of pod 000000000000" of chain hostports is not ours`}},
			{many(3), []string{`rule "sctp 0.0.0.0:1002 to 10.210.0.2:80 of pod 000000000000" of chain hostports is missing`}},
			{moved, []string{":81 of pod 000000000000\" of chain hostports is missing", ":80 of pod 000000000000\" of chain hostports is not ours"}},
		} {
			diffs, err := tab.Check(c.entries)
			if err != nil {
				return err
			}
			all := strings.Join(diffs, "\n")
			if len(diffs) != len(c.says) {
				t.Errorf("want %d differences, got:\n%s", len(c.says), all)
			}
			for _, s := range c.says {
				if !strings.Contains(all, s) {
					t.Errorf("want %q in:\n%s", s, all)
				}
			}
		}
		return nil
	})
}

func TestApplyReplacesATableOfAnyContent(t *testing.T) {
	t.Parallel()
	inNamespace(t, func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		foreign := &nftables.Table{Name: "berth-test", Family: nftables.TableFamilyINet}
		conn.AddTable(foreign)
		// Our chain's name, but hooked elsewhere: adding to it would fail.
		conn.AddChain(&nftables.Chain{Name: chainGuard, Table: foreign, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		conn.AddChain(&nftables.Chain{Name: "stray", Table: foreign})
		if err := conn.Flush(); err != nil {
			return err
		}
		tab := table(t)
		diffs, err := tab.Check(nil)
		if err != nil {
			return err
		}
		for _, s := range []string{"chain guard is missing or hooked elsewhere", "chain stray is not ours"} {
			if !strings.Contains(strings.Join(diffs, "\n"), s) {
				t.Errorf("want %q in %q", s, diffs)
			}
		}
		if err := tab.Apply(nil); err != nil {
			return err
		}
		if diffs, err = tab.Check(nil); len(diffs) > 0 {
			t.Errorf("after Apply: %q", diffs)
		}
		return err
	})
}

func TestUpdateWritesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	inNamespace(t, func() error {
		tab := table(t)
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		// A rule that is not ours stays until the table is written.
		ours := &nftables.Table{Name: "berth-test", Family: nftables.TableFamilyINet}
		guard := func() int {
			rules, _ := conn.GetRules(ours, &nftables.Chain{Name: chainGuard, Table: ours}) // none where there is no table
			return len(rules)
		}
		update := func(tab *Table, entries []Entry, writes bool) {
			t.Helper()
			before := guard()
			if before > 0 {
				conn.AddRule(&nftables.Rule{Table: ours, Chain: &nftables.Chain{Name: chainGuard, Table: ours}})
				if err := conn.Flush(); err != nil {
					t.Error(err)
				}
				before++
			}
			if err := tab.Update(entries); err != nil {
				t.Error(err)
			}
			if wrote := guard() != before; wrote != writes {
				t.Errorf("Update of %d entries wrote: %v, want %v", len(entries), wrote, writes)
			}
		}
		update(tab, nil, false) // there is no table, and none is needed
		update(tab, many(2), true)
		update(tab, many(2), false)
		update(tab, many(1), true)
		update(table(t), nil, true) // another process does not know what is there
		update(tab, nil, true)
		update(tab, nil, false)
		bad := many(1)
		bad[0].Protocol = "icmp"
		if err := tab.Update(bad); err == nil {
			t.Error("a bad entry was taken")
		}
		update(tab, nil, true) // after a failure nothing is known
		return tab.Remove()
	})
}

func TestRemoveIsIdempotent(t *testing.T) {
	t.Parallel()
	inNamespace(t, func() error {
		tab := table(t)
		for range 2 {
			if err := tab.Remove(); err != nil {
				return err
			}
			if err := tab.Apply(many(3)); err != nil {
				return err
			}
		}
		if err := tab.Remove(); err != nil {
			return err
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if len(tables) > 0 {
			t.Errorf("table %s is there", tables[0].Name)
		}
		return err
	})
}

func TestBadEntriesAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	good := many(1)[0]
	for _, spoil := range []func(*Entry){
		func(e *Entry) { e.Protocol = "icmp" },
		func(e *Entry) { e.PodIP = netip.Addr{} },
		func(e *Entry) { e.HostIP = netip.IPv6Unspecified() },
	} {
		e := good
		spoil(&e)
		if err := table(t).Apply([]Entry{e}); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%+v: got %v, want InvalidArgument", e, err)
		}
	}
}

func TestStaleFlows(t *testing.T) {
	t.Parallel()
	host, elsewhere := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	gone := Entry{Protocol: "udp", HostPort: 53, PodIP: netip.MustParseAddr("10.0.0.2")}
	come := Entry{Protocol: "udp", HostPort: 54, PodIP: netip.MustParseAddr("10.0.0.3"), HostIP: host}
	s := staleFlows{gone: []Entry{gone}, come: []Entry{come}}
	for _, c := range []struct {
		asked, answers netip.Addr
		port           uint16
		proto          uint8
		want           bool
	}{
		{host, gone.PodIP, 53, 17, true},
		{host, gone.PodIP, 53, 6, false},
		{host, come.PodIP, 53, 17, false}, // another pod's, a resolver's, say
		{elsewhere, elsewhere, 53, 17, false},
		{host, host, 54, 17, true},
		{host, come.PodIP, 54, 17, false}, // already as it shall be
		{elsewhere, elsewhere, 54, 17, false},
	} {
		f := &netlink.ConntrackFlow{}
		f.Forward.Protocol, f.Forward.DstPort = c.proto, c.port
		f.Forward.DstIP, f.Reverse.SrcIP = c.asked.AsSlice(), c.answers.AsSlice()
		if got := s.MatchConntrackFlow(f); got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	path := b.TempDir() + "/net"
	if err := netns.Create(netns.Spec{Net: path}); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = netns.Remove(path) }()
	for _, n := range []int{0, 10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tab, entries := table(b), many(n)
			if err := netns.Do(path, func() error {
				for b.Loop() {
					if err := tab.Apply(entries); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		})
	}
}
