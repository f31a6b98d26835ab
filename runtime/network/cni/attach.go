package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/fail"
)

// Attach implements network.Network: it runs ADD for each attachment that has no
// result yet. The lease that it returns has the results, those of the attachments
// before one that failed too.
func (n *Network) Attach(ctx context.Context, r network.Request, l network.Lease) (network.Lease, error) {
	l.Attachments = slices.Clone(l.Attachments)
	if err := n.attach(ctx, r, &l); err != nil {
		return l, fmt.Errorf("cannot attach pod %s/%s (%s) to %w", r.Namespace, r.Name, l.PodID, err)
	}
	return l, nil
}

func (n *Network) attach(ctx context.Context, r network.Request, l *network.Lease) error {
	if err := n.ready(ctx); err != nil {
		return fmt.Errorf("its network: %w", err)
	}
	if err := n.admit(ctx, l.PodID); err != nil {
		return fmt.Errorf("its network: %w", err)
	}
	var all []netip.Prefix
	for i := range l.Attachments {
		a := &l.Attachments[i]
		if a.Result == nil {
			n.begin(*l, i)
			if err := n.add(ctx, r.Netns, l.PodID, a); err != nil {
				n.upset()
				return fmt.Errorf("network %q: %w", a.Network, err)
			}
			fail.Hit("cni.attach.added")
		}
		prefixes, err := prefixesOf(*a)
		if err == nil && i == 0 && len(prefixes) == 0 {
			err = fmt.Errorf("its plugins gave %s no address", a.Interface)
		}
		if err != nil {
			return fmt.Errorf("network %q: %w", a.Network, err)
		}
		if i == 0 {
			all = prefixes
		}
	}
	l.Addresses = inOrder(all, n.cfg.Prefer)
	n.keep(*l)
	if len(l.Ports) > 0 && !served(*l) {
		if err := n.cfg.HostPorts.Publish(*l, all); err != nil {
			return fmt.Errorf("its host ports: %w", err)
		}
	}
	return nil
}

// begin notes that from now on there may be something to undo.
func (n *Network) begin(l network.Lease, i int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	g := n.leases[l.PodID]
	if g == nil { // one that came by no Reserve
		g = &grant{lease: l, begun: map[int]bool{}}
		n.leases[l.PodID] = g
	}
	g.begun[i] = true
}

func (n *Network) keep(l network.Lease) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if g := n.leases[l.PodID]; g != nil {
		g.lease, g.ready = l, true
	}
}

func runtimeConf(podID, netns string, a network.Attachment) *libcni.RuntimeConf {
	data := make(map[string]any, len(a.Capabilities))
	for name, v := range a.Capabilities {
		data[name] = v
	}
	return &libcni.RuntimeConf{ContainerID: podID, NetNS: netns, IfName: a.Interface, Args: a.Args, CapabilityArgs: data}
}

// add runs ADD of one attachment and fills in its result.
func (n *Network) add(ctx context.Context, netns, podID string, a *network.Attachment) error {
	l, err := parseList(a.List)
	if err != nil {
		return err
	}
	ctx, cancel := n.limited(ctx)
	defer cancel()
	var result types.Result
	err = guarded(func() (err error) {
		result, err = n.lib.AddNetworkList(ctx, l, runtimeConf(podID, netns, *a))
		if err != nil {
			return spoken(err)
		}
		a.Result, err = recorded(result)
		return err
	})
	if err != nil {
		return n.inTime(ctx, err)
	}
	return nil
}

// limited is ctx with the time that the plugins of a list have; it ends with the
// daemon too.
func (n *Network) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeoutCause(ctx, n.cfg.Timeout, errTime)
	stop := context.AfterFunc(n.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// errTime is why a context of limited has ended when the plugins had all of their
// time. Who asked may have had less: the undoing of a pod for one.
var errTime = fmt.Errorf("the plugins' time is over: %w", context.DeadlineExceeded)

// inTime tells how long the plugins had, where that is why they failed.
func (n *Network) inTime(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errTime) {
		return fmt.Errorf("%w (the plugins of a network have %s, see network.cni.timeout)", err, n.cfg.Timeout)
	}
	return err
}

