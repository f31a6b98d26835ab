// Package cni attaches pods to the networks of a cluster, which plugins of the
// Container Network Interface make: programs that are run for each pod.
//
// The model: a directory has configuration lists, read again when it changes. A
// lease says which lists a pod is attached to, with all that the plugins are
// told, copied into the lease: what a pod was attached with is what it is
// detached with, whatever the directory says by then. The plugins' answer, which
// has the addresses, is added to the lease once they have given it.
//
// The law: the lease is on disk before the first plugin runs, and no address of
// it is used before it is there too. DEL is driven by leases alone, and its
// failure is the caller's to repeat until it succeeds, without the pod's network
// namespace if that is gone. Nobody but this process runs plugins for its pods:
// those that an earlier daemon left running have ended before the first of ours
// begins. A plugin has a deadline, its output a bound, and while it hangs it holds
// up its own pod only.
//
// What libcni keeps of results is in a directory that ends with the boot. It is
// never needed, since the leases have it all, and Check holds it against them.
//
// GC tells plugins which attachments are valid, by the leases, so that what lost
// its lease is given back; plugins of networks where other runtimes have pods too
// must not be told so: there, the list says "disableGC": true.
package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/hostports"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Config of a Network. Paths are absolute.
type Config struct {
	ConfDir      string            // of the configuration lists
	HandlerDirs  map[string]string // the same of runtime handlers that have their own
	BinDirs      []string          // of the plugins, the first that has one counts
	MaxNetworks  int               // of a directory that each pod is attached to; 0: all
	ConfTemplate string            // of a list that PodCIDR makes; empty: it makes none
	CacheDir     string            // for libcni; ends with the boot
	Owner        string            // the daemon's root directory, by which its plugins are known
	Timeout      time.Duration     // of the plugins of one list for one verb, together
	Prefer       Prefer            // empty: PreferIPv4
	HostPorts    *hostports.Table  // serves the host ports that no plugin takes
}

// Network is a network.Network.
type Network struct {
	cfg       Config
	exec      *plugins
	lib       *libcni.CNIConfig
	dirs      []*directory // the first is the default one
	byHandler map[string]*directory
	watch     *watcher // nil: the directories are read whenever they are asked for

	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	background sync.WaitGroup

	straysMu sync.Mutex
	alone    bool // guarded by straysMu: no plugin of an earlier daemon runs

	mu     sync.Mutex
	leases map[string]*grant // guarded by mu
	gc     gate              // guarded by mu
}

// grant is a lease and what this process knows of it.
type grant struct {
	lease network.Lease
	// begun are the attachments whose ADD may have run, by their number; of a
	// restored lease all.
	begun map[int]bool
	ready bool // attached, or recorded as attached
}

var _ network.Network = (*Network)(nil)

// New makes a Network in the caller's network namespace. It reads the
// directories and goes on to watch them; it runs no plugin.
func New(ctx context.Context, cfg Config) (*Network, error) {
	if cfg.Prefer == "" {
		cfg.Prefer = PreferIPv4
	}
	n := &Network{cfg: cfg, exec: &plugins{mark: markOf(cfg.Owner)}, byHandler: map[string]*directory{}, leases: map[string]*grant{}}
	n.lib = libcni.NewCNIConfigWithCacheDir(cfg.BinDirs, cfg.CacheDir, n.exec)
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	byPath := map[string]*directory{}
	add := func(path string) *directory {
		path = filepath.Clean(path)
		if byPath[path] == nil {
			byPath[path] = &directory{path: path, limit: cfg.MaxNetworks}
			n.dirs = append(n.dirs, byPath[path])
		}
		return byPath[path]
	}
	add(cfg.ConfDir)
	for _, handler := range slices.Sorted(maps.Keys(cfg.HandlerDirs)) {
		n.byHandler[handler] = add(cfg.HandlerDirs[handler])
	}
	w, err := newWatcher(n.dirs, n.changed)
	if err != nil {
		// No watch is left on this machine, or no memory.
		klog.FromContext(ctx).Error(err, "The configuration of networks is read at every use instead")
		for _, d := range n.dirs {
			d.load()
		}
		return n, nil
	}
	n.watch = w
	w.look(n.ctx)
	n.goBackground(w.follow)
	return n, nil
}

// changed is told of a directory that has other lists than before.
func (n *Network) changed(d *directory) {
	lists, err := d.current()
	if err != nil {
		klog.FromContext(n.ctx).Info("No network configuration", "directory", d.path, "why", err)
		return
	}
	for _, l := range lists {
		klog.FromContext(n.ctx).Info("Network configuration", "file", l.file, "network", l.Name)
	}
}

// goBackground runs f until it ends, which it does when its context has; Close
// waits for it. After Close nothing begins.
func (n *Network) goBackground(f func(context.Context)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() == nil {
		n.background.Go(func() { f(n.ctx) })
	}
}

// Close ends the plugins that run and the watch. Attachments stay.
func (n *Network) Close() {
	n.mu.Lock()
	n.cancel()
	if n.gc.timer != nil {
		n.gc.timer.Stop()
	}
	n.mu.Unlock()
	n.background.Wait()
}

