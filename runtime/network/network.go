// Package network names what a pod needs from a network and the contract that
// every network keeps. Package bridge is the embedded one, package cni runs the
// plugins of a cluster, package modes chooses between them for each pod, and
// package named has the networks that people make beside.
//
// The law: a network reserves addresses and host ports in memory, the caller
// makes the lease durable in the pod's own record, and only then the network
// touches the kernel. Every interface and rule has a name derived from the pod
// id, so Detach works from the lease alone, after a crash or a reboot too. A
// plugin of CNI tells the addresses only when it has made the interface: there
// the lease says before what is asked of which plugins, and after what came of it.
package network

import (
	"context"
	"encoding/json"
	"net/netip"

	"github.com/berth-runtime/berth/runtime/spec"
)

// Request is what a pod asks of a network.
type Request struct {
	PodID     string
	Namespace string // Kubernetes namespace
	Name      string // pod name
	UID       string // that the client chose
	Netns     string // path of the pinned network namespace
	Ports     []spec.PortMapping

	// Network is the name of one that people have made; empty: that of all pods
	// that name none. Only local pods name one.
	Network string

	// IPs and MAC are addresses that the pod wants; none: any. Only local pods
	// have wishes.
	IPs []netip.Addr
	MAC string

	// Cluster is set for pods of the kubelet, whose network a cluster brings.
	Cluster bool
	Handler string // runtime handler; empty: the default one
	// What plugins may be told of, if their configuration asks for it.
	Annotations  map[string]string
	DNS          *spec.DNS
	CgroupParent string
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
	Network   string             `json:"network,omitempty"`   // as in Request
	Addresses []netip.Addr       `json:"addresses,omitempty"` // primary first
	Gateways  []netip.Addr       `json:"gateways,omitempty"`  // where the host answers, as far as it is known
	Ports     []spec.PortMapping `json:"ports,omitempty"`     // those with a host port
	// Attachments are those to networks of CNI, the primary one first; none:
	// the pod is on the embedded network.
	Attachments []Attachment `json:"attachments,omitempty"`
}

// On is the name of the network that the lease is of: of one that people have
// made, or of CNI's; empty: the embedded one.
func (l Lease) On() string {
	if len(l.Attachments) > 0 {
		return l.Attachments[0].Network
	}
	return l.Network
}

// Attachment is an interface that plugins of CNI make: everything that it takes
// to undo it, whatever became of their configuration since.
type Attachment struct {
	Network   string `json:"network"`   // name of the configuration list
	Interface string `json:"interface"` // in the pod
	// List is the configuration list as the plugins are run with it.
	List json.RawMessage `json:"list"`
	Args [][2]string     `json:"args,omitempty"` // CNI_ARGS
	// Capabilities are the data that plugins get if they declare the capability.
	Capabilities map[string]json.RawMessage `json:"capabilities,omitempty"`
	// Result is what the plugins answered; none: they have not, or nobody heard.
	Result json.RawMessage `json:"result,omitempty"`
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
	// Attach makes the lease real and returns it with what was learnt by that,
	// also beside an error; the caller records it before it uses any of it. It
	// is idempotent.
	Attach(ctx context.Context, r Request, l Lease) (Lease, error)
	// Detach undoes Attach. It succeeds where nothing is left to undo: no
	// interface, no namespace, never attached, another boot. Until it has, the
	// caller keeps the record and tries again.
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
