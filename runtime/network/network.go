// Package network names what a pod needs from a network and the contract that
// every network keeps. Package bridge is the embedded one; CNI joins beside it.
//
// The law: a network reserves addresses and host ports in memory, the caller
// makes the lease durable in the pod's own record, and only then the network
// touches the kernel. Every interface and rule has a name derived from the pod
// id, so Detach works from the lease alone, after a crash or a reboot too.
package network

import (
	"context"
	"net/netip"

	"github.com/berth-runtime/berth/runtime/spec"
)

// Request is what a pod asks of a network.
type Request struct {
	PodID     string
	Namespace string // Kubernetes namespace
	Name      string // pod name
	Netns     string // path of the pinned network namespace
	Ports     []spec.PortMapping
}

// Pod is the pod's name as errors have it, or empty where it has none.
func (r Request) Pod() string {
	if r.Name == "" {
		return ""
	}
	return r.Namespace + "/" + r.Name
}

// Lease is what a network granted; the caller stores it in the pod's record.
type Lease struct {
	PodID     string             `json:"pod_id"`
	Pod       string             `json:"pod,omitempty"`       // namespace/name, for who finds a port taken
	Addresses []netip.Addr       `json:"addresses,omitempty"` // primary first
	Ports     []spec.PortMapping `json:"ports,omitempty"`     // those with a host port
}

// Network attaches pods. All methods may be called concurrently.
type Network interface {
	// Reserve grants addresses and host ports, in memory only. A host port
	// that is taken is errkind.AlreadyExists and the error names the holder;
	// an empty pool is errkind.ResourceExhausted. A second Reserve for the
	// same pod returns the same lease.
	Reserve(ctx context.Context, r Request) (Lease, error)
	// Restore tells the network, at start-up, of a lease read from a record.
	Restore(l Lease) error
	// Attach makes the lease real. It is idempotent.
	Attach(ctx context.Context, r Request, l Lease) error
	// Detach undoes Attach. It succeeds where nothing is left to undo: no
	// interface, no namespace, never attached, another boot.
	Detach(ctx context.Context, l Lease, netns string) error
	// Release gives the lease's addresses and ports back. Idempotent.
	Release(podID string)
	// Status is nil when pods can be attached, else says why not.
	Status(ctx context.Context) error
	// Check compares the kernel with the leases and names every difference.
	Check(ctx context.Context) ([]string, error)
	// Repair puts back what is missing and removes what no lease explains.
	// It is called once at start-up, after every Restore, and when Check
	// found something.
	Repair(ctx context.Context) error
}
