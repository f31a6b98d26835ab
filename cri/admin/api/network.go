package api

import (
	"context"
	"time"
)

// The kinds of networks.
const (
	NetworkBridge = "bridge" // of berth's own
	NetworkCNI    = "cni"    // of plugins
	NetworkHost   = "host"   // the host's own
	NetworkNone   = "none"   // a loopback only
)

// NetworkList is the networks that there are.
type NetworkList struct {
	Networks []Network `json:"networks"` // the usual one first
	DNS      DNS       `json:"dns"`      // of pods that ask for no other
}

// DNS is how names are resolved.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
	Trouble  string   `json:"trouble,omitempty"` // why no server is left that pods reach
}

// Network is one network and who is on it.
type Network struct {
	Name      string            `json:"name"`
	Kind      string            `json:"kind"`
	Usual     bool              `json:"usual,omitempty"`     // of pods that name none
	Interface string            `json:"interface,omitempty"` // its bridge, which comes with the first pod
	Subnets   []string          `json:"subnets,omitempty"`
	Gateways  []string          `json:"gateways,omitempty"` // the host's addresses on it
	MTU       int               `json:"mtu,omitempty"`      // as configured; 0: that of the way out
	Internal  bool              `json:"internal,omitempty"`
	Isolated  bool              `json:"isolated,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Created   time.Time         `json:"created,omitzero"` // of those that people have made
	Pods      []NetworkPod      `json:"pods"`
}

// NetworkPod is a pod on a network.
type NetworkPod struct {
	ID        string   `json:"id"`
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Addresses []string `json:"addresses,omitempty"`
	Ports     []Port   `json:"ports,omitempty"`
}

// Port is a port of the host that leads to a pod.
type Port struct {
	Protocol      string `json:"protocol"`          // tcp, udp or sctp
	HostIP        string `json:"host_ip,omitempty"` // empty: every address of both families
	HostPort      uint16 `json:"host_port"`
	ContainerPort uint16 `json:"container_port"`
}

// CreateNetworkRequest says what the network is to be; subnets that are not said
// are chosen.
type CreateNetworkRequest struct {
	Name     string            `json:"name"`
	Subnets  []string          `json:"subnets,omitempty"`  // one of IPv4, then at most one of IPv6
	MTU      int               `json:"mtu,omitempty"`      // 0: that of the way out
	Internal bool              `json:"internal,omitempty"` // pods reach the host and each other only
	Isolated bool              `json:"isolated,omitempty"` // pods reach each other by published ports only
	Labels   map[string]string `json:"labels,omitempty"`
}

// NetworkRequest names a network.
type NetworkRequest struct {
	Name string `json:"name"`
}

// Networks lists the networks that pods can be on.
func (c *Client) Networks(ctx context.Context) (*NetworkList, error) {
	return call[NetworkList](ctx, c, "Networks", &Empty{})
}

// CreateNetwork makes a network.
func (c *Client) CreateNetwork(ctx context.Context, r *CreateNetworkRequest) (*Network, error) {
	return call[Network](ctx, c, "CreateNetwork", r)
}

// RemoveNetwork ends a network that no pod is on.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	_, err := call[Empty](ctx, c, "RemoveNetwork", &NetworkRequest{Name: name})
	return err
}

// ExamineNetwork looks at what of the host is in the pods' way.
func (c *Client) ExamineNetwork(ctx context.Context) ([]Finding, error) {
	r, err := call[DoctorResult](ctx, c, "ExamineNetwork", &Empty{})
	if err != nil {
		return nil, err
	}
	return r.Findings, nil
}
