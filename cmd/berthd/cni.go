package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/bridge"
	"github.com/berth-runtime/berth/runtime/network/cni"
	"github.com/berth-runtime/berth/runtime/network/hostports"
	"github.com/berth-runtime/berth/runtime/network/modes"
	"github.com/berth-runtime/berth/runtime/network/named"
	"github.com/berth-runtime/berth/runtime/network/portmap"
)

type cniConfig struct {
	ConfDir      string   `toml:"conf_dir,commented" comment:"Where the configuration lists of networks are. It may be absent and come later;\nwhat changes there holds for the next pod."`
	BinDirs      []string `toml:"bin_dirs,commented" comment:"Where plugins are looked for."`
	MaxConfNum   int      `toml:"max_conf_num,commented" comment:"To how many networks a pod is attached: those of the first files, in lexical\norder. 0: to all."`
	ConfTemplate string   `toml:"conf_template,commented" comment:"A configuration list as a template of Go (text/template) with .PodCIDR,\n.PodCIDRRanges and .Routes: it is written to conf_dir when the kubelet tells the\nnode's pod CIDR and there is no other. Empty: the cluster brings its own."`
	Timeout      duration `toml:"timeout,commented" comment:"What the plugins of a network may take to attach a pod, and to detach it. Then\nthey are killed; detaching is tried again until it succeeds."`
	IPPreference string   `toml:"ip_pref,commented" comment:"The primary address of a pod that has several: \"ipv4\" or \"ipv6\", the first of\nthat family; \"cni\", the first one."`
}

func defaultCNI() cniConfig {
	return cniConfig{ConfDir: "/etc/cni/net.d", BinDirs: []string{"/opt/cni/bin", "/usr/lib/cni"}, MaxConfNum: 1,
		Timeout: duration(time.Minute), IPPreference: string(cni.PreferIPv4)}
}

// wrong names the key that cannot work, and why.
func (c *cniConfig) wrong() (key, why string) {
	if !filepath.IsAbs(c.ConfDir) {
		return "conf_dir", fmt.Sprintf("%q is not an absolute path", c.ConfDir)
	}
	if len(c.BinDirs) == 0 {
		return "bin_dirs", "it names no directory"
	}
	for _, dir := range c.BinDirs {
		if !filepath.IsAbs(dir) {
			return "bin_dirs", fmt.Sprintf("%q is not an absolute path", dir)
		}
	}
	if c.MaxConfNum < 0 {
		return "max_conf_num", fmt.Sprintf("%d is negative", c.MaxConfNum)
	}
	if c.ConfTemplate != "" && !filepath.IsAbs(c.ConfTemplate) {
		return "conf_template", fmt.Sprintf("%q is not an absolute path", c.ConfTemplate)
	}
	if c.Timeout <= 0 {
		return "timeout", "it must be more than 0s"
	}
	if !slices.Contains([]cni.Prefer{cni.PreferIPv4, cni.PreferIPv6, cni.PreferOrder}, cni.Prefer(c.IPPreference)) {
		return "ip_pref", fmt.Sprintf("%q is not ipv4, ipv6 or cni", c.IPPreference)
	}
	return "", ""
}

// nodeNetwork is the network of the node's pods, and what is asked of it beside
// the pods.
type nodeNetwork struct {
	network.Network
	named      *named.Set // nil: there can be none
	cniNames   func() []string
	status     func(ctx context.Context, cluster bool) error
	setPodCIDR func(ctx context.Context, cidrs string) error
	info       func() map[string]string
	close      func()
}

// buildNetwork makes the networks of the node: the usual one and those that
// people have made.
func buildNetwork(ctx context.Context, cfg config) (nodeNetwork, error) {
	usual, common, err := usualNetwork(ctx, cfg)
	if err != nil || !cfg.Network.Enabled {
		return usual, err
	}
	pools, err := cfg.Network.pools()
	if err == nil {
		usual.named, err = named.New(ctx, named.Config{Dir: filepath.Join(cfg.Root, "networks"), Bridge: common, Pools: pools}, usual.Network)
	}
	if err != nil {
		usual.close()
		return nodeNetwork{}, err
	}
	out := usual
	out.Network, out.close = usual.named, func() {
		usual.named.Close()
		usual.close()
	}
	return out, nil
}

// usualNetwork makes the network that the configuration asks for, and tells what
// further bridges have in common with its own.
func usualNetwork(ctx context.Context, cfg config) (nodeNetwork, bridge.Config, error) {
	if !cfg.Network.Enabled {
		return nodeNetwork{offline{}, nil, func() []string { return nil }, func(ctx context.Context, _ bool) error { return offline{}.Status(ctx) },
			func(context.Context, string) error { return nil }, func() map[string]string { return nil }, func() {}}, bridge.Config{}, nil
	}
	subnets, err := cfg.Network.prefixes()
	if err != nil {
		return nodeNetwork{}, bridge.Config{}, err
	}
	ports := &portmap.Ports{}
	common := bridge.Config{
		Name:              cfg.Network.Bridge,
		Subnets:           subnets,
		MTU:               cfg.Network.MTU,
		Masquerade:        cfg.Network.Masquerade,
		SetIPForward:      cfg.Network.SetIPForward,
		AllowSpoofing:     cfg.Network.AllowSpoofing,
		AllowRouteOverlap: cfg.Network.AllowRouteOverlap,
		Ports:             ports,
	}
	usual := common
	usual.Isolated, usual.ApartFrom = cfg.Network.Isolate, []string{cfg.Network.Bridge + "-*"}
	b, err := bridge.New(usual)
	if err != nil {
		return nodeNetwork{}, bridge.Config{}, err
	}
	own := hostports.New(ports, "berth-"+cfg.Network.Bridge+"-cni")
	handlerDirs := map[string]string{}
	for name, h := range cfg.Handlers {
		if h.CNIConfDir != "" {
			handlerDirs[name] = h.CNIConfDir
		}
	}
	c := cfg.Network.CNI
	plugins, err := cni.New(ctx, cni.Config{
		ConfDir: c.ConfDir, HandlerDirs: handlerDirs, BinDirs: c.BinDirs, MaxNetworks: c.MaxConfNum, ConfTemplate: c.ConfTemplate,
		CacheDir: filepath.Join(cfg.State, "cni"), Owner: cfg.Root, Timeout: time.Duration(c.Timeout), Prefer: cni.Prefer(c.IPPreference), HostPorts: own,
	})
	if err != nil {
		b.Close()
		return nodeNetwork{}, bridge.Config{}, err
	}
	both := modes.New(modes.Mode(cfg.Network.Mode), plugins, b)
	return nodeNetwork{both, nil, both.CNINames, both.StatusFor, both.SetPodCIDR, both.Info, func() {
		plugins.Close()
		own.Close()
		b.Close()
	}}, common, nil
}
