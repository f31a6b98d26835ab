// Package hostports serves the host ports of pods whose network has no plugin
// for them.
//
// The model: of the pods with host ports some are published, and those make one
// nftables table (package portmap). Which pod holds which port is known to
// portmap.Ports, which all networks of the node share.
//
// The law: the table is a function of what is published, written as a whole, and
// gone when that is nothing. Of interfaces that others made only route_localnet
// is set, and only of those that lead to a pod with a host port, after the table
// that guards it is in force: no host port answers on 127.0.0.1 otherwise.
package hostports

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/portmap"
)

// Table is the table and what is in it. Its methods may be called concurrently.
type Table struct {
	ports *portmap.Ports
	name  string
	table *portmap.Table

	watchOnce sync.Once
	watching  sync.WaitGroup
	ctx       context.Context // ends with Close
	end       context.CancelFunc

	mu        sync.Mutex
	published map[string][]portmap.Entry // guarded by mu, also while the table is written; by pod
}

// New names the nftables table; it does not touch the kernel.
func New(ports *portmap.Ports, name string) *Table {
	t := &Table{ports: ports, name: name, table: portmap.New(portmap.Config{Name: name}), published: map[string][]portmap.Entry{}}
	t.ctx, t.end = context.WithCancel(context.Background())
	return t
}

// Close frees what is open; the table stays in the kernel.
func (t *Table) Close() {
	t.end()
	t.watching.Wait()
	t.table.Close()
}

// watch begins to put the table back whenever somebody else has changed it, as
// a firewall does that reloads its rules.
func (t *Table) watch() {
	t.watchOnce.Do(func() {
		t.watching.Go(func() {
			err := t.table.Watch(t.ctx, func() {
				diffs, err := t.Check()
				if err == nil && len(diffs) > 0 {
					klog.Background().Info("Somebody changed the rules of host ports; they are written again", "was", diffs)
					err = t.Repair()
				}
				if err != nil {
					klog.Background().Error(err, "Cannot repair the rules of host ports")
				}
			})
			if err != nil {
				klog.Background().Error(err, "Rules of host ports that others take away are found by a check only")
			}
		})
	})
}

// Hold grants the host ports of a request to its pod and adds them to its lease;
// errkind.AlreadyExists names who has one of them.
func (t *Table) Hold(r network.Request, l *network.Lease) error {
	ports, err := t.ports.Grant(portmap.Owner{ID: r.PodID, Name: r.Pod()}, r.Ports, true)
	if err != nil {
		return err
	}
	l.Ports = ports
	return nil
}

// Held tells, at start-up, of the host ports of a lease, which somebody else
// serves.
func (t *Table) Held(l network.Lease) error {
	return t.ports.Restore(portmap.Owner{ID: l.PodID, Name: l.Pod}, l.Ports)
}

// Known tells, at start-up, that a lease that has been told of by Held is
// published. The table is written with it at the next opportunity.
func (t *Table) Known(l network.Lease, subnets []netip.Prefix) {
	t.watch()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.published[l.PodID] = entriesOf(l, subnets)
	t.table.Remember(t.published[l.PodID])
}

// Forget ends the tracked UDP flows of a lease whose ports a plugin served: it
// takes its rules away, and a flow that does not pause would go on without them.
func (*Table) Forget(l network.Lease) error { return portmap.Forget(entriesOf(l, nil)) }

// Free gives the ports of a pod back. Idempotent.
func (t *Table) Free(podID string) { t.ports.GiveBack(podID) }

// Publish leads the ports of a lease to its pod's addresses. subnets are those
// addresses with the networks they are in, whose members reach the pod past the
// host. Idempotent.
func (t *Table) Publish(l network.Lease, subnets []netip.Prefix) error {
	entries := entriesOf(l, subnets)
	t.watch()
	t.mu.Lock()
	defer t.mu.Unlock()
	before, had := t.published[l.PodID]
	t.published[l.PodID] = entries
	if err := t.table.Update(t.entriesLocked()); err != nil {
		if delete(t.published, l.PodID); had {
			t.published[l.PodID] = before
		}
		return err
	}
	for _, e := range entries {
		if err := routeLocalnet(e.PodIP); err != nil {
			return err
		}
	}
	return nil
}

// Withdraw undoes Publish; what is not published is success.
func (t *Table) Withdraw(podID string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.published, podID)
	if len(t.published) == 0 {
		return t.table.Remove()
	}
	return t.table.Update(t.entriesLocked())
}

// Check names what differs from what is published.
func (t *Table) Check() ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.published) > 0 {
		return t.table.Check(t.entriesLocked())
	}
	there, err := t.table.Present()
	if err != nil || !there {
		return nil, err
	}
	return []string{"nftables table " + t.name + " is there, and no pod has a host port in it"}, nil
}

// Repair writes the table as it should be.
func (t *Table) Repair() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.published) > 0 {
		return t.table.Apply(t.entriesLocked())
	}
	there, err := t.table.Present()
	if err != nil || !there {
		return err
	}
	return t.table.Remove()
}

func (t *Table) entriesLocked() []portmap.Entry {
	var out []portmap.Entry
	for _, entries := range t.published {
		out = append(out, entries...)
	}
	return out
}

// entriesOf is what a lease publishes: the first address of each family has the
// ports.
func entriesOf(l network.Lease, subnets []netip.Prefix) []portmap.Entry {
	var first []netip.Addr
	families := map[bool]bool{}
	for _, a := range l.Addresses {
		if !families[a.Is6()] {
			families[a.Is6()] = true
			first = append(first, a)
		}
	}
	out := portmap.Entries(l.PodID, first, l.Ports)
	for i := range out {
		for _, s := range subnets {
			if s.Addr() == out[i].PodIP && s.Bits() < s.Addr().BitLen() {
				out[i].Beside = s.Masked()
			}
		}
	}
	return out
}

// routeLocalnet lets packets with addresses of 127.0.0.0/8 take the interface
// that leads to a pod, without which the host's own connections to a host port at
// 127.0.0.1 cannot leave it. The portmap plugin does the same.
func routeLocalnet(pod netip.Addr) error {
	if !pod.Is4() {
		return nil // IPv6 has no such thing
	}
	routes, err := netlink.RouteGet(pod.AsSlice())
	if err == nil && len(routes) == 0 {
		err = fmt.Errorf("no route leads there")
	}
	if err != nil {
		return fmt.Errorf("cannot find the interface that leads to %s: %w", pod, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return fmt.Errorf("cannot find the interface that leads to %s: %w", pod, err)
	}
	file := "/proc/sys/net/ipv4/conf/" + link.Attrs().Name + "/route_localnet"
	if now, err := os.ReadFile(file); err == nil && len(now) > 0 && now[0] == '1' { //nolint:gosec // the name is one that the kernel has
		return nil
	}
	if err := os.WriteFile(file, []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot let 127.0.0.1 lead to pods by %s: %w", link.Attrs().Name, err)
	}
	return nil
}
