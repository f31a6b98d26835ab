package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/network/bridge"
	"github.com/berth-runtime/berth/runtime/network/modes"
)

// config is the whole configuration: the defaults, then the file, then the
// drop-ins in lexical order, then the flags. Each later one changes only what
// it names. The comments are those of the sample, which is printed from here
// (`berthd config default`), so they are the documentation.
type config struct {
	Root     string `toml:"root,commented" comment:"What must survive a reboot: images, records of pods and containers, logs\nof pods made by the command line."`
	State    string `toml:"state,commented" comment:"What a reboot ends anyway: sockets, mount points, namespaces. Keep it on a\ntmpfs, and short: a socket path has at most 107 bytes."`
	NetnsDir string `toml:"netns_dir,commented" comment:"Where the network namespaces of pods are pinned."`
	LogLevel int    `toml:"log_level,commented" comment:"0 errors and warnings, 2 changes, 4 refusals, 5 every call."`

	DefaultHandler string `toml:"default_handler,commented" comment:"The runtime handler of pods that name none."`

	Cgroup  cgroupConfig  `toml:"cgroup" comment:"Control groups."`
	Shim    shimConfig    `toml:"shim" comment:"The process that is the parent of containers and outlives the daemon."`
	Network networkConfig `toml:"network" comment:"The network of pods: plugins of CNI, or the embedded bridge."`
	Image   imageConfig   `toml:"image" comment:"Images."`
	Volumes volumesConfig `toml:"volumes" comment:"Volumes."`
	Stream  streamConfig  `toml:"stream" comment:"The server that exec, attach and port-forward stream through."`
	Metrics metricsConfig `toml:"metrics" comment:"What Prometheus reads."`
	Tracing tracingConfig `toml:"tracing" comment:"Traces for OpenTelemetry."`
	Debug   debugConfig   `toml:"debug" comment:"What whoever looks for a defect reads."`

	Checkpoint checkpointConfig `toml:"checkpoint" comment:"Checkpoints of containers and pods."`

	SELinux  selinuxConfig            `toml:"selinux" comment:"Labels of SELinux."`
	NRI      nriConfig                `toml:"nri" comment:"Plugins of the Node Resource Interface."`
	CDI      cdiConfig                `toml:"cdi" comment:"Devices of the Container Device Interface."`
	Handlers map[string]handlerConfig `toml:"handlers" comment:"Runtime handlers: a RuntimeClass of Kubernetes names one. Each [handlers.NAME]\nis one more; this one is always there."`

	origins []api.Setting // where each key comes from; set once all is read
}

type cgroupConfig struct {
	Driver string `toml:"driver,commented" comment:"\"systemd\" or \"cgroupfs\". Empty: systemd if it runs this machine. The\nkubelet asks and follows."`
	Parent string `toml:"parent,commented" comment:"Parent of the pods that name none. The kubelet always names one."`
}

type shimConfig struct {
	Group    string `toml:"group,commented" comment:"\"node\": one shim for all pods, which takes the least memory. \"pod\": one for\neach pod. Pods that run keep the shim they have."`
	Path     string `toml:"path,commented" comment:"Empty: berth-shim beside berthd."`
	InitPath string `toml:"init_path,commented" comment:"First process of pods that share a PID namespace. Empty: berth-init beside\nberthd."`
}

