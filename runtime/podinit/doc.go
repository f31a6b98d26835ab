// Package podinit holds the source of berth-init, the first process of a pod
// that shares its PID namespace among its containers. Other pods have none.
//
// The Makefile builds it (bin/berth-init) without a C library:
//
//	gcc -static -nostdlib -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -Os -s -o bin/berth-init runtime/podinit/init.c
//
// (The build constraint in the source keeps the go command's hands off it.)
//
// The daemon runs it through the shim like a container: the binary is
// bind-mounted read-only as /init into an empty, read-only root, in a new PID
// namespace, with no capabilities and no descriptors but its stdio. The pod's
// containers join the namespace by path. It reaps what they leave behind, and
// of signals knows only SIGTERM and SIGINT; when it ends, the kernel kills all
// that is left in the namespace.
package podinit
