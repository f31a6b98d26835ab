package bridge

import (
	"context"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/hostcheck"
	"github.com/berth-runtime/berth/runtime/network/portmap"
)

var _ network.Examiner = (*Bridge)(nil)

// Examine implements network.Examiner: what of the host is in the pods' way.
func (b *Bridge) Examine(ctx context.Context) []network.Finding {
	return hostcheck.Examine(ctx, hostcheck.Host{
		Interface:    b.cfg.Name,
		Subnets:      b.cfg.Subnets,
		SetIPForward: b.cfg.SetIPForward,
		MTU:          b.usedMTU(),
		Table:        "berth-",
		Ports:        b.ports.Held(),
		Probe:        func() error { return portmap.Probe(b.cfg.table()) },
	})
}

// usedMTU is that of the bridge, or what it would be made with.
func (b *Bridge) usedMTU() int {
	if l, err := b.host.LinkByName(b.cfg.Name); err == nil {
		return l.Attrs().MTU
	}
	return b.mtu()
}
