package modes_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/cnitest"
	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/bridge"
	"github.com/berth-runtime/berth/runtime/network/cni"
	"github.com/berth-runtime/berth/runtime/network/hostports"
	"github.com/berth-runtime/berth/runtime/network/modes"
	"github.com/berth-runtime/berth/runtime/network/portmap"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// The test binary is the plugin too.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		os.Exit(cnitest.Main())
	}
	os.Exit(m.Run())
}

// node is what networks of a node share: directories, and the host's ports.
type node struct {
	t         *testing.T
	dir, conf string
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t, dir, filepath.Join(dir, "net.d")}
	for _, d := range []string{"bin", "net.d"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(self, filepath.Join(dir, "bin", cnitest.Type)); err != nil {
		t.Fatal(err)
	}
	return n
}

// start makes the networks as a daemon does that starts in a mode.
func (n *node) start(mode modes.Mode) *modes.Network {
	n.t.Helper()
	ports := &portmap.Ports{}
	own := hostports.New(ports, "berth-modestest")
	c, err := cni.New(context.Background(), cni.Config{ConfDir: n.conf, BinDirs: []string{filepath.Join(n.dir, "bin")}, MaxNetworks: 1,
		CacheDir: filepath.Join(n.dir, "cache"), Owner: n.dir, Timeout: time.Minute, HostPorts: own})
	if err != nil {
		n.t.Fatal(err)
	}
	b, err := bridge.New(bridge.Config{Name: "bmodes0", Ports: ports})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		c.Close()
		own.Close()
		b.Close()
	})
	return modes.New(mode, c, b)
}

func (n *node) configure() {
	n.t.Helper()
	text := `{"cniVersion":"1.0.0","name":"cluster","plugins":[{"type":"fault","subnets":["192.0.2.0/24"]}]}`
	if err := os.WriteFile(filepath.Join(n.conf, "10.conflist"), []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

func request(id string, cluster bool) network.Request {
	return network.Request{PodID: strings.Repeat(id, 64), Namespace: "ns", Name: id, UID: "u", Netns: "/none", Cluster: cluster}
}

// TestWhoIsOnWhat is the table of modes: whose pods are on which network, with a
// configuration of CNI and without.
func TestWhoIsOnWhat(t *testing.T) {
	t.Parallel()
	for mode, want := range map[modes.Mode]map[string]string{
		modes.Auto:   {"a person's": "bridge", "the kubelet's": "none", "a person's, configured": "cluster", "the kubelet's, configured": "cluster"},
		modes.CNI:    {"a person's": "none", "the kubelet's": "none", "a person's, configured": "cluster", "the kubelet's, configured": "cluster"},
		modes.Bridge: {"a person's": "bridge", "the kubelet's": "bridge", "a person's, configured": "bridge", "the kubelet's, configured": "bridge"},
	} {
		for _, configured := range []bool{false, true} {
			n := newNode(t)
			if configured {
				n.configure()
			}
			net := n.start(mode)
			for whose, cluster := range map[string]bool{"a person's": false, "the kubelet's": true} {
				name := whose
				if configured {
					name += ", configured"
				}
				lease, err := net.Reserve(t.Context(), request("a", cluster))
				got := "bridge"
				switch {
				case err != nil:
					got = "none"
					if !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), n.conf) {
						t.Errorf("%s, %s: %v", mode, name, err)
					}
				case len(lease.Attachments) > 0:
					got = lease.Attachments[0].Network
				}
				if got != want[name] {
					t.Errorf("%s: the network of %s pod is %s, want %s", mode, name, got, want[name])
				}
				if ready := net.StatusFor(t.Context(), cluster); got != "bridge" && (ready == nil) != (got != "none") {
					t.Errorf("%s, %s: status %v", mode, name, ready)
				}
				net.Release(lease.PodID)
			}
		}
	}
}

// TestWishesOfTheEmbeddedNetwork: it gives an address that a person has chosen, and
// does not pass over one that it cannot give.
func TestWishesOfTheEmbeddedNetwork(t *testing.T) {
	t.Parallel()
	net := newNode(t).start(modes.Bridge)
	r := request("a", false)
	r.MAC = "0a:58:0a:00:00:02"
	if _, err := net.Reserve(t.Context(), r); !errkind.Is(err, errkind.Unimplemented) || !strings.Contains(err.Error(), r.PodID) {
		t.Errorf("got %v", err)
	}
}

// TestThePodStaysOnItsNetwork: another mode, or a configuration that came or went,
// changes nothing for a pod that is there.
func TestThePodStaysOnItsNetwork(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	net := n.start(modes.Auto)
	person := request("a", false)
	embedded, err := net.Reserve(t.Context(), person)
	if err != nil {
		t.Fatal(err)
	}
	n.configure()
	again := n.start(modes.Auto)
	if err := again.Restore(embedded); err != nil {
		t.Fatal(err)
	}
	kubelets := request("b", true)
	lease, err := again.Reserve(t.Context(), kubelets)
	if err == nil {
		lease, err = again.Attach(t.Context(), kubelets, lease)
	}
	if err != nil || len(lease.Addresses) != 1 {
		t.Fatalf("%+v, %v", lease, err)
	}
	dir := cnitest.Dir(filepath.Join(n.dir, "plugin"))
	if held, err := dir.Held(); err != nil || len(held) != 1 {
		t.Errorf("held: %v, %v", held, err)
	}
	bridged := n.start(modes.Bridge)
	if err := bridged.Restore(lease); err != nil {
		t.Fatal(err)
	}
	if err := bridged.Detach(t.Context(), lease, ""); err != nil {
		t.Fatal(err)
	}
	if held, err := dir.Held(); err != nil || len(held) != 0 {
		t.Errorf("held: %v, %v", held, err)
	}
}
