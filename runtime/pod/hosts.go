package pod

import (
	"context"
	"net/netip"
	"slices"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Pods of a network that people have made know each other by name: the names are
// in the /etc/hosts of each. They are kept up to date within the verbs that
// change them, so a client that has heard of a pod finds it by name, and nothing
// is watched where there is no such network.

// knownOn is the network on which a pod is known by name, or empty.
func knownOn(c *spec.Pod) string {
	if !onNetwork(c) {
		return ""
	}
	return c.LocalNetwork.Name
}

// etcContent is what the pod's files of /etc tell at this moment.
func (t *Table) etcContent(p *Pod) (EtcFiles, error) {
	rec := p.record()
	f := EtcFiles{Hostname: hostname(&rec.Config), OwnNetwork: hasNetns(&rec.Config), DNS: rec.Config.DNS, Addresses: rec.Lease.Addresses}
	for _, h := range rec.Config.LocalNetwork.Hosts {
		if h.Address.IsValid() {
			f.Hosts = append(f.Hosts, h)
			continue
		}
		gateways := rec.Lease.Gateways
		if !f.OwnNetwork {
			gateways = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
		}
		if len(gateways) == 0 {
			return f, errkind.New(errkind.FailedPrecondition, "cannot give %v the host's address: the pod's network has none that is known", h.Names)
		}
		for _, g := range gateways {
			f.Hosts = append(f.Hosts, spec.HostLine{Address: g, Names: h.Names})
		}
	}
	if network := knownOn(&rec.Config); network != "" {
		f.Hosts = append(f.Hosts, names(&rec, f.Hostname)...)
		for _, q := range t.serving(network) {
			if q != p {
				other := q.record()
				f.Hosts = append(f.Hosts, names(&other, "")...)
			}
		}
	}
	return f, nil
}

// names are the lines that tell of a pod, but for the name that is told of it
// already.
func names(rec *podRecord, but string) []spec.HostLine {
	var all []string
	for _, n := range append([]string{rec.Config.Metadata.Name, rec.Config.Hostname}, rec.Config.LocalNetwork.Aliases...) {
		if n != "" && n != but && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	var out []spec.HostLine
	for _, a := range rec.Lease.Addresses {
		if len(all) > 0 {
			out = append(out, spec.HostLine{Address: a, Names: all})
		}
	}
	return out
}

// serving lists the pods that serve on a network, oldest first.
func (t *Table) serving(network string) []*Pod {
	var out []*Pod
	for _, p := range t.snapshotPods() {
		if p.finished() && knownOn(p.config) == network && p.phase() == phaseReady {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *Pod) int { return a.record().CreatedAt.Compare(b.record().CreatedAt) })
	return out
}

// tellNeighbours writes the names of all pods of p's network into the files of
// each, after p has come or gone.
func (t *Table) tellNeighbours(ctx context.Context, p *Pod) {
	if network := knownOn(p.config); network != "" {
		t.tellNetwork(ctx, network)
	}
}

func (t *Table) tellNetwork(ctx context.Context, network string) {
	t.hostsMu.Lock()
	defer t.hostsMu.Unlock()
	for _, q := range t.serving(network) {
		f, err := t.etcContent(q)
		if err == nil {
			err = t.cfg.Volumes.RewriteHosts(t.podDir(q.id), f)
		}
		if err != nil && q.phase() == phaseReady { // else it has gone meanwhile
			logged(ctx, "Cannot tell a pod the names of its neighbours", err)
		}
	}
}

// tellAllNeighbours does so for every network, once the records are read: pods
// may have ended while no daemon ran.
func (t *Table) tellAllNeighbours(ctx context.Context) {
	var seen []string
	for _, p := range t.snapshotPods() {
		if network := knownOn(p.config); network != "" && !slices.Contains(seen, network) {
			seen = append(seen, network)
			t.tellNetwork(ctx, network)
		}
	}
}
