package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/network/named"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/volumes/etcfiles"
)

// networks shows the networks to the command line, with the pods on each.
type networks struct {
	cfg  networkConfig
	net  nodeNetwork
	pods *pod.Table
}

// embedded is what the bridge of all pods is called.
const embedded = "bridge"

// List implements admin.Networks.
func (n networks) List(context.Context) []api.Network {
	cni := n.net.cniNames()
	var out []api.Network
	for i, name := range cni {
		out = append(out, api.Network{Name: name, Kind: api.NetworkCNI, Usual: i == 0})
	}
	if n.cfg.Enabled {
		own := api.Network{Name: embedded, Kind: api.NetworkBridge, Usual: len(cni) == 0, Interface: n.cfg.Bridge, MTU: n.cfg.MTU, Isolated: n.cfg.Isolate}
		if prefixes, err := n.cfg.prefixes(); err == nil {
			own.Subnets, own.Gateways = subnetsOf(prefixes)
		}
		out = append(out, own)
	}
	out = append(out, api.Network{Name: "host", Kind: api.NetworkHost}, api.Network{Name: "none", Kind: api.NetworkNone})
	if n.net.named != nil {
		for _, r := range n.net.named.List() {
			out = append(out, networkOf(r))
		}
	}
	for i := range out {
		out[i].Pods = []api.NetworkPod{}
	}
	for _, p := range n.pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		for i := range out {
			if p.Ready && isOn(p, out[i]) {
				out[i].Pods = append(out[i].Pods, podOn(p))
			}
		}
	}
	return out
}

func isOn(p *pod.PodStatus, n api.Network) bool {
	switch p.Config.Namespaces.Network {
	case spec.ModeNode:
		return n.Kind == api.NetworkHost
	case spec.ModeNone:
		return n.Kind == api.NetworkNone
	}
	if name := p.Config.LocalNetwork.Name; name != "" {
		return !n.Created.IsZero() && n.Name == name
	}
	if p.Network == "" {
		return n.Name == embedded
	}
	return n.Kind == api.NetworkCNI && n.Name == p.Network
}

func podOn(p *pod.PodStatus) api.NetworkPod {
	out := api.NetworkPod{ID: p.ID, Namespace: p.Config.Metadata.Namespace, Name: p.Config.Metadata.Name}
	for _, a := range p.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	if p.Config.Namespaces.Network != spec.ModePod {
		return out
	}
	for _, m := range p.Config.Ports {
		if m.HostPort != 0 {
			out.Ports = append(out.Ports, api.Port{Protocol: m.Protocol, HostIP: m.HostIP, HostPort: m.HostPort, ContainerPort: m.ContainerPort})
		}
	}
	return out
}

func networkOf(r named.Record) api.Network {
	out := api.Network{Name: r.Name, Kind: api.NetworkBridge, Interface: r.Interface, MTU: r.MTU, Internal: r.Internal, Isolated: r.Isolated,
		Labels: r.Labels, Created: r.CreatedAt.Truncate(time.Millisecond)}
	out.Subnets, out.Gateways = subnetsOf(r.Subnets)
	return out
}

// subnetsOf are the subnets and the host's address in each, the first.
func subnetsOf(prefixes []netip.Prefix) (subnets, gateways []string) {
	for _, p := range prefixes {
		subnets, gateways = append(subnets, p.String()), append(gateways, p.Masked().Addr().Next().String())
	}
	return subnets, gateways
}

// DNS implements admin.Networks.
func (n networks) DNS() api.DNS {
	d, trouble := etcfiles.HostDNS()
	return api.DNS{Servers: d.Servers, Searches: d.Searches, Options: d.Options, Trouble: trouble}
}

// Create implements admin.Networks.
func (n networks) Create(r *api.CreateNetworkRequest) (*api.Network, error) {
	if n.net.named == nil {
		return nil, errkind.New(errkind.FailedPrecondition, "cannot make network %q: networks are off (network.enabled)", r.Name)
	}
	subnets, err := parsePrefixes(r.Subnets)
	if err != nil {
		return nil, errkind.New(errkind.InvalidArgument, "cannot make network %q: %w", r.Name, err)
	}
	made, err := n.net.named.Create(named.Record{Name: r.Name, Subnets: subnets, MTU: r.MTU, Internal: r.Internal, Isolated: r.Isolated, Labels: r.Labels})
	if err != nil {
		return nil, err
	}
	out := networkOf(made)
	out.Pods = []api.NetworkPod{}
	return &out, nil
}

// Remove implements admin.Networks.
func (n networks) Remove(name string) error {
	if n.net.named == nil {
		return errkind.New(errkind.NotFound, "network %q does not exist", name)
	}
	return n.net.named.Remove(name)
}

// Examine implements admin.Networks.
func (n networks) Examine(ctx context.Context) []api.Finding {
	var out []api.Finding
	for _, f := range examine(ctx, n.net.Network) {
		out = append(out, api.Finding{Check: f.Check, Verdict: string(f.Verdict), Reason: f.Reason, Fix: f.Fix})
	}
	dns := api.Finding{Check: "network.dns", Verdict: "ok", Reason: "pods ask the name servers that the host asks"}
	switch d := n.DNS(); {
	case d.Trouble != "":
		dns.Verdict, dns.Reason, dns.Fix = "fail", d.Trouble, "name a server for a container (--dns 192.0.2.53), or one in /etc/resolv.conf that other machines reach as well"
	case len(d.Servers) == 0:
		dns.Verdict, dns.Reason, dns.Fix = "warn", "the host names no name server: neither do its pods", "name one in /etc/resolv.conf, or for a container (--dns 192.0.2.53)"
	}
	return append(out, dns)
}
