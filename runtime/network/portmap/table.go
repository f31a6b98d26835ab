// Package portmap keeps the address translation of a pod network in one
// nftables table: pods go out under the host's address, and host ports lead to
// pods.
//
// The model: the table is a function of its Config and of a list of entries,
// nothing else. Apply replaces the whole of it in one transaction, so packets
// see the old table or the new one; Check computes it again and compares. No
// other table is read or written, and nobody else writes to ours.
//
// What the kernel cannot do here: a packet to ::1 cannot be translated, it
// would leave the host with a source that no answer comes back to. For TCP the
// daemon itself listens there and forwards, as long as it runs; UDP and SCTP
// to ::1 find what the host itself has there. Also, an accept in this table does not override a drop in another one: a host
// whose FORWARD policy is drop must let the bridge through by itself.
package portmap

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network/nft"
)

// Config says whose traffic the table is about.
type Config struct {
	Name       string         // of the nftables table
	Bridge     string         // interface behind which the pods are; empty: not known, any but the loopback
	Subnets    []netip.Prefix // of the pods
	Masquerade bool           // pods leave the host under the host's address
	OwnSources bool           // drop what pods send from addresses outside Subnets
	Isolated   bool           // pods reach each other by host ports only
	Internal   bool           // pods reach the host and each other only, and are reached by these
	// ApartFrom are interfaces from which pods can be reached by host ports only;
	// a star at the end stands for any end of the name, and alone for all.
	ApartFrom []string
}

// Entry publishes one port of a pod at one address family of the host.
type Entry struct {
	PodID    string
	Protocol string     // tcp, udp or sctp
	HostIP   netip.Addr // invalid: every address of PodIP's family except ::1
	HostPort uint16
	PodIP    netip.Addr
	PodPort  uint16
	Beside   netip.Prefix // the pod's network, where it is none of Config.Subnets
}

// String is what an administrator reads beside the rule.
func (e Entry) String() string {
	host := e.HostIP
	if !host.IsValid() {
		host = netip.IPv4Unspecified()
		if e.PodIP.Is6() {
			host = netip.IPv6Unspecified()
		}
	}
	return fmt.Sprintf("%s %s to %s of pod %s", e.Protocol,
		netip.AddrPortFrom(host, e.HostPort), netip.AddrPortFrom(e.PodIP, e.PodPort), e.PodID[:min(12, len(e.PodID))])
}

func compareEntries(a, b Entry) int {
	if c := a.PodIP.Compare(b.PodIP); c != 0 {
		return c
	}
	return strings.Compare(a.String(), b.String())
}

// Table is one nftables table. Its methods may be called concurrently.
type Table struct {
	cfg Config

	mu      sync.Mutex
	last    []Entry    // guarded by mu: what this process applied last
	written bool       // guarded by mu: this process has written the table, so that last is what led where
	known   bool       // guarded by mu: the table was written with last, and nobody of ours has touched it since
	socket  nft.Socket // guarded by mu, owned
	local   loopback   // what answers on ::1
}

// New names a table; it does not touch the kernel.
func New(cfg Config) *Table { return &Table{cfg: cfg} }

// Close frees what the other methods opened, the listeners at ::1 among it; the
// table stays in the kernel.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.socket.Close()
	t.local.close()
}

// Apply makes the table hold exactly entries, whatever it held before. UDP
// flows that the change redirects are forgotten, since a flow that does not
// pause would keep its old way for ever.
func (t *Table) Apply(entries []Entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.applyLocked(slices.SortedFunc(slices.Values(entries), compareEntries))
}

// Update is Apply for who changed the entries and not the table: it writes
// only if the entries are others than those of the last Apply that succeeded.
// A process that has written nothing yet does not know what the one before it
// left, and writes; a table that is absent is not made for no entries.
func (t *Table) Update(entries []Entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries = slices.SortedFunc(slices.Values(entries), compareEntries)
	if t.known && slices.Equal(entries, t.last) {
		return nil
	}
	if !t.known && len(entries) == 0 {
		var chains map[string]*nftables.Chain
		err := t.socket.Talk(func(conn *nftables.Conn) (err error) {
			chains, err = nft.Chains(conn, t.cfg.table())
			return err
		})
		if err != nil || len(chains) == 0 {
			return err
		}
	}
	return t.applyLocked(entries)
}

// Remember tells what a process before this one may have published, so that the
// flows of what is not any more are forgotten.
func (t *Table) Remember(entries []Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.known {
		t.last = slices.SortedFunc(slices.Values(append(t.last, entries...)), compareEntries)
	}
}

// applyLocked writes sorted entries. It notes what it wrote when all is done,
// so that after a failure the next one does all of it again.
func (t *Table) applyLocked(entries []Entry) error {
	t.known = false
	rules, err := t.cfg.rules(entries)
	if err != nil {
		return err
	}
	err = t.socket.Talk(func(conn *nftables.Conn) error {
		t.cfg.write(conn, rules)
		return conn.Flush()
	})
	if err != nil {
		return fmt.Errorf("cannot write nftables table %s with %d host ports: %w", t.cfg.Name, len(entries), err)
	}
	if err := t.forgetFlows(entries); err != nil {
		return err
	}
	t.written = true
	t.local.set(entries)
	t.last, t.known = entries, true
	return nil
}

func (c Config) table() *nftables.Table {
	return &nftables.Table{Name: c.Name, Family: nftables.TableFamilyINet}
}

// write queues what makes the table hold exactly rules.
func (c Config) write(conn *nftables.Conn, rules []nft.Rule) {
	nft.Renew(conn, c.table())
	nft.Fill(conn, c.table(), c.chains(), rules)
}

// Remove deletes the table. A table that is absent is success.
func (t *Table) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known = false
	err := t.socket.Talk(func(conn *nftables.Conn) error {
		conn.DelTable(t.cfg.table())
		return conn.Flush()
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot delete nftables table %s: %w", t.cfg.Name, err)
	}
	t.local.set(nil)
	if err := t.forgetFlows(nil); err != nil {
		return err
	}
	t.last = nil
	return nil
}
