// Package modes chooses the network of each pod: that of a cluster, which
// plugins of CNI make, or the embedded bridge.
//
// The model: a configuration of CNI is used wherever there is one. Without one
// the embedded bridge serves pods that people make; pods of the kubelet wait for
// their cluster's network, unless the mode says that they need not.
//
// The law: which network a pod is on is in its lease. So what was chosen for it
// once is what it is detached from, whatever is configured by then.
package modes

import (
	"context"
	"errors"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/bridge"
	"github.com/berth-runtime/berth/runtime/network/cni"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Mode says which networks there are.
type Mode string

// The modes.
const (
	Auto   Mode = "auto"   // CNI where it is configured, else the bridge for pods that are not the kubelet's
	CNI    Mode = "cni"    // CNI only
	Bridge Mode = "bridge" // the embedded bridge only
)

// Network is a network.Network over both.
type Network struct {
	mode   Mode
	cni    *cni.Network
	bridge *bridge.Bridge
}

var (
	_ network.Network  = (*Network)(nil)
	_ network.Examiner = (*Network)(nil)
)

// New puts both together; Close of each stays with the caller.
func New(mode Mode, c *cni.Network, b *bridge.Bridge) *Network { return &Network{mode, c, b} }

// byCNI tells whether pods of a runtime handler are on a network of CNI.
func (n *Network) byCNI(handler string, cluster bool) bool {
	switch n.mode {
	case CNI:
		return true
	case Bridge:
		return false
	}
	return cluster || n.cni.Configured(handler)
}

// of tells whether a lease is one of CNI. One that has neither attachments nor
// addresses is of a pod that was recorded before it had a network.
func of(l network.Lease) bool { return len(l.Attachments) > 0 }

// Reserve implements network.Network.
func (n *Network) Reserve(ctx context.Context, r network.Request) (network.Lease, error) {
	if n.byCNI(r.Handler, r.Cluster) {
		return n.cni.Reserve(ctx, r)
	}
	return n.bridge.Reserve(ctx, r)
}

// Restore implements network.Network.
func (n *Network) Restore(l network.Lease) error {
	if of(l) {
		return n.cni.Restore(l)
	}
	return n.bridge.Restore(l)
}

// Attach implements network.Network.
func (n *Network) Attach(ctx context.Context, r network.Request, l network.Lease) (network.Lease, error) {
	if of(l) {
		return n.cni.Attach(ctx, r, l)
	}
	return l, n.bridge.Attach(ctx, r, l)
}

// Detach implements network.Network.
func (n *Network) Detach(ctx context.Context, l network.Lease, netns string) error {
	if of(l) {
		return n.cni.Detach(ctx, l, netns)
	}
	return n.bridge.Detach(ctx, l, netns)
}

// Release implements network.Network.
func (n *Network) Release(podID string) {
	n.cni.Release(podID)
	n.bridge.Release(podID)
}

// Teardown removes what the networks keep in the kernel without any pod. The
// caller has detached all.
func (n *Network) Teardown() error { return n.bridge.Teardown() }

// Status implements network.Network, for pods that people make.
func (n *Network) Status(ctx context.Context) error { return n.StatusFor(ctx, false) }

// StatusFor is nil when pods of the default handler can be attached; cluster
// says whether they are the kubelet's.
func (n *Network) StatusFor(ctx context.Context, cluster bool) error {
	if !n.byCNI("", cluster) {
		return n.bridge.Status(ctx)
	}
	err := n.cni.Status(ctx)
	if errkind.Is(err, errkind.NotFound) && n.mode == Auto {
		return errkind.New(errkind.FailedPrecondition, "%w; network.mode = \"bridge\" puts the kubelet's pods on the embedded bridge instead", err)
	}
	return err
}

// SetPodCIDR hears of the ranges that the cluster gives to the node's pods.
func (n *Network) SetPodCIDR(ctx context.Context, cidrs string) error {
	if n.mode == Bridge {
		return nil
	}
	return n.cni.SetPodCIDR(ctx, cidrs)
}

// CNINames are the networks of CNI that pods which people make are attached to;
// none: they are on the embedded bridge.
func (n *Network) CNINames() []string {
	if !n.byCNI("", false) {
		return nil
	}
	return n.cni.Names()
}

// Info is what verbose status shows.
func (n *Network) Info() map[string]string {
	out := n.cni.Info()
	out["networkMode"] = string(n.mode)
	return out
}

// Examine implements network.Examiner.
func (n *Network) Examine(ctx context.Context) []network.Finding {
	var out []network.Finding
	if n.mode != Bridge {
		out = n.cni.Examine(ctx, n.mode == CNI)
	}
	if !n.byCNI("", false) {
		out = append(out, n.bridge.Examine(ctx)...)
	}
	return out
}

// Check implements network.Network.
func (n *Network) Check(ctx context.Context) ([]string, error) {
	ofBridge, err := n.bridge.Check(ctx)
	ofCNI, cniErr := n.cni.Check(ctx)
	return append(ofBridge, ofCNI...), errors.Join(err, cniErr)
}

// Repair implements network.Network. A bridge that no pod needs is not made for
// that, unless it is the network of all.
func (n *Network) Repair(ctx context.Context) error {
	errs := []error{n.cni.Repair(ctx)}
	wrong, err := n.bridge.Check(ctx)
	if errs = append(errs, err); n.mode == Bridge || len(wrong) > 0 || n.bridge.InUse() {
		errs = append(errs, n.bridge.Repair(ctx))
	}
	return errors.Join(errs...)
}
