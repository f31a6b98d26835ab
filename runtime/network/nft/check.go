package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
)

// Name is how messages call a table.
func Name(t *nftables.Table) string {
	if t.Family == nftables.TableFamilyBridge {
		return "nftables table " + t.Name + " of family bridge"
	}
	return "nftables table " + t.Name
}

// Missing is what Differences says of a table that is absent.
func Missing(t *nftables.Table) string { return Name(t) + " is missing" }

// Differences compares a table with what Renew and Fill would make of it and
// names every difference; of one that is absent only that. It changes nothing.
func Differences(conn *nftables.Conn, table *nftables.Table, chains []*nftables.Chain, wanted []Rule) ([]string, error) {
	present, err := Chains(conn, table)
	if err != nil {
		return nil, err
	}
	if len(present) == 0 {
		return []string{Missing(table)}, nil
	}
	var diffs []string
	for _, c := range chains {
		have := present[c.Name]
		delete(present, c.Name)
		if have == nil || !sameHook(have, c) {
			diffs = append(diffs, fmt.Sprintf("%s: chain %s is missing or hooked elsewhere", Name(table), c.Name))
			continue
		}
		rules, err := conn.GetRules(have.Table, have)
		if err != nil {
			return nil, fmt.Errorf("cannot read chain %s of %s: %w", c.Name, Name(table), err)
		}
		diffs = append(diffs, compare(table, c.Name, rules, wanted)...)
	}
	for name := range present {
		diffs = append(diffs, fmt.Sprintf("%s: chain %s is not ours", Name(table), name))
	}
	slices.Sort(diffs)
	return diffs, nil
}

// Chains lists the chains of a table by name; none: there is no table.
func Chains(conn *nftables.Conn, table *nftables.Table) (map[string]*nftables.Chain, error) {
	all, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, fmt.Errorf("cannot list nftables chains: %w", err)
	}
	out := make(map[string]*nftables.Chain)
	for _, c := range all {
		if c.Table.Name == table.Name {
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
func compare(table *nftables.Table, chain string, have []*nftables.Rule, wanted []Rule) []string {
	var diffs []string
	say := func(comment, what string) {
		diffs = append(diffs, fmt.Sprintf("%s: rule %q of chain %s %s", Name(table), comment, chain, what))
	}
	var places []int
	for _, w := range wanted {
		if w.Chain != chain {
			continue
		}
		i := slices.IndexFunc(have, func(h *nftables.Rule) bool { return w.Is(h, table.Family) })
		if i < 0 {
			say(w.Comment, "is missing")
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
		diffs = append(diffs, fmt.Sprintf("%s: the rules of chain %s are not in their order", Name(table), chain))
	}
	return diffs
}
