package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/network"
)

const (
	// gcTimeout is what the plugins of one network have for GC: pods that are
	// made meanwhile wait for it.
	gcTimeout = 20 * time.Second
	// gcAfter is how long after a plugin failed garbage is collected: time for
	// the failed ones to be tried again, and one collection for many failures.
	gcAfter = 10 * time.Minute
)

// gate keeps pods away from plugins that collect garbage: they have been told
// which attachments are valid, and would take a newer one for garbage. An ADD
// that is under way is in what they were told.
type gate struct {
	done  chan struct{}   // closed when the collection has ended; nil: none is under way
	valid map[string]bool // the pods that it knows of
	timer *time.Timer     // for the next one; nil: nothing has failed
}

// admit waits for a collection that does not know of the pod.
func (n *Network) admit(ctx context.Context, podID string) error {
	for {
		n.mu.Lock()
		done, valid := n.gc.done, n.gc.valid[podID]
		n.mu.Unlock()
		if done == nil || valid {
			return nil
		}
		select {
		case <-done:
		case <-ctx.Done():
			return refused(ctx.Err())
		}
	}
}

// upset notes that a plugin failed: it may have left what no DEL finds.
func (n *Network) upset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gc.timer != nil || n.ctx.Err() != nil {
		return
	}
	n.gc.timer = time.AfterFunc(gcAfter, func() {
		n.mu.Lock()
		n.gc.timer = nil
		n.mu.Unlock()
		n.goBackground(func(ctx context.Context) {
			if err := n.collect(ctx); err != nil {
				klog.FromContext(ctx).Error(err, "Cannot collect the garbage of networks")
			}
		})
	})
}

// collect lets the plugins give back what no lease explains: DEL for what libcni
// has kept a result of, and GC for the rest.
func (n *Network) collect(ctx context.Context) error {
	if err := n.ready(ctx); err != nil {
		return err
	}
	var lists []list
	for _, d := range n.dirs {
		found, _ := d.current()
		for _, l := range found {
			if !slices.ContainsFunc(lists, func(o list) bool { return o.Name == l.Name }) {
				lists = append(lists, l)
			}
		}
	}
	leases, end, err := n.shut(ctx)
	if err != nil {
		return err
	}
	defer end()
	errs := []error{n.dropKept(ctx, leases)}
	for _, l := range lists {
		if !speaksStatus(l) || l.DisableGC {
			continue
		}
		if err := n.garbage(ctx, l, leases); err != nil {
			errs = append(errs, fmt.Errorf("cannot collect the garbage of network %q: %w", l.Name, spoken(err)))
		}
	}
	return errors.Join(errs...)
}

// shut closes the gate and returns the leases that are valid, with the function
// that opens it again.
func (n *Network) shut(ctx context.Context) ([]network.Lease, func(), error) {
	n.mu.Lock()
	for n.gc.done != nil {
		done := n.gc.done
		n.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		n.mu.Lock()
	}
	defer n.mu.Unlock()
	n.gc.done, n.gc.valid = make(chan struct{}), map[string]bool{}
	var leases []network.Lease
	for id, g := range n.leases {
		n.gc.valid[id] = true
		leases = append(leases, g.lease)
	}
	return leases, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		close(n.gc.done)
		n.gc.done, n.gc.valid = nil, nil
	}, nil
}

func (n *Network) garbage(ctx context.Context, l list, leases []network.Lease) error {
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, lease := range leases {
		for _, a := range lease.Attachments {
			if a.Network == l.Name {
				args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: lease.PodID, IfName: a.Interface})
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, gcTimeout)
	defer cancel()
	return n.lib.GCNetworkList(ctx, l.NetworkConfigList, args)
}

// dropKept runs DEL for what libcni has a result of and no lease explains, with
// the list that was used.
func (n *Network) dropKept(ctx context.Context, leases []network.Lease) error {
	kept, err := n.lib.GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("cannot read the kept results: %w", err)
	}
	var errs []error
	for _, k := range kept {
		if slices.ContainsFunc(leases, func(l network.Lease) bool { return l.PodID == k.ContainerID }) {
			continue
		}
		a := network.Attachment{Network: k.Network, Interface: k.IfName, List: k.Config, Args: k.CniArgs}
		l, err := parseList(a.List)
		if err == nil {
			rt := runtimeConf(k.ContainerID, "", a)
			if isNamespace(k.NetNS) {
				rt.NetNS = k.NetNS
			}
			rt.CapabilityArgs = k.CapabilityArgs
			limited, cancel := n.limited(ctx)
			err = guarded(func() error { return spoken(n.lib.DelNetworkList(limited, l, rt)) })
			cancel()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot detach pod %s, which has no record, from network %q: %w", k.ContainerID, k.Network, err))
		}
	}
	return errors.Join(errs...)
}

// repairPatience is how long the daemon's start waits for plugins to collect
// garbage and to tell their status. Both go on without it.
const repairPatience = 5 * time.Second

// Repair implements network.Network: it has the plugins asked for their status
// and for garbage, where there is a network at all.
func (n *Network) Repair(ctx context.Context) error {
	n.mu.Lock()
	idle := len(n.leases) == 0
	n.mu.Unlock()
	if _, err := n.dirs[0].current(); err != nil && idle {
		if kept, err := n.lib.GetCachedAttachments(""); err == nil && len(kept) == 0 {
			return n.cfg.HostPorts.Repair()
		}
	}
	errs := []error{n.cfg.HostPorts.Repair()}
	collected := make(chan error, 1)
	n.goBackground(func(ctx context.Context) {
		err := n.collect(ctx)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot collect the garbage of networks")
		}
		collected <- err
	})
	waiting, cancel := context.WithTimeout(ctx, repairPatience)
	defer cancel()
	n.awaitStatus(waiting)
	select {
	case err := <-collected:
		errs = append(errs, err)
	case <-waiting.Done():
	}
	return errors.Join(errs...)
}

// Check implements network.Network.
func (n *Network) Check(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	kept, err := n.lib.GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("cannot read the kept results: %w", err)
	}
	diffs, err := n.cfg.HostPorts.Check()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range kept {
		if n.leases[k.ContainerID] == nil {
			diffs = append(diffs, fmt.Sprintf("result of network %s for %s of pod %s is kept, and there is no such pod", k.Network, k.IfName, k.ContainerID))
		}
	}
	for id, g := range n.leases {
		if !g.ready {
			continue
		}
		for _, a := range g.lease.Attachments {
			if !slices.ContainsFunc(kept, func(k *libcni.NetworkAttachment) bool {
				return k.ContainerID == id && k.Network == a.Network && k.IfName == a.Interface
			}) {
				diffs = append(diffs, fmt.Sprintf("pod %s is attached to network %s by %s, and no result of that is kept", id, a.Network, a.Interface))
			}
		}
	}
	slices.Sort(diffs)
	return diffs, nil
}