type networkConfig struct {
	Enabled      bool     `toml:"enabled,commented" comment:"Without it only pods on the host network can run."`
	Mode         string   `toml:"mode,commented" comment:"\"auto\": the plugins of CNI where they are configured; without that the embedded\nbridge serves pods of berth and crictl, and the kubelet is told that there is no\nnetwork yet. \"cni\": nothing but CNI. \"bridge\": nothing but the embedded bridge,\nfor the kubelet's pods too. Pods keep the network that they were made with."`
	Bridge       string   `toml:"bridge,commented" comment:"Name of the bridge; at most 15 bytes."`
	Subnets      []string `toml:"subnets,commented" comment:"Where pods get their addresses from: one IPv4 subnet, then at most\none of IPv6."`
	Pools        []string `toml:"pools,commented" comment:"What the networks that people make get their subnets from: each a /24 of an\nIPv4 pool and a /64 of an IPv6 pool."`
	Masquerade   bool     `toml:"masquerade,commented" comment:"Let pods speak to the world with the node's address."`
	MTU          int      `toml:"mtu,commented" comment:"0: that of the interface of the default route."`
	SetIPForward bool     `toml:"set_ip_forward,commented" comment:"Switch forwarding on for the host. Without it the host must have it on."`

	Isolate       bool `toml:"isolate,commented" comment:"Pods reach each other by published ports only."`
	AllowSpoofing bool `toml:"allow_spoofing,commented" comment:"Let pods send from addresses that are not theirs, as one that routes for others\nmust. Otherwise frames, ARP, neighbour discovery and packets that a pod makes up\nin another's name go nowhere."`

	AllowRouteOverlap bool `toml:"allow_route_overlap,commented" comment:"Make the bridge although a route of the host leads to addresses of a subnet;\nthe bridge hides those."`

	CNI cniConfig `toml:"cni" comment:"Networks of the Container Network Interface."`
}

type imageConfig struct {
	DefaultRegistry string            `toml:"default_registry,commented" comment:"Registry of a reference that names none."`
	CertsDirs       []string          `toml:"certs_dirs,commented" comment:"Directories of <host>/hosts.toml: mirrors and certificates of registries."`
	Proxies         map[string]string `toml:"proxies,inline,commented" comment:"Proxies of registries that need another than HTTP_PROXY, HTTPS_PROXY and\nNO_PROXY of the environment say, by host or host:port: { 'quay.io' =\n'http://user:password@proxy.example:3128' }. Token servers and storage hosts of\nthat registry go through it too. Empty: none. Credentials are never shown."`
	Pinned          []string          `toml:"pinned,commented" comment:"Images that the kubelet's garbage collection is told to leave alone."`
	KeepBlobs       bool              `toml:"keep_blobs,commented" comment:"Keep the compressed layers too, a half more of disk: then what is saved and\npushed has the digests with which it was pulled or loaded."`
	TarSplit        bool              `toml:"tar_split,commented" comment:"Keep what makes a layer's tar again: without it images that are pulled\nfrom now on cannot be saved or pushed."`
	ParallelLayers  int               `toml:"parallel_layers,commented" comment:"Layers that are fetched and unpacked at a time."`
	ParallelRanges  int               `toml:"parallel_ranges,commented" comment:"Connections over which a large layer comes, each with a range of it at a time.\n1: every layer comes over one connection."`
	RangeMiB        int64             `toml:"range_mib,commented" comment:"Size of such a range in MiB."`
	RangesFromMiB   int64             `toml:"ranges_from_mib,commented" comment:"Size in MiB from which a layer is large."`
	BuildCacheGiB   int64             `toml:"build_cache_gib,commented" comment:"GiB of layers that are kept for later builds only; the oldest go first."`
	VerifiersDir    string            `toml:"verifiers_dir,commented" comment:"Directory of programs that must all agree to an image before it is pulled;\nthey are called like containerd's image verifiers. Empty: none is asked."`
}

type volumesConfig struct {
	Strict bool `toml:"strict,commented" comment:"Refuse a host path that does not exist. Otherwise it becomes an empty\ndirectory."`
}

type metricsConfig struct {
	Address string `toml:"address,commented" comment:"Where GET /metrics is answered: an address and a port, such as 127.0.0.1:9440,\nor the path of a unix socket. It is not encrypted and asks for no credentials,\nand names the images being pulled. Empty: nowhere."`
}

type debugConfig struct {
	Socket bool `toml:"socket,commented" comment:"Answer GET /debug/pprof/ and GET /metrics on debug.sock in the state directory,\nto root only."`
}

type checkpointConfig struct {
	Enabled bool   `toml:"enabled,commented" comment:"Let clients, the kubelet among them, write running containers to files by CRIU,\nand restore pods. Such a file holds the container's memory, with every secret in\nit."`
	CRIU    string `toml:"criu,commented" comment:"The program, on PATH or by its path; 3.17 or newer."`
	Key     string `toml:"key,commented" comment:"File of the key that vouches for checkpoints of pods: at least 32 bytes that only\nroot can read. A node restores what nodes with the same key have written, and\nnothing else. Empty: a key of this node's own, made in its root directory."`
}

