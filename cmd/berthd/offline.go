package main

import (
	"context"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// offline is the network of a node that has none configured. Pods on the
// host network do not ask for one and run; others are refused.
type offline struct{}

var errOffline = errkind.New(errkind.FailedPrecondition,
	"no network is configured: set network.enabled, or run the pod on the host network")

func (offline) Reserve(_ context.Context, r network.Request) (network.Lease, error) {
	return network.Lease{PodID: r.PodID}, errOffline
}
func (offline) Attach(_ context.Context, _ network.Request, l network.Lease) (network.Lease, error) {
	return l, errOffline
}
func (offline) Status(context.Context) error { return errOffline }

// Leases of a time when there was a network are kept as they are: the kernel
// removed the interfaces with their namespaces, or will.
func (offline) Restore(network.Lease) error                         { return nil }
func (offline) Detach(context.Context, network.Lease, string) error { return nil }
func (offline) Release(string)                                      {}
func (offline) Check(context.Context) ([]string, error)             { return nil, nil }
func (offline) Repair(context.Context) error                        { return nil }
