// Package kube puts the real kubelet on berth: first alone with static pods,
// then with etcd, kube-apiserver, kube-scheduler and kube-controller-manager as
// a cluster of one node. What the tests know they have from kubectl, the API
// and the kubelet's own endpoints, as users do, never from berth's side alone.
//
// Law. All of it runs in a network and a mount namespace of its own, on a lab
// (package lab): no port, route, sysctl or mount of the machine is touched, and
// no process is moved out of the machine's root cgroup. The store lies on a small
// file system of its own, so that the kubelet's image garbage collection has
// something to measure. One cluster serves all tests, each in a namespace of
// Kubernetes of its own. At the end a Deployment that was there from the
// beginning has not been restarted, `berth check` finds nothing, and no mount,
// cgroup, interface, rule or process is left, nor a volume of the kubelet's.
//
// The tests carry the build tag kube and run by `make kubelet`, as root.
package kube
