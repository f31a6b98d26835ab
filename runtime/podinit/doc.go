// Package podinit holds the source of berth-init, the first process of a pod
// whose containers share a PID namespace.
//
// Law. It is a static C program, built by make and bind-mounted over the one
// file of an empty read-only root; it runs as nobody, without capabilities or
// foreign descriptors, and does nothing but reap. When it ends, the kernel
// ends every process of the namespace, so its death is the pod's.
package podinit
