// Package e2e drives the built binaries as users do: berthd, berth-shim and
// berth of bin/, Debian's docker-registry, and kubernetes' crictl, each test
// on a node of its own (package lab). It reads what the programs print.
//
// Law. Every test ends with `berth check` finding nothing and with no mount,
// cgroup, interface, rule or process left. The tests carry the build tag e2e
// and run by `make test-e2e`, as root.
package e2e