// guarded runs f and makes an error of a panic: what a plugin answers goes
// through code that trusts it.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the plugins' answer cannot be read: %v", r)
		}
	}()
	return f()
}

// Detach implements network.Network: it runs DEL for every attachment whose ADD
// may have run, the last one first. One that fails keeps none of the others.
func (n *Network) Detach(ctx context.Context, l network.Lease, netns string) error {
	var errs []error
	if len(l.Ports) > 0 && !served(l) {
		// Nobody is led to a pod that is not there.
		errs = append(errs, n.cfg.HostPorts.Withdraw(l.PodID))
	}
	if err := n.ready(ctx); err != nil {
		return fmt.Errorf("cannot detach pod %s from its network: %w", l.PodID, errors.Join(append(errs, err)...))
	}
	if !isNamespace(netns) {
		netns = "" // plugins then free what is outside of it
	}
	for i := len(l.Attachments) - 1; i >= 0; i-- {
		a := l.Attachments[i]
		if !n.mayBeThere(l.PodID, i) {
			continue
		}
		if err := n.del(ctx, netns, l.PodID, a); err != nil {
			n.upset()
			errs = append(errs, fmt.Errorf("cannot detach pod %s from network %q: %w", l.PodID, a.Network, err))
			continue
		}
		fail.Hit("cni.detach.deleted")
		n.gone(l.PodID, i)
	}
	if served(l) {
		errs = append(errs, n.cfg.HostPorts.Forget(l))
	}
	return errors.Join(errs...)
}

// mayBeThere tells whether attachment i was ever begun, as far as is known.
func (n *Network) mayBeThere(podID string, i int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	g := n.leases[podID]
	return g == nil || g.begun[i]
}

func (n *Network) gone(podID string, i int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if g := n.leases[podID]; g != nil {
		delete(g.begun, i)
		g.ready = false
	}
}

func (n *Network) del(ctx context.Context, netns, podID string, a network.Attachment) error {
	l, err := parseList(a.List)
	if err != nil {
		return err
	}
	if l, err = withResult(l, a); err != nil {
		return err
	}
	ctx, cancel := n.limited(ctx)
	defer cancel()
	err = guarded(func() error { return n.lib.DelNetworkList(ctx, l, runtimeConf(podID, netns, a)) })
	if err != nil {
		return n.inTime(ctx, spoken(err))
	}
	return nil
}

// withResult gives the plugins the recorded result, which DEL has since spec
// version 0.4.0, in the version of the list. libcni puts the one that it keeps
// itself in its place, if it still has it.
func withResult(l *libcni.NetworkConfigList, a network.Attachment) (*libcni.NetworkConfigList, error) {
	takes, err := version.GreaterThanOrEqualTo(l.CNIVersion, "0.4.0")
	if err != nil || !takes || a.Result == nil {
		return l, err
	}
	r, err := resultOf(a)
	if err != nil {
		return nil, err
	}
	out := *l
	out.Plugins = slices.Clone(l.Plugins)
	for i, p := range out.Plugins {
		err := guarded(func() error {
			prev, err := r.GetAsVersion(l.CNIVersion)
			if err == nil {
				out.Plugins[i], err = libcni.InjectConf(p, map[string]any{"prevResult": prev})
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return &out, nil
}

// isNamespace tells whether a namespace is pinned at path. After a reboot there
// may be a file of that name with nothing behind it.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return path != "" && unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// refused is the error of a pod whose network is being cleaned up at the moment
// and does not get its turn.
func refused(err error) error {
	return errkind.New(errkind.Unavailable, "its plugins are collecting garbage: %w", err)
}
