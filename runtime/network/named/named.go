// Package named keeps the networks that people make and call by a name, beside
// the one that all other pods are on.
//
// The model: a network is a row (root/networks/NAME.json) and a bridge of its own
// (package bridge) that is made with its first pod. Its pods reach each other,
// the host and, unless it is internal, the world; from anywhere else they are
// reached by published ports only. Host ports are one table for all networks.
//
// The law: the row is durable before a pod can ask for the network, and goes when
// no pod has a lease of it and after the bridge has gone. Which network a pod is
// on is in its lease. A name is given by people, never by the author of a pod
// that comes through the kubelet.
package named

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/bridge"
	"github.com/berth-runtime/berth/runtime/state"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Record is a network's row.
type Record struct {
	Name      string            `json:"name"`
	Interface string            `json:"interface"` // its bridge
	Subnets   []netip.Prefix    `json:"subnets"`   // one of IPv4, then at most one of IPv6
	MTU       int               `json:"mtu,omitempty"`
	Internal  bool              `json:"internal,omitempty"` // pods reach the host and each other only
	Isolated  bool              `json:"isolated,omitempty"` // pods reach each other by published ports only
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
}

// Config of a Set.
type Config struct {
	Dir string // of the rows
	// Bridge is what the networks have in common with the embedded one: host
	// ports, forwarding, masquerade. The name and the subnets are that one's, the
	// names of theirs begin with it and a dash.
	Bridge bridge.Config
	// Pools are what subnets are cut from for networks that name none: a /24 of
	// an IPv4 pool, a /64 of an IPv6 pool.
	Pools []netip.Prefix
}

// Set is a network.Network: that of the pods that name none, and the named ones.
type Set struct {
	cfg  Config
	rows state.Rows[Record]
	rest network.Network

	making sync.Mutex // one network is made or removed at a time

	mu       sync.Mutex
	networks map[string]*member // guarded by mu
}

// member is one network.
type member struct {
	record Record
	bridge *bridge.Bridge
	pods   map[string]bool // that have a lease of it; guarded by Set.mu
}

var (
	_ network.Network  = (*Set)(nil)
	_ network.Examiner = (*Set)(nil)
)

// New reads the rows. Pods that name no network are on rest, which stays the
// caller's to close. A row that is broken is set aside: its pods can be ended.
func New(ctx context.Context, cfg Config, rest network.Network) (*Set, error) {
	rows, err := state.Open[Record](cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Set{cfg: cfg, rows: rows, rest: rest, networks: map[string]*member{}}
	all, broken, err := rows.All()
	if err != nil {
		return nil, err
	}
	for _, b := range broken {
		klog.FromContext(ctx).Error(errors.New(b), "A network has no record that can be read, and is gone")
	}
	for name, r := range all {
		m, err := s.open(r)
		if err == nil && r.Name != name {
			err = errkind.New(errkind.FailedPrecondition, "it is the record of %q", r.Name)
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "A network cannot be used, and is left out", "network", name)
			continue
		}
		s.networks[name] = m
	}
	return s, nil
}

// open makes the bridge of a record, in memory.
func (s *Set) open(r Record) (*member, error) {
	cfg := s.cfg.Bridge
	cfg.Name, cfg.Table, cfg.Subnets = r.Interface, "", r.Subnets
	cfg.Internal, cfg.Isolated = r.Internal, r.Isolated
	cfg.ApartFrom = []string{"*"}
	if r.MTU != 0 {
		cfg.MTU = r.MTU
	}
	if cfg.Isolated {
		cfg.AllowSpoofing = false
	}
	b, err := bridge.New(cfg)
	if err != nil {
		return nil, err
	}
	return &member{record: r, bridge: b, pods: map[string]bool{}}, nil
}

// Close frees what New and Create opened. Networks and pods stay.
func (s *Set) Close() {
	for _, m := range s.members() {
		m.bridge.Close()
	}
}

func (s *Set) members() []*member {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*member
	for _, name := range slices.Sorted(maps.Keys(s.networks)) {
		out = append(out, s.networks[name])
	}
	return out
}

// List tells of all networks, by name.
func (s *Set) List() []Record {
	var out []Record
	for _, m := range s.members() {
		out = append(out, m.record)
	}
	return out
}

var goodName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

// reserved are names that mean something else where a network is named.
var reserved = []string{"none", "host", "bridge", "default", "container", "pod", "private"}

// Create makes a network. What r leaves open is chosen: subnets that nothing on
// the host leads to, and the interface. A name that is taken is
// errkind.AlreadyExists, subnets that are in use errkind.FailedPrecondition.
func (s *Set) Create(r Record) (Record, error) {
	s.making.Lock()
	defer s.making.Unlock()
	made, err := s.create(r)
	if err != nil {
		return Record{}, fmt.Errorf("cannot make network %q: %w", r.Name, err)
	}
	return made, nil
}

func (s *Set) create(r Record) (Record, error) {
	switch {
	case !goodName.MatchString(r.Name):
		return r, errkind.New(errkind.InvalidArgument, "a name is of letters, digits, _, . and -, begins with one of the first two, and has at most 63")
	case slices.Contains(reserved, r.Name):
		return r, errkind.New(errkind.InvalidArgument, "the name has a meaning of its own")
	case r.MTU < 0 || r.MTU > 65535 || r.MTU > 0 && r.MTU < 1280:
		return r, errkind.New(errkind.InvalidArgument, "MTU %d is not between 1280 and 65535", r.MTU)
	}
	s.mu.Lock()
	_, taken := s.networks[r.Name]
	s.mu.Unlock()
	if taken {
		return r, errkind.New(errkind.AlreadyExists, "there is one of that name")
	}
	if err := s.choose(&r); err != nil {
		return r, err
	}
	r.CreatedAt = time.Now()
	m, err := s.open(r)
	if err != nil {
		return r, err
	}
	if err := s.rows.Put(r.Name, r); err != nil {
		m.bridge.Close()
		return r, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.networks[r.Name] = m
	return r, nil
}

// Remove ends a network that no pod has a lease of; else it is
// errkind.FailedPrecondition and names them. One that is absent is errkind.NotFound.
func (s *Set) Remove(name string) error {
	s.making.Lock()
	defer s.making.Unlock()
	s.mu.Lock()
	m := s.networks[name]
	if m == nil {
		s.mu.Unlock()
		return unknown(name)
	}
	if len(m.pods) > 0 {
		var ids []string
		for id := range m.pods {
			ids = append(ids, id[:min(12, len(id))])
		}
		s.mu.Unlock()
		slices.Sort(ids)
		return errkind.New(errkind.FailedPrecondition, "cannot remove network %s: pods %v are on it", name, ids)
	}
	delete(s.networks, name) // no pod finds it any more
	s.mu.Unlock()
	err := m.bridge.Teardown()
	if err == nil {
		err = s.rows.Delete(name)
	}
	if err != nil {
		s.mu.Lock()
		s.networks[name] = m
		s.mu.Unlock()
		return fmt.Errorf("cannot remove network %s: %w", name, err)
	}
	m.bridge.Close()
	return nil
}

func unknown(name string) error {
	return errkind.New(errkind.NotFound, "network %q does not exist", name)
}
