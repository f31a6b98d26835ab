// berth-shim is the parent of containers; see package shim. libcontainer
// executes it again, with the argument init, as the first program of every
// container and every exec, so that all it links is initialised there too.
package main

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	// Joins and makes namespaces before the Go runtime has threads.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"

	"github.com/berth-runtime/berth/runtime/shim"
)

// Only while packages are initialised is this goroutine certain to be on the
// main thread, where Init locks it. From another thread, execve would end the
// thread group's leader first, and kernels before 6.15 tell that to holders of
// a pidfd as the end of the process.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init() // does not return
	}
}

func main() {
	os.Exit(shim.Main())
}
