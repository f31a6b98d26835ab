package portmap

import (
	"slices"

	"github.com/google/nftables"

	"github.com/berth-runtime/berth/runtime/network/nft"
)

// Check compares the kernel's table with what Apply(entries) would write and
// names every difference. It changes nothing.
func (t *Table) Check(entries []Entry) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted, err := t.cfg.rules(slices.SortedFunc(slices.Values(entries), compareEntries))
	if err != nil {
		return nil, err
	}
	var diffs []string
	err = t.socket.Talk(func(conn *nftables.Conn) error {
		diffs, err = nft.Differences(conn, t.cfg.table(), t.cfg.chains(), wanted)
		return err
	})
	return append(diffs, t.local.check(entries)...), err
}

// Present tells whether the table is in the kernel, whatever it holds.
func (t *Table) Present() (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var chains map[string]*nftables.Chain
	err := t.socket.Talk(func(conn *nftables.Conn) (err error) {
		chains, err = nft.Chains(conn, t.cfg.table())
		return err
	})
	return len(chains) > 0, err
}
