package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/berth-runtime/berth/runtime/network"
)

// A verb after a restart has nothing but the records: the Repair of the start
// may have failed, or not have come yet.
func TestVerbsAfterARestartNeedNoRepair(t *testing.T) {
	w := newWorld(t, nil)
	p, q := w.attach(both(80, 8080, "")...), w.attach(both(80, 8081, "")...)
	w.serve(p.Netns, "p", ":80")
	restart := func(leases ...network.Lease) {
		w.b = w.newBridge(Config{Masquerade: true, SetIPForward: true})
		for _, l := range leases {
			w.ok(w.b.Restore(l))
		}
	}
	restart(p.lease, q.lease)
	if diffs, err := w.b.Check(ctx); err != nil || slices.ContainsFunc(diffs, func(d string) bool { return !strings.Contains(d, "[::1]") }) {
		t.Errorf("beside the listeners, which have ended with the daemon, Check found %q (%v)", diffs, err)
	}

	restart(p.lease, q.lease)
	w.attach(both(80, 8082, "")...)
	w.answers("", "127.0.0.1", 8080, "p", "") // the new pod's rules are not instead of those of others
	w.clean()

	restart(p.lease, q.lease)
	w.ok(w.b.Detach(ctx, q.lease, q.Netns))
	w.b.Release(q.PodID)
	w.answers("", "127.0.0.1", 8080, "p", "")
	if diffs, err := w.b.Check(ctx); err != nil || strings.Contains(strings.Join(diffs, " "), "8081") {
		t.Errorf("after the end of a pod that was restored, Check found %q (%v)", diffs, err)
	}

	restart() // not even its record is there
	w.ok(w.b.Detach(ctx, p.lease, p.Netns))
	if _, err := ask("", "tcp", "127.0.0.1", 8080, patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the host port of a pod without a record still leads somewhere: %v", err)
	}
}

// A Detach that could not write the table is not done: the next one writes it.
func TestDetachWritesTheTableThatTheLastOneCouldNot(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach(both(80, 8080, "")...)
	// More than the kernel's table can say: no such address family exists.
	bad := network.Lease{PodID: "bad", Addresses: []netip.Addr{{}}, Ports: both(80, 8081, "")}
	w.ok(w.b.Restore(bad))
	w.b.setAttached(bad, "/nowhere")
	if err := w.b.Detach(ctx, p.lease, p.Netns); err == nil {
		t.Fatal("the table was written with a lease that it cannot hold")
	}
	w.b.Release("bad")
	w.ok(w.b.Detach(ctx, p.lease, p.Netns))
	w.clean()
}

// A list that changes while it is read comes incomplete, and says so.
func TestListsAreReadUntilTheyAreWhole(t *testing.T) {
	w := newWorld(t, nil)
	asked := 0
	got, err := whole(func() ([]int, error) {
		if asked++; asked < 3 {
			return nil, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
		}
		return []int{1, 2}, nil
	})
	if err != nil || len(got) != 2 {
		t.Errorf("got %v (%v) of a list that is whole the third time", got, err)
	}
	if _, err := whole(func() ([]int, error) { return nil, netlink.ErrDumpInterrupted }); !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Errorf("got %v of a list that never is whole", err)
	}

	const many = 60 // more than one message holds
	for i := range many {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fmt.Sprint("many", i)
		w.ok(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
		w.Cleanup(func() { _ = netlink.LinkDel(&netlink.Bridge{LinkAttrs: attrs}) })
	}
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "comesgoes"
		for {
			select {
			case <-ending:
				return
			default:
			}
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				t.Error(err)
				return
			}
			if err := netlink.LinkDel(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 200 {
		if _, err := w.b.veths(); err != nil {
			t.Errorf("while interfaces come and go: %v", err)
		}
	}
	close(ending)
	<-ended
}

// What Check finds is wrong for good; a verb that is under way is not.
func TestCheckFindsNothingWhilePodsComeAndGo(t *testing.T) {
	w := newWorld(t, nil)
	w.attach(both(80, 8080, "")...)
	var verbs sync.WaitGroup
	for i := range 3 {
		r := w.request(nil, both(80, uint16(9000+i), "")...)
		verbs.Go(func() {
			for range 12 {
				l, err := w.b.Reserve(ctx, r)
				if err == nil {
					err = errors.Join(w.b.Attach(ctx, r, l), w.b.Detach(ctx, l, r.Netns))
				}
				if err != nil {
					t.Error(err)
				}
				w.b.Release(r.PodID)
			}
		})
	}
	ended := make(chan struct{})
	go func() { verbs.Wait(); close(ended) }()
	for {
		select {
		case <-ended:
			w.clean()
			return
		default:
			w.clean()
		}
	}
}
