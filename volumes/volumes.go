// Package volumes makes what a container sees of the host.
package volumes

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Resolver turns requests into OCI mounts.
type Resolver struct {
	Strict bool // a missing host path is refused instead of created
}

// Request is one host path to be seen in a container.
type Request struct {
	ContainerPath, HostPath     string
	ReadOnly, RecursiveReadOnly bool
	Propagation                 string // private, slave or shared
}

// Resolve checks and resolves all requests.
func (r Resolver) Resolve(ctx context.Context, reqs []Request) ([]specs.Mount, error) {
	panic("unfinished")
}

// ProbeRRO tells whether the kernel can make mounts read-only recursively.
func ProbeRRO() bool { panic("unfinished") }

// CopyUp copies path of the image at rootfs into the fresh directory dst.
func CopyUp(ctx context.Context, rootfs, path, dst string) error { panic("unfinished") }
