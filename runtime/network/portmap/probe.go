package portmap

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	mdnetlink "github.com/mdlayher/netlink"

	"github.com/berth-runtime/berth/runtime/network/nft"
)

// Probe tells whether the kernel takes the rules of a table like c's, with ports
// of both families and all protocols. They are made and taken back in one
// transaction, so nobody sees them and no packet meets them.
func Probe(c Config) error {
	c.Name += "-probe"
	rules, err := c.rules([]Entry{
		{Protocol: "tcp", HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 1, PodIP: netip.MustParseAddr("192.0.2.2"), PodPort: 1},
		{Protocol: "udp", HostPort: 1, PodIP: netip.MustParseAddr("2001:db8::2"), PodPort: 1},
		{Protocol: "sctp", HostPort: 1, PodIP: netip.MustParseAddr("192.0.2.2"), PodPort: 1},
	})
	if err != nil {
		return err
	}
	var socket nft.Socket
	defer socket.Close()
	err = socket.Talk(func(conn *nftables.Conn) error {
		c.write(conn, rules)
		conn.DelTable(c.table())
		return conn.Flush()
	})
	if err != nil {
		return fmt.Errorf("cannot make a table of nat rules: %w", withoutJoin(err))
	}
	return nil
}

// withoutJoin is the first of the errors that a transaction gives for each of
// its messages: the others follow from it.
func withoutJoin(err error) error {
	var first *mdnetlink.OpError
	if errors.As(err, &first) {
		return first.Err
	}
	return err
}
