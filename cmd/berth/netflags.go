package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// networkNote is what CRI has no field for: which network, and which names. The
// daemon reads it on local pods (cri/translate).
const networkNote = ownPrefix + "network"

// Networks that mean something of their own.
const (
	usualNetwork  = "bridge" // docker's name for the one of all containers
	hostNetwork   = "host"
	noNetwork     = "none"
	containersNet = "container:" // that of another container
)

// netFlags are those about networks, but for --network itself.
type netFlags struct {
	aliases       []string
	dns, searches []string
	dnsOptions    []string
	addHosts      []string
	ip, ip6, mac  string
	publishAll    bool
	expose        []string

	joins   bool             // --network container:...
	resolve *criv1.DNSConfig // nil: as the daemon does
	publish []*published
}

func (n *netFlags) register(f *pflag.FlagSet) {
	f.StringArrayVar(&n.aliases, "network-alias", nil, "a further name on its network")
	f.StringVar(&n.ip, "ip", "", "IPv4 address that it is to have on its network")
	f.StringVar(&n.ip6, "ip6", "", "the same of IPv6")
	f.StringVar(&n.mac, "mac-address", "", "hardware address that it is to have, which plugins of CNI can give")
	f.StringArrayVar(&n.dns, "dns", nil, "name server to ask instead of the host's")
	f.StringArrayVar(&n.searches, "dns-search", nil, "domain to complete names with instead of the host's; . for none")
	f.StringArrayVar(&n.dnsOptions, "dns-option", nil, "option of the resolver, as ndots:2, instead of the host's")
	f.StringArrayVar(&n.addHosts, "add-host", nil, "a line of /etc/hosts: NAME:ADDRESS; the address host-gateway is this host's")
	f.BoolVarP(&n.publishAll, "publish-all", "P", false, "publish every port that the image exposes at a random port of the host")
	f.StringArrayVar(&n.expose, "expose", nil, "what --publish-all publishes besides: PORT[-PORT][/PROTO]")
	docker := map[string]string{"net": "network", "net-alias": "network-alias", "dns-opt": "dns-option"}
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if ours, ok := docker[name]; ok {
			name = ours
		}
		return pflag.NormalizedName(name)
	})
}

// named tells whether the network is one that people have made.
func (r *runFlags) named() bool {
	return r.network != usualNetwork && r.network != hostNetwork && r.network != noNetwork
}

// checkNetwork refuses what can be refused without asking the daemon. It makes
// --network container:X what --pod says.
func (r *runFlags) checkNetwork() error {
	n := &r.net
	p := &problem{what: "cannot run " + r.image}
	if r.network == "default" {
		r.network = usualNetwork
	}
	if r.network == "pod" && r.more.pod != "" {
		r.network = usualNetwork // it has no other
	}
	if of, ok := strings.CutPrefix(r.network, containersNet); ok {
		if r.more.pod != "" {
			p.why, p.do = "with the pod comes its network (--pod with --network container:)", "leave out one of the two"
			return p
		}
		r.more.pod, n.joins, r.network = of, true, usualNetwork
	}
	wishes := n.ip != "" || n.ip6 != "" || n.mac != ""
	ofPod := wishes || len(n.aliases)+len(n.dns)+len(n.searches)+len(n.dnsOptions)+len(n.addHosts)+len(n.expose) > 0 || n.publishAll
	switch {
	case r.network == hostNetwork && (len(r.ports) > 0 || n.publishAll):
		p.why, p.do = "on the host's network its ports are the host's own", "leave out -p, or choose --network bridge"
	case r.network == hostNetwork && r.hostname != "":
		p.why, p.do = "on the host's network it has the host's name", "leave out --hostname, or choose --network bridge"
	case r.network == noNetwork && (len(r.ports) > 0 || n.publishAll):
		p.why, p.do = "without a network nobody can reach its ports (--network none)", "leave out -p, or choose --network bridge"
	case wishes && (r.network == hostNetwork || r.network == noNetwork):
		p.why, p.do = "on network "+r.network+" it has no address of its own (--ip, --ip6, --mac-address)", "leave them out, or choose another network"
	case r.more.pod != "" && ofPod:
		p.why, p.do = "addresses, name servers, hosts and aliases are the pod's, which is there already", "leave them out, or make the pod's first container with them"
	case len(n.aliases) > 0 && !r.named():
		p.why, p.do = fmt.Sprintf("on network %s containers have no names", r.network), "make a network (berth network create NAME) and choose it with --network NAME"
	case r.named() && !goodName.MatchString(r.network):
		p.why, p.do = fmt.Sprintf("%q is not the name of a network", r.network), "choose one of: berth network ls; or host, none, container:NAME"
	default:
		return n.parse()
	}
	return p
}

