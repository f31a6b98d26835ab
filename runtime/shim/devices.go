package shim

// The import lets libcontainer's cgroup code set device rules; without it a
// container with any rule is refused.
import _ "github.com/opencontainers/cgroups/devices"
