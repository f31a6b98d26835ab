package portmap

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
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
	err = t.talkLocked(func(conn *nftables.Conn) error {
		diffs, err = t.differences(conn, wanted)
		return err
	})
	return diffs, err
}

// Present tells whether the table is in the kernel, whatever it holds.
func (t *Table) Present() (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var chains map[string]*nftables.Chain
	err := t.talkLocked(func(conn *nftables.Conn) (err error) {
		chains, err = t.present(conn)
		return err
	})
	return len(chains) > 0, err
}

func (t *Table) differences(conn *nftables.Conn, wanted []rule) ([]string, error) {
	present, err := t.present(conn)
	if err != nil {
		return nil, err
	}
	if len(present) == 0 {
		return []string{fmt.Sprintf("nftables table %s is missing", t.cfg.Name)}, nil
	}
	var diffs []string
	for _, c := range t.cfg.chains() {
		have := present[c.Name]
		delete(present, c.Name)
		if have == nil || !sameHook(have, c) {
			diffs = append(diffs, fmt.Sprintf("nftables table %s: chain %s is missing or hooked elsewhere", t.cfg.Name, c.Name))
			continue
		}
		rules, err := conn.GetRules(have.Table, have)
		if err != nil {
			return nil, fmt.Errorf("cannot read chain %s of nftables table %s: %w", c.Name, t.cfg.Name, err)
		}
		diffs = append(diffs, t.compare(c.Name, rules, wanted)...)
	}
	for name := range present {
		diffs = append(diffs, fmt.Sprintf("nftables table %s: chain %s is not ours", t.cfg.Name, name))
	}
	slices.Sort(diffs)
	return diffs, nil
}

// present lists the chains of our table by name.
func (t *Table) present(conn *nftables.Conn) (map[string]*nftables.Chain, error) {
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("cannot list nftables chains: %w", err)
	}
	out := make(map[string]*nftables.Chain)
	for _, c := range chains {
		if c.Table.Name == t.cfg.Name {
			out[c.Name] = c
		}
	}
	return out, nil
}

func sameHook(a, b *nftables.Chain) bool {
	if a.Type != b.Type || (a.Hooknum == nil) != (b.Hooknum == nil) {
		return false
	}
	return a.Hooknum == nil || *a.Hooknum == *b.Hooknum && *a.Priority == *b.Priority
}

// compare tells what has to be added to the rules of chain, and what taken
// away; only if that is nothing, whether their order is wrong.
func (t *Table) compare(chain string, have []*nftables.Rule, wanted []rule) []string {
	var diffs []string
	say := func(comment, what string) {
		diffs = append(diffs, fmt.Sprintf("nftables table %s: rule %q of chain %s %s", t.cfg.Name, comment, chain, what))
	}
	var places []int
	for _, w := range wanted {
		if w.chain != chain {
			continue
		}
		i := slices.IndexFunc(have, w.is)
		if i < 0 {
			say(w.comment, "is missing")
			continue
		}
		places = append(places, i)
	}
	for i, h := range have {
		if !slices.Contains(places, i) {
			comment, _ := userdata.GetString(h.UserData, userdata.TypeComment)
			say(comment, "is not ours")
		}
	}
	if len(diffs) == 0 && !slices.IsSorted(places) {
		diffs = append(diffs, fmt.Sprintf("nftables table %s: the rules of chain %s are not in their order", t.cfg.Name, chain))
	}
	return diffs
}

// is compares in the kernel's encoding: there a thing can be said in one way only.
func (r rule) is(have *nftables.Rule) bool {
	comment, _ := userdata.GetString(have.UserData, userdata.TypeComment)
	if comment != r.comment || len(have.Exprs) != len(r.exprs) {
		return false
	}
	for i, e := range r.exprs {
		a, errA := expr.Marshal(byte(nftables.TableFamilyINet), e)
		b, errB := expr.Marshal(byte(nftables.TableFamilyINet), have.Exprs[i])
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			return false
		}
	}
	return true
}