// program is that of CRIU, or empty where checkpoints are off.
func (c *checkpointConfig) program() string {
	if !c.Enabled {
		return ""
	}
	return c.CRIU
}

type cdiConfig struct {
	Dirs []string `toml:"dirs,commented" comment:"Directories of specifications, the most important last. They are read for each\ncontainer that asks for such a device, and trusted: hooks in them run as root."`
}

func defaultConfig() config {
	c := config{
		Root: "/var/lib/berth", State: "/run/berth", NetnsDir: "/run/netns", LogLevel: 2,
		Cgroup: cgroupConfig{Parent: "/berth"},
		Shim:   shimConfig{Group: "node"},
		Network: networkConfig{
			Enabled: true, Mode: string(modes.Auto), Bridge: "berth0", Masquerade: true, CNI: defaultCNI(),
		},
		Image:  imageConfig{DefaultRegistry: "docker.io", CertsDirs: []string{"/etc/berth/certs.d"}, Proxies: map[string]string{}, Pinned: []string{}, TarSplit: true, ParallelLayers: 4, ParallelRanges: 4, RangeMiB: 16, RangesFromMiB: 64, BuildCacheGiB: 10},
		Stream: defaultStreams(),
		Debug:  debugConfig{Socket: true},

		Checkpoint: checkpointConfig{CRIU: "criu"},

		NRI:            defaultNRI(),
		CDI:            cdiConfig{Dirs: []string{"/etc/cdi", "/var/run/cdi"}},
		DefaultHandler: builtinHandler,
		Handlers:       map[string]handlerConfig{builtinHandler: {Rlimits: []rlimit{}, PodAnnotations: []string{}, ContainerAnnotations: []string{}}},
	}
	c.Network.Pools = []string{"10.211.0.0/16", "fd00:be:28::/48"}
	for _, p := range bridge.DefaultSubnets() {
		c.Network.Subnets = append(c.Network.Subnets, p.String())
	}
	return c
}

// sampleConfig is the sample that is shipped: each key at its default and
// commented out, so that a node keeps only what it changes.
func sampleConfig() []byte {
	var b bytes.Buffer
	b.WriteString("# Configuration of berthd. Files in conf.d beside this one are read after it,\n" +
		"# in lexical order; flags come last. The values here are the defaults.\n\n")
	b.Write(encodeConfig(defaultConfig()))
	return b.Bytes()
}

// encodeConfig writes each key of cfg on a line of its own, commented out.
func encodeConfig(cfg config) []byte {
	var b bytes.Buffer
	// The type is ours and has nothing that cannot be encoded.
	_ = toml.NewEncoder(&b).SetIndentTables(false).Encode(cfg)
	return b.Bytes()
}

