// Package crash kills the daemon before and after every step of every verb of
// pods, containers and images, and wants nothing lost and nothing left.
//
// Model. `berthd steps` names the failpoints, so a new step joins by itself.
// For each name a client lives a pod's whole life, as the kubelet would: what
// fails it asks for again, with the same name and attempt. Once in that life
// the daemon kills itself at the failpoint; it is started again and recovers.
// The failpoints of the image store have clients of their own, which pull an
// image, use it, remove it under its container and pull it again; those of
// builds too, which build an image, again from the cache, and without it.
//
// Law. After the recovery `berth check` finds nothing, a container that ran
// runs, and after the life nothing of the pod is left. A failpoint that no
// client reaches fails the test: it would test nothing.
//
// The tests carry the build tag crash and run by `make crash`, as root.
package crash
