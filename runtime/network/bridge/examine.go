package bridge

import (
	"context"

	"github.com/google/nftables"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/hostcheck"
	"github.com/berth-runtime/berth/runtime/network/nft"
	"github.com/berth-runtime/berth/runtime/network/portmap"
)

var _ network.Examiner = (*Bridge)(nil)

// Examine implements network.Examiner: what of the host is in the pods' way.
func (b *Bridge) Examine(ctx context.Context) []network.Finding {
	out := hostcheck.Examine(ctx, hostcheck.Host{
		Interface:    b.cfg.Name,
		Subnets:      b.cfg.Subnets,
		SetIPForward: b.cfg.SetIPForward,
		MTU:          b.usedMTU(),
		Table:        "berth-",
		Ports:        b.ports.Held(),
		Probe:        func() error { return portmap.Probe(b.cfg.table()) },
	})
	return append(out, b.senders.examine())
}

// examine tells whether pods can be held to their addresses, by doing it.
func (s *senders) examine() network.Finding {
	f := network.Finding{Name: "spoofing", Verdict: network.Warn,
		Why: "the configuration lets pods send from any address", Do: "network.allow_spoofing = false, unless a pod routes for others"}
	if s == nil {
		return f
	}
	var socket nft.Socket
	defer socket.Close()
	trial := &senders{name: s.name + "-probe", gateway: s.gateway, isolated: s.isolated}
	err := socket.Talk(func(conn *nftables.Conn) error {
		if err := trial.queue(conn, nil); err != nil {
			return err
		}
		conn.DelTable(trial.table())
		return conn.Flush()
	})
	if err != nil {
		f.Why = "the kernel has no nftables of bridges: pods with NET_RAW can send in the name of others: " + err.Error()
		f.Do = "load or build nf_tables for bridges (CONFIG_NF_TABLES_BRIDGE), or drop NET_RAW from containers (--cap-drop NET_RAW)"
		return f
	}
	return network.Finding{Name: "spoofing", Verdict: network.OK, Why: "pods send with their own addresses only"}
}

// usedMTU is that of the bridge, or what it would be made with.
func (b *Bridge) usedMTU() int {
	if l, err := b.host.LinkByName(b.cfg.Name); err == nil {
		return l.Attrs().MTU
	}
	return b.mtu()
}
