package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berth-runtime/berth/runtime/network"
)

// Prefer says which address of a pod is its primary one, that Kubernetes shows
// first. The others follow in the order of the plugins.
type Prefer string

// The preferences, by the names that containerd gives them.
const (
	PreferIPv4  Prefer = "ipv4" // the first IPv4 one, if there is any
	PreferIPv6  Prefer = "ipv6"
	PreferOrder Prefer = "cni" // that which the plugins name first
)

// prefixesOf are the addresses, with the networks they are in, that the result
// of an attachment gives to its interface in the pod.
func prefixesOf(a network.Attachment) ([]netip.Prefix, error) {
	r, err := resultOf(a)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, ip := range r.IPs {
		if ip == nil {
			return nil, errors.New("its result has an address that is null")
		}
		if n := ip.Interface; n != nil {
			if *n < 0 || *n >= len(r.Interfaces) || r.Interfaces[*n] == nil {
				return nil, fmt.Errorf("its result gives address %s to interface %d of %d", ip.Address.IP, *n, len(r.Interfaces))
			}
			// An address of the host's end, or of another interface in the pod.
			if i := r.Interfaces[*n]; i.Sandbox == "" || i.Name != a.Interface {
				continue
			}
		}
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		bits, _ := ip.Address.Mask.Size()
		if !ok || !addr.Unmap().IsValid() || addr.IsUnspecified() || bits > addr.Unmap().BitLen() {
			return nil, fmt.Errorf("its result has %q for an address", ip.Address.String())
		}
		out = append(out, netip.PrefixFrom(addr.Unmap(), bits))
	}
	return out, nil
}

// resultOf reads the recorded result.
func resultOf(a network.Attachment) (*types100.Result, error) {
	r, err := types100.NewResult(a.Result)
	if err != nil {
		return nil, fmt.Errorf("its result cannot be read: %w", err)
	}
	return types100.GetResult(r)
}

// recorded is a result of whatever version in the form that records have.
func recorded(r types.Result) (json.RawMessage, error) {
	now, err := types100.NewResultFromResult(r)
	if err != nil {
		return nil, fmt.Errorf("its result cannot be converted: %w", err)
	}
	now.CNIVersion = types100.ImplementedSpecVersion
	return json.Marshal(now)
}

// inOrder puts the preferred address first.
func inOrder(all []netip.Prefix, prefer Prefer) []netip.Addr {
	out := make([]netip.Addr, 0, len(all))
	for _, p := range all {
		out = append(out, p.Addr())
	}
	first := slices.IndexFunc(out, func(a netip.Addr) bool {
		return prefer == PreferIPv4 && a.Is4() || prefer == PreferIPv6 && a.Is6()
	})
	if first > 0 {
		a := out[first]
		out = slices.Insert(slices.Delete(out, first, first+1), 0, a)
	}
	return out
}