// readAgain reads a directory that is not watched.
func (n *Network) readAgain(d *directory) {
	if n.watch == nil && d.load() {
		n.changed(d)
	}
}

// of is the directory of a runtime handler.
func (n *Network) of(handler string) *directory {
	if d := n.byHandler[handler]; d != nil {
		return d
	}
	return n.dirs[0]
}

// Configured tells whether there is anything for pods of a runtime handler, be
// it wrong: errkind.NotFound is that there is not.
func (n *Network) Configured(handler string) bool {
	d := n.of(handler)
	n.readAgain(d)
	_, err := d.current()
	return !errkind.Is(err, errkind.NotFound)
}

// Reserve implements network.Network: it settles what the plugins will be told.
// The addresses are theirs to grant.
func (n *Network) Reserve(ctx context.Context, r network.Request) (network.Lease, error) {
	if err := ctx.Err(); err != nil {
		return network.Lease{}, err
	}
	n.mu.Lock()
	if g := n.leases[r.PodID]; g != nil {
		defer n.mu.Unlock()
		return g.lease, nil
	}
	n.mu.Unlock()
	l, err := n.plan(r)
	if err == nil {
		err = n.cfg.HostPorts.Hold(r, &l)
	}
	if err != nil {
		return network.Lease{}, fmt.Errorf("cannot reserve the network of pod %s: %w", r.PodID, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leases[r.PodID] = &grant{lease: l, begun: map[int]bool{}}
	return l, nil
}

// plan is the lease of a pod before any plugin ran.
func (n *Network) plan(r network.Request) (network.Lease, error) {
	l := network.Lease{PodID: r.PodID, Pod: r.Pod()}
	d := n.of(r.Handler)
	n.readAgain(d)
	lists, err := d.current()
	if err != nil {
		return l, errkind.New(errkind.FailedPrecondition, "%w", err)
	}
	data, err := capabilityData(r)
	if err != nil {
		return l, err
	}
	args := podArgs(r)
	if err := checkArgs(args); err != nil {
		return l, err
	}
	for i, conf := range lists {
		run, err := needed(conf.NetworkConfigList, data)
		if err != nil {
			return l, err
		}
		a := network.Attachment{Network: run.Name, Interface: fmt.Sprintf("eth%d", i), List: run.Bytes, Args: args}
		for name, v := range data {
			// A host port leads to the primary network, and wishes are for it.
			if declares(run, name) && (i == 0 || !slices.Contains([]string{capPorts, capIPs, capMAC}, name)) {
				if a.Capabilities == nil {
					a.Capabilities = map[string]json.RawMessage{}
				}
				a.Capabilities[name] = v
			}
		}
		l.Attachments = append(l.Attachments, a)
	}
	// Whatever else a plugin does not take, the pod runs without; addresses that
	// a person has chosen are not left out in silence.
	for _, wish := range []string{capIPs, capMAC} {
		if data[wish] != nil && l.Attachments[0].Capabilities[wish] == nil {
			return l, errkind.New(errkind.FailedPrecondition, "it wants certain addresses, and no plugin of network %q declares the capability %q", l.Attachments[0].Network, wish)
		}
	}
	return l, nil
}

// Restore implements network.Network.
func (n *Network) Restore(l network.Lease) error {
	if err := n.cfg.HostPorts.Held(l); err != nil {
		return fmt.Errorf("cannot restore the lease of pod %s: %w", l.PodID, err)
	}
	g := &grant{lease: l, begun: map[int]bool{}, ready: len(l.Attachments) > 0}
	for i, a := range l.Attachments {
		g.begun[i] = true
		g.ready = g.ready && a.Result != nil
	}
	if g.ready && len(l.Ports) > 0 && !served(l) {
		subnets, _ := prefixesOf(l.Attachments[0]) // that has been read before it was recorded
		n.cfg.HostPorts.Known(l, subnets)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leases[l.PodID] == nil {
		n.leases[l.PodID] = g
	}
	return nil
}

// Release implements network.Network.
func (n *Network) Release(podID string) {
	n.cfg.HostPorts.Free(podID)
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.leases, podID)
}

// served tells whether a plugin has the host ports of a lease.
func served(l network.Lease) bool {
	return slices.ContainsFunc(l.Attachments, func(a network.Attachment) bool { return a.Capabilities[capPorts] != nil })
}

// ready makes sure that no plugin of an earlier daemon runs any more.
func (n *Network) ready(ctx context.Context) error {
	n.straysMu.Lock()
	defer n.straysMu.Unlock()
	if !n.alone {
		if err := endStrays(n.ctx, n.exec.mark, min(n.cfg.Timeout, strayPatience)); err != nil {
			return err // those in the kernel's hands may end yet
		}
		n.alone = true
	}
	return ctx.Err()
}

// strayPatience is how long plugins of an earlier daemon may take to end.
const strayPatience = 10 * time.Second
