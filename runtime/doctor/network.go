package doctor

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/thread"
)

// inNetworkNamespace runs fn on a thread with a network of its own that ends
// with it.
func inNetworkNamespace(fn func() error) error {
	return thread.Throwaway(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot make a network namespace: %w", err)
		}
		return fn()
	})
}

// links makes a bridge and a pair of interfaces of which one is its port.
func links(_ context.Context, c *Config) []Finding {
	const name = "network.links"
	if !c.Network {
		return one(good(name, "not needed: network.enabled is false"))
	}
	if err := inNetworkNamespace(tryLinks); err != nil {
		return one(Finding{name, Fail, fmt.Sprintf("pods cannot be given a network: %v", err), "modprobe bridge veth; else boot the distribution's own kernel"})
	}
	return one(good(name, "bridges and pairs of interfaces can be made"))
}

func tryLinks() error {
	// No other family, which the kernel may lack: pods need no XFRM.
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
	if err := h.LinkAdd(bridge); err != nil {
		return fmt.Errorf("cannot make a bridge: %w", err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("cannot make a pair of interfaces: %w", err)
	}
	if err := h.LinkSetMaster(veth, bridge); err != nil {
		return fmt.Errorf("cannot make an interface a port of a bridge: %w", err)
	}
	return nil
}
