package bridge

import (
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// whole asks for a list until the kernel gives all of it. A list that changes
// while it is read comes with parts missing and a mark that says so; on a host
// where interfaces come and go, that is every hundredth or so.
func whole[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 100 // in case that it changes faster than it can be read
	for n := 1; ; n++ {
		got, err := list()
		if n == tries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
	}
}

// addresses lists those of an interface, of both families.
func (b *Bridge) addresses(link netlink.Link) ([]netlink.Addr, error) {
	return whole(func() ([]netlink.Addr, error) { return b.host.AddrList(link, netlink.FAMILY_ALL) })
}

// mainRoutes lists the host's main routing table of one family.
func (b *Bridge) mainRoutes(family int) ([]netlink.Route, error) {
	return whole(func() ([]netlink.Route, error) {
		return b.host.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
}
