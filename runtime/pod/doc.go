// Package pod is the aggregate of a node's pods and their containers: run,
// stop, remove, create, start, exec, update, recover.
//
// Model. A Table holds Pods, a Pod holds Containers. What was asked for is
// immutable; what became of it is a status that is replaced as a whole. Every
// list and status is served from an immutable snapshot without any lock held
// across I/O.
//
// Law. A record is on disk before its effect is in the kernel; every effect
// has a name derived from an id; every verb is a table of do/undo steps
// (package steps). One lock a pod orders the verbs that change it. The
// daemon may be killed between any two instructions: Recover, called once
// before the sockets open, adopts what lives, reports what ended meanwhile and
// undoes what was half done.
package pod
