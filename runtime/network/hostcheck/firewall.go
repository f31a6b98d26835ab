package hostcheck

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/berth-runtime/berth/runtime/network"
)

// firewalls: an accept in our table does not override another's drop. What is
// forwarded passes every chain that hooks there, so one of them that drops by
// default, and knows nothing of our interface, ends pods' packets.
func firewalls(h Host) []network.Finding {
	const name = "forward-policy"
	dropping, err := h.nftablesDrops()
	if err != nil {
		return []network.Finding{{Name: name, Verdict: network.Warn, Why: "cannot read the host's nftables rules: " + err.Error()}}
	}
	legacy, err := h.legacyDrops()
	if err != nil {
		return []network.Finding{{Name: name, Verdict: network.Warn, Why: "cannot read the host's iptables rules: " + err.Error()}}
	}
	var out []network.Finding
	for _, d := range append(dropping, legacy...) {
		f := network.Finding{Name: name, Verdict: network.OK, Why: fmt.Sprintf("%s drops what is forwarded, and has rules for %s", d.where, h.Interface)}
		if !d.knowsUs {
			f.Verdict = network.Fail
			f.Why = fmt.Sprintf("%s drops what is forwarded, and no rule of it names %s: pods reach the host and each other only, and published ports answer nobody but the host",
				d.where, h.Interface)
			f.Do = d.do
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		out = append(out, network.Finding{Name: name, Verdict: network.OK, Why: "no firewall drops what is forwarded"})
	}
	return out
}

// drop is a chain on the way of what is forwarded that drops by default.
type drop struct {
	where   string // for people
	knowsUs bool   // some rule of the same table names our interface
	do      string
}

// nftablesDrops lists those of nftables, which has iptables-nft's, firewalld's
// and ufw's in it.
func (h Host) nftablesDrops() ([]drop, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	var out []drop
	for family, word := range map[nftables.TableFamily]string{
		nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	} {
		if family == nftables.TableFamilyIPv6 && !h.hasIPv6() {
			continue
		}
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, err
		}
		for _, c := range chains {
			if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || h.Table != "" && strings.HasPrefix(c.Table.Name, h.Table) {
				continue
			}
			rules, err := conn.GetRules(c.Table, c)
			if err != nil {
				return nil, err
			}
			if (c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop) && !endsInDrop(rules) {
				continue
			}
			knows, err := h.namedIn(conn, c.Table, chains)
			if err != nil {
				return nil, err
			}
			out = append(out, drop{where: fmt.Sprintf("chain %s of nftables table %s %s", c.Name, word, c.Table.Name), knowsUs: knows, do: h.advice(word, c)})
		}
	}
	return out, nil
}

// endsInDrop tells whether the last rule drops whatever comes to it, as
// firewalld's does.
func endsInDrop(rules []*nftables.Rule) bool {
	if len(rules) == 0 {
		return false
	}
	drops := false
	for _, e := range rules[len(rules)-1].Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			drops = true
		case *expr.Verdict:
			drops = e.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return drops
}

// namedIn tells whether a rule of table compares an interface's name with ours.
func (h Host) namedIn(conn *nftables.Conn, table *nftables.Table, chains []*nftables.Chain) (bool, error) {
	for _, c := range chains {
		if c.Table.Name != table.Name {
			continue
		}
		rules, err := conn.GetRules(table, c)
		if err != nil {
			return false, err
		}
		for _, r := range rules {
			for i, e := range r.Exprs {
				m, ok := e.(*expr.Meta)
				if !ok || m.Key != expr.MetaKeyIIFNAME && m.Key != expr.MetaKeyOIFNAME || i+1 == len(r.Exprs) {
					continue
				}
				if c, ok := r.Exprs[i+1].(*expr.Cmp); ok && c.Op == expr.CmpOpEq && matchesName(c.Data, h.Interface) {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// matchesName compares like the kernel: data is a name with its zero byte, or
// without it the begin of a name.
func matchesName(data []byte, name string) bool {
	if end := bytes.IndexByte(data, 0); end >= 0 {
		return name == string(data[:end])
	}
	return len(data) > 0 && strings.HasPrefix(name, string(data))
}

// advice is how whoever runs that firewall lets the pods through.
func (h Host) advice(family string, c *nftables.Chain) string {
	switch {
	case c.Table.Name == "firewalld":
		return fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", h.Interface)
	case c.Table.Name == "filter" && c.Name == "FORWARD":
		return acceptForward(map[string]string{"ip6": "ip6tables"}[family], h.Interface)
	}
	return fmt.Sprintf("nft insert rule %s %s %s iifname %s accept; nft insert rule %s %s %s oifname %s accept",
		family, c.Table.Name, c.Name, h.Interface, family, c.Table.Name, c.Name, h.Interface)
}

func acceptForward(program, iface string) string {
	if program == "" {
		program = "iptables"
	}
	return fmt.Sprintf("%s -I FORWARD -i %s -j ACCEPT; %s -I FORWARD -o %s -j ACCEPT (with ufw: ufw route allow in on %s; ufw route allow out on %s)",
		program, iface, program, iface, iface, iface)
}
