package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/version"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const (
	// statusTimeout is how long the plugins of a network may take to tell how
	// they are, all together.
	statusTimeout = 10 * time.Second
	// The age at which their answer is asked for again by who asks for it: a
	// kubelet asks every five seconds, and plugins are processes.
	freshWell = 30 * time.Second
	freshIll  = 4 * time.Second
)

// health is what the plugins of a directory's networks answered to STATUS.
type health struct {
	known  bool
	err    error
	at     time.Time
	asking chan struct{} // closed when the answer is there; nil: nobody asks
}

// speaksStatus tells whether the spec version of a list has STATUS and GC.
func speaksStatus(l list) bool {
	ok, err := version.GreaterThanOrEqualTo(l.CNIVersion, "1.1.0")
	return err == nil && ok
}

// Status is nil when pods of the default handler can be attached. It never
// waits for a plugin: it tells what the plugins last said, and has them asked
// again when that is old. Plugins of a spec version before 1.1.0 are not asked.
func (n *Network) Status(context.Context) error { return n.statusOf(n.dirs[0]) }

func (n *Network) statusOf(d *directory) error {
	n.readAgain(d)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	if !slices.ContainsFunc(d.lists, speaksStatus) {
		return nil
	}
	n.askLocked(d)
	if !d.health.known {
		return errkind.New(errkind.Unavailable, "the plugins of network %q have not told their status yet", d.lists[0].Name)
	}
	return d.health.err
}

// askLocked asks the plugins of d for their status unless somebody does or the
// last answer is fresh. The caller holds d.mu.
func (n *Network) askLocked(d *directory) {
	fresh := freshWell
	if d.health.err != nil {
		fresh = freshIll
	}
	if d.health.asking != nil || d.health.known && time.Since(d.health.at) < fresh {
		return
	}
	asking, lists, loads := make(chan struct{}), d.lists, d.loads
	d.health.asking = asking
	n.goBackground(func(ctx context.Context) {
		err := n.askStatus(ctx, lists)
		d.mu.Lock()
		defer d.mu.Unlock()
		defer close(asking)
		if d.loads != loads {
			return // of plugins that do not count any more
		}
		if before := d.health; fmt.Sprint(before.err) != fmt.Sprint(err) || !before.known {
			if err == nil {
				klog.FromContext(ctx).Info("The plugins say that the network is ready", "directory", d.path)
			} else {
				klog.FromContext(ctx).Info("The plugins say that the network is not ready", "directory", d.path, "why", err)
			}
		}
		d.health = health{known: true, err: err, at: time.Now()}
	})
}

func (n *Network) askStatus(ctx context.Context, lists []list) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	for _, l := range lists {
		if !speaksStatus(l) {
			continue
		}
		if err := n.lib.GetStatusNetworkList(ctx, l.NetworkConfigList); err != nil {
			return fmt.Errorf("network %q is not ready: %w", l.Name, spoken(err))
		}
	}
	return nil
}

// awaitStatus waits until the plugins have told their status, or ctx ends.
func (n *Network) awaitStatus(ctx context.Context) {
	d := n.dirs[0]
	d.mu.Lock()
	if slices.ContainsFunc(d.lists, speaksStatus) {
		n.askLocked(d)
	}
	asking := d.health.asking
	d.mu.Unlock()
	if asking == nil {
		return
	}
	select {
	case <-asking:
	case <-ctx.Done():
	}
}

// Names are those of the networks that pods of the default runtime handler are
// attached to, the primary one first.
func (n *Network) Names() []string {
	n.readAgain(n.dirs[0])
	lists, _ := n.dirs[0].current() // that there are none, or wrong ones, Status tells
	var out []string
	for _, l := range lists {
		out = append(out, l.Name)
	}
	return out
}

// Info is what verbose status shows of the networks, under the names that
// containerd uses.
func (n *Network) Info() map[string]string {
	type network struct {
		File         string   `json:"file"`
		Name         string   `json:"name"`
		CNIVersion   string   `json:"cniVersion"`
		Plugins      []string `json:"plugins"`
		Capabilities []string `json:"capabilities"`
	}
	out := map[string]string{}
	var all []network
	for _, d := range n.dirs {
		lists, _ := d.current()
		for _, l := range lists {
			one := network{File: l.file, Name: l.Name, CNIVersion: l.CNIVersion, Plugins: []string{}, Capabilities: []string{}}
			for _, p := range l.Plugins {
				one.Plugins = append(one.Plugins, p.Network.Type)
				for c, on := range p.Network.Capabilities {
					if on {
						one.Capabilities = append(one.Capabilities, c)
					}
				}
			}
			slices.Sort(one.Capabilities)
			all = append(all, one)
		}
	}
	text, err := json.Marshal(map[string]any{"confDir": n.cfg.ConfDir, "binDirs": n.cfg.BinDirs, "maxConfNum": n.cfg.MaxNetworks, "networks": all})
	if err == nil {
		out["cniconfig"] = string(text)
	}
	say := func(key string, err error) {
		out[key] = "OK"
		if err != nil {
			out[key] = err.Error()
		}
	}
	say("lastCNILoadStatus", n.statusOf(n.dirs[0]))
	for handler, d := range n.byHandler {
		say("lastCNILoadStatus."+handler, n.statusOf(d))
	}
	return out
}