// parse reads the lists.
func (n *netFlags) parse() error {
	for flag, s := range map[string]string{"--ip": n.ip, "--ip6": n.ip6} {
		if a, err := netip.ParseAddr(s); s != "" && (err != nil || a.Zone() != "" || a.Is4() != (flag == "--ip")) {
			return &problem{what: fmt.Sprintf("cannot ask for the address %q", s), why: "it is no address of the family of " + flag, do: "write for example --ip 10.211.0.7 or --ip6 fd00:be:28::7; berth network inspect shows the subnets"}
		}
	}
	if _, err := net.ParseMAC(n.mac); n.mac != "" && err != nil {
		return &problem{what: fmt.Sprintf("cannot ask for the hardware address %q", n.mac), why: "it is none", do: "write for example --mac-address 0a:58:0a:00:00:07"}
	}
	for _, s := range n.dns {
		if a, err := netip.ParseAddr(s); err != nil || a.IsUnspecified() {
			return &problem{what: fmt.Sprintf("cannot ask the name server %q", s), why: "it is not an IP address", do: "write for example --dns 192.0.2.53"}
		}
	}
	_, err := n.hosts()
	return err
}

// localNetwork is the form of the annotation.
type localNetwork struct {
	Name    string     `json:"name,omitempty"`
	Aliases []string   `json:"aliases,omitempty"`
	IPs     []string   `json:"ips,omitempty"`
	MAC     string     `json:"mac,omitempty"`
	Hosts   []hostLine `json:"hosts,omitempty"`
}

type hostLine struct {
	Address string   `json:"address"` // empty: the host itself
	Names   []string `json:"names"`
}

func (n *netFlags) hosts() ([]hostLine, error) {
	var out []hostLine
	for _, s := range n.addHosts {
		name, address, ok := strings.Cut(s, ":")
		if eq, addr, isEq := strings.Cut(s, "="); isEq { // docker's newer form
			name, address, ok = eq, addr, true
		}
		address = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
		if address == "host-gateway" {
			address = ""
		} else if _, err := netip.ParseAddr(address); err != nil {
			ok = false
		}
		if !ok || name == "" {
			return nil, &problem{what: fmt.Sprintf("cannot add the host %q", s), why: "it is not NAME:ADDRESS with an IP address", do: "write for example --add-host db:192.0.2.7 or --add-host host.internal:host-gateway"}
		}
		out = append(out, hostLine{Address: address, Names: []string{name}})
	}
	return out, nil
}

// prepareNetwork asks the daemon what the flags leave open: how names are
// resolved where only a part of that is said.
func (r *runFlags) prepareNetwork(ctx context.Context, cl *client) error {
	n := &r.net
	var err error
	if n.publish, err = parsePorts(r.ports); err != nil {
		return err
	}
	if len(n.dns)+len(n.searches)+len(n.dnsOptions) == 0 {
		return nil
	}
	list, err := cl.admin.Networks(ctx)
	if err != nil {
		return cannot(err, "learn how names are resolved")
	}
	n.resolve = n.merge(list.DNS)
	return nil
}

// merge puts what was asked for in the place of the same part of the host's.
func (n *netFlags) merge(host api.DNS) *criv1.DNSConfig {
	pick := func(asked, host []string) []string {
		if len(asked) > 0 {
			return asked
		}
		return host
	}
	searches := pick(n.searches, host.Searches)
	if len(searches) == 1 && searches[0] == "." {
		searches = nil
	}
	return &criv1.DNSConfig{Servers: pick(n.dns, host.Servers), Searches: searches, Options: pick(n.dnsOptions, host.Options)}
}

// onNetwork makes the pod's configuration say what the flags say.
func (r *runFlags) onNetwork(pod *criv1.PodSandboxConfig) error {
	pod.DnsConfig = r.net.resolve
	r.publishTo(pod)
	hosts, err := r.net.hosts()
	if err != nil {
		return err
	}
	note := localNetwork{Aliases: r.net.aliases, MAC: r.net.mac, Hosts: hosts}
	for _, a := range []string{r.net.ip, r.net.ip6} {
		if a != "" {
			note.IPs = append(note.IPs, a)
		}
	}
	if r.named() || r.network == noNetwork {
		note.Name = r.network
	}
	if note.Name == "" && len(note.Hosts)+len(note.IPs) == 0 && note.MAC == "" {
		return nil
	}
	text, err := json.Marshal(note)
	pod.Annotations[networkNote] = string(text)
	return err
}

// publishTo notes the ports that are chosen at this moment.
func (r *runFlags) publishTo(pod *criv1.PodSandboxConfig) {
	pod.PortMappings = mappings(r.net.publish)
	delete(pod.Annotations, portsAnnotation)
	if len(pod.PortMappings) > 0 {
		pod.Annotations[portsAnnotation] = portsText(pod.PortMappings)
	}
}

// networkAdvice says what helps where the daemon refused because of a network.
func (r *runFlags) networkAdvice(err error) error {
	switch {
	case len(r.net.publish) > 0 && strings.Contains(fmt.Sprint(err), "host port"):
		return advised(err, codes.AlreadyExists, "choose another port of the host (-p), or end what holds this one: berth ps, ss -lntup")
	case r.named() && strings.Contains(fmt.Sprint(err), "network \""+r.network+"\" does not exist"):
		return advised(err, codes.NotFound, "make it: berth network create "+r.network+"; or see what there is: berth network ls")
	}
	return err
}