// validate refuses values that cannot work, naming the key.
func (c *config) validate() error {
	bad := func(key, format string, args ...any) error {
		return fmt.Errorf("cannot use configuration: %s: %s", key, fmt.Sprintf(format, args...))
	}
	for key, path := range map[string]string{"root": c.Root, "state": c.State, "netns_dir": c.NetnsDir} {
		if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
			return bad(key, "%q is not an absolute path of a directory of its own", path)
		}
	}
	if within(c.Root, c.State) || within(c.State, c.Root) {
		return bad("state", "%s and root %s lie in one another", c.State, c.Root)
	}
	if !slices.Contains([]string{"", "systemd", "cgroupfs"}, c.Cgroup.Driver) {
		return bad("cgroup.driver", "%q is not systemd or cgroupfs", c.Cgroup.Driver)
	}
	if !slices.Contains([]string{"node", "pod"}, c.Shim.Group) {
		return bad("shim.group", "%q is not node or pod", c.Shim.Group)
	}
	if c.LogLevel < 0 {
		return bad("log_level", "%d is negative", c.LogLevel)
	}
	if key, why := c.Network.wrong(); why != "" {
		return bad("network."+key, "%s", why)
	}
	if key, why := c.Stream.wrong(); why != "" {
		return bad("stream."+key, "%s", why)
	}
	if at := c.Metrics.Address; at != "" && !filepath.IsAbs(at) {
		if _, err := netip.ParseAddrPort(at); err != nil {
			return bad("metrics.address", "%q is neither an address and a port, such as 127.0.0.1:9440, nor the absolute path of a socket", at)
		}
	}
	if key, why := c.NRI.wrong(); why != "" {
		return bad("nri."+key, "%s", why)
	}
	if key, why := c.Tracing.wrong(); why != "" {
		return bad("tracing."+key, "%s", why)
	}
	if key, why := c.wrongHandler(); why != "" {
		return bad(key, "%s", why)
	}
	for key, n := range map[string][2]int64{ // the value and the most
		"parallel_layers": {int64(c.Image.ParallelLayers), 64}, "parallel_ranges": {int64(c.Image.ParallelRanges), 64},
		"range_mib": {c.Image.RangeMiB, 1 << 20}, "ranges_from_mib": {c.Image.RangesFromMiB, 1 << 20}, "build_cache_gib": {c.Image.BuildCacheGiB, 1 << 20},
	} {
		if n[0] < 1 || n[0] > n[1] {
			return bad("image."+key, "%d is not between 1 and %d", n[0], n[1])
		}
	}
	if p := c.Checkpoint.CRIU; p == "" || strings.Contains(p, "/") && !filepath.IsAbs(p) {
		return bad("checkpoint.criu", "%q is neither a name nor an absolute path", p)
	}
	if p := c.Checkpoint.Key; p != "" && !filepath.IsAbs(p) {
		return bad("checkpoint.key", "%q is not an absolute path", p)
	}
	if dir := c.Image.VerifiersDir; dir != "" && !filepath.IsAbs(dir) {
		return bad("image.verifiers_dir", "%q is not an absolute path", dir)
	}
	if _, err := registry.ParseProxies(c.Image.Proxies); err != nil {
		return bad("image.proxies", "%v", err)
	}
	for _, dir := range c.CDI.Dirs {
		if !filepath.IsAbs(dir) {
			return bad("cdi.dirs", "%q is not an absolute path", dir)
		}
	}
	for _, dir := range c.Image.CertsDirs {
		if !filepath.IsAbs(dir) {
			return bad("image.certs_dirs", "%q is not an absolute path", dir)
		}
	}
	return nil
}

// wrong names the key that cannot work, and why.
func (n *networkConfig) wrong() (key, why string) {
	if !n.Enabled {
		return "", ""
	}
	if !slices.Contains([]modes.Mode{modes.Auto, modes.CNI, modes.Bridge}, modes.Mode(n.Mode)) {
		return "mode", fmt.Sprintf("%q is not auto, cni or bridge", n.Mode)
	}
	if key, why := n.CNI.wrong(); why != "" {
		return "cni." + key, why
	}
	if n.Bridge == "" || len(n.Bridge) > 15 || strings.ContainsAny(n.Bridge, "/ \t\n:") {
		return "bridge", fmt.Sprintf("%q cannot be the name of an interface", n.Bridge)
	}
	if n.MTU < 0 || n.MTU > 65535 {
		return "mtu", fmt.Sprintf("%d is not between 0 and 65535", n.MTU)
	}
	nets, err := n.prefixes()
	if err != nil {
		return "subnets", err.Error()
	}
	if len(nets) == 0 || len(nets) > 2 || !nets[0].Addr().Is4() || len(nets) == 2 && nets[1].Addr().Is4() {
		return "subnets", "it must be one IPv4 subnet, then at most one of IPv6"
	}
	if _, err := n.pools(); err != nil {
		return "pools", err.Error()
	}
	return "", ""
}

// prefixes are the subnets, parsed.
func (n *networkConfig) prefixes() ([]netip.Prefix, error) { return parsePrefixes(n.Subnets) }

// pools are the pools, parsed.
func (n *networkConfig) pools() ([]netip.Prefix, error) { return parsePrefixes(n.Pools) }

func parsePrefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a subnet such as 10.210.0.0/16", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// within tells whether path is dir or lies below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
