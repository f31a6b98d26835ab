package lab

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Plugin is the configuration of one plugin of CNI.
type Plugin map[string]any

// Portmap is the reference plugin that publishes ports.
func Portmap() Plugin {
	return Plugin{"type": "portmap", "backend": "nftables", "capabilities": Plugin{"portMappings": true}}
}

// CNIBridge is the interface that the plugin of BridgeList makes.
const CNIBridge = "cni0"

// BridgeList is a network configuration of the reference plugins bridge and
// host-local, in the lab's own subnets, with more plugins after them.
func (l *Lab) BridgeList(version string, more ...Plugin) string {
	var ranges [][]Plugin
	routes := []Plugin{}
	for _, s := range l.CNISubnets() {
		ranges = append(ranges, []Plugin{{"subnet": s.String()}})
		routes = append(routes, Plugin{"dst": map[bool]string{true: "0.0.0.0/0", false: "::/0"}[s.Addr().Is4()]})
	}
	return l.List(version, append([]Plugin{{"type": "bridge", "bridge": CNIBridge, "isGateway": true, "hairpinMode": true, "ipMasq": true, "ipMasqBackend": "nftables",
		"ipam": Plugin{"type": "host-local", "dataDir": filepath.Join(l.Dir, "cni/addresses"), "ranges": ranges, "routes": routes}}}, more...)...)
}

// List is a network configuration with those plugins.
func (l *Lab) List(version string, plugins ...Plugin) string {
	text, err := json.Marshal(Plugin{"cniVersion": version, "name": l.Name, "plugins": plugins})
	if err != nil {
		panic(err) // of what tests write down
	}
	return string(text)
}

// CNISubnets are those of BridgeList: beside those of the embedded bridge.
func (l *Lab) CNISubnets() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range l.Subnets {
		a := s.Addr().AsSlice()
		a[1] ^= 0x80
		addr, _ := netip.AddrFromSlice(a)
		out = append(out, netip.PrefixFrom(addr, s.Bits()))
	}
	return out
}

// SetNetwork puts a network configuration where the daemon looks for it.
func (l *Lab) SetNetwork(file, text string) error {
	path := filepath.Join(l.NetworkConf(), file)
	return errors.Join(os.MkdirAll(l.NetworkConf(), 0o755), os.WriteFile(path+".tmp", []byte(text), 0o644), os.Rename(path+".tmp", path))
}

// CNIAddresses are those that host-local has given out.
func (l *Lab) CNIAddresses() []string {
	entries, err := os.ReadDir(filepath.Join(l.Dir, "cni/addresses", l.Name))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			out = append(out, e.Name())
		}
	}
	return out
}

// OfNetwork lists what of pods is left in the lab's own network namespace and in
// the records of CNI: addresses, interfaces, rules with the mark of a pod, and
// tracked connections of UDP to addresses of pods.
func (l *Lab) OfNetwork() []string {
	var left []string
	for _, a := range l.CNIAddresses() {
		left = append(left, "address "+a)
	}
	if kept, err := os.ReadDir(filepath.Join(l.State, "cni/results")); err == nil {
		for _, e := range kept {
			left = append(left, "result "+e.Name())
		}
	}
	for _, i := range l.interfaces() {
		if i.Type() != "bridge" {
			left = append(left, "interface "+i.Attrs().Name)
		}
	}
	subnets := append(l.CNISubnets(), l.Subnets...)
	_ = l.Inside(func() error {
		rules, err := podRules()
		if err != nil {
			left = append(left, err.Error())
		}
		left = append(left, rules...)
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				left = append(left, "conntrack cannot be read: "+err.Error())
			}
			for _, f := range flows {
				to, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
				for _, s := range subnets {
					if f.Forward.Protocol == unix.IPPROTO_UDP && s.Contains(to.Unmap()) {
						left = append(left, "tracked connection "+strings.TrimSpace(f.String()))
					}
				}
			}
		}
		return nil
	})
	return left
}
