// berth-shim is the parent of containers; see package shim. libcontainer
// executes it again, with the argument init, as the first program of every
// container and every exec, so that all it links is initialised there too.
package main

import (
	"os"

	// Lets the cgroup managers set device rules; without it every start fails.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"
	// Joins and makes namespaces before the Go runtime has threads.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"

	"github.com/berth-runtime/berth/runtime/shim"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init() // does not return
	}
	os.Exit(shim.Main())
}
