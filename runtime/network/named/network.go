package named

import (
	"context"
	"errors"
	"fmt"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// hold finds the network of a pod and notes that the pod has a lease of it.
func (s *Set) hold(name, podID string) (*member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.networks[name]
	if m == nil {
		return nil, unknown(name)
	}
	m.pods[podID] = true
	return m, nil
}

func (s *Set) of(name string) *member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.networks[name]
}

// Reserve implements network.Network; a network that is not there is
// errkind.NotFound.
func (s *Set) Reserve(ctx context.Context, r network.Request) (network.Lease, error) {
	if r.Network == "" {
		return s.rest.Reserve(ctx, r)
	}
	m, err := s.hold(r.Network, r.PodID)
	if err != nil {
		return network.Lease{}, fmt.Errorf("cannot reserve the network of pod %s: %w", r.PodID, err)
	}
	l, err := m.bridge.Reserve(ctx, r)
	if err != nil {
		s.Release(r.PodID)
		return l, err
	}
	l.Network = r.Network
	return l, nil
}

// Restore implements network.Network. The lease of a network without a record is
// kept by the pod alone, which can be detached.
func (s *Set) Restore(l network.Lease) error {
	if l.Network == "" {
		return s.rest.Restore(l)
	}
	m, err := s.hold(l.Network, l.PodID)
	if errkind.Is(err, errkind.NotFound) {
		return nil
	}
	return m.bridge.Restore(l)
}

// Attach implements network.Network.
func (s *Set) Attach(ctx context.Context, r network.Request, l network.Lease) (network.Lease, error) {
	if l.Network == "" {
		return s.rest.Attach(ctx, r, l)
	}
	m := s.of(l.Network)
	if m == nil {
		return l, fmt.Errorf("cannot attach pod %s: %w", l.PodID, unknown(l.Network))
	}
	return l, m.bridge.Attach(ctx, r, l)
}

// Detach implements network.Network. The interface of a pod whose network has no
// record is known by its name all the same.
func (s *Set) Detach(ctx context.Context, l network.Lease, netns string) error {
	if m := s.of(l.Network); m != nil {
		return m.bridge.Detach(ctx, l, netns)
	}
	return s.rest.Detach(ctx, l, netns)
}

// Release implements network.Network.
func (s *Set) Release(podID string) {
	s.rest.Release(podID)
	for _, m := range s.members() {
		m.bridge.Release(podID)
		s.mu.Lock()
		delete(m.pods, podID)
		s.mu.Unlock()
	}
}

// Status implements network.Network, for pods that name no network.
func (s *Set) Status(ctx context.Context) error { return s.rest.Status(ctx) }

// Check implements network.Network.
func (s *Set) Check(ctx context.Context) ([]string, error) {
	out, err := s.rest.Check(ctx)
	errs := []error{err}
	for _, m := range s.members() {
		diffs, err := m.bridge.Check(ctx)
		for _, d := range diffs {
			out = append(out, "network "+m.record.Name+": "+d)
		}
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

// Repair implements network.Network. The bridge of a network without pods is
// made with the first one.
func (s *Set) Repair(ctx context.Context) error {
	errs := []error{s.rest.Repair(ctx)}
	for _, m := range s.members() {
		diffs, err := m.bridge.Check(ctx)
		if err == nil && (len(diffs) > 0 || m.bridge.InUse()) {
			err = m.bridge.Repair(ctx)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", m.record.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Examine implements network.Examiner. Of a named network it tells what is its
// own and not as it should be; the rest is the same for all.
func (s *Set) Examine(ctx context.Context) []network.Finding {
	var out []network.Finding
	if e, ok := s.rest.(network.Examiner); ok {
		out = e.Examine(ctx)
	}
	for _, m := range s.members() {
		for _, f := range m.bridge.Examine(ctx) {
			own := f.Name == "subnets" || f.Name == "mtu" || f.Name == "forward-policy" && !m.record.Internal
			if own && f.Verdict != network.OK {
				f.Why = "network " + m.record.Name + ": " + f.Why
				out = append(out, f)
			}
		}
	}
	return out
}

// Teardown removes what all networks keep in the kernel without any pod.
func (s *Set) Teardown() error {
	var errs []error
	for _, m := range s.members() {
		errs = append(errs, m.bridge.Teardown())
	}
	if t, ok := s.rest.(interface{ Teardown() error }); ok {
		errs = append(errs, t.Teardown())
	}
	return errors.Join(errs...)
}
