package pod

import (
	"context"
	"net/netip"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
)

// Images is what pods need of the image store. cmd/berthd gives it.
type Images interface {
	// Resolve finds an image on the node by id, reference or digest;
	// errkind.NotFound if it is not here. It never pulls.
	Resolve(ctx context.Context, ref string) (*spec.ImageConfig, error)
	// Prepare makes the writable layer of a container. Idempotent.
	Prepare(ctx context.Context, containerID, imageID string) error
	// Inherit makes the writable layer of a container on the layers that another
	// container's is on, whether or not their image is here still; with keep it
	// is that one's own, which has none then. Idempotent.
	Inherit(ctx context.Context, containerID, from string, keep bool) error
	// GiveBack undoes Inherit, whatever was done of it. Idempotent.
	GiveBack(ctx context.Context, containerID, from string) error
	// Mount mounts the container's root file system at target. With in, the
	// image's files belong to the users of that user namespace; with label, all
	// of them have it as theirs of SELinux. Idempotent.
	Mount(ctx context.Context, containerID, target string, in *idmap.Pinned, label string) error
	// MountReadOnly mounts at target only the image that the writable layer
	// of containerID is on, for an image volume, with in and label like Mount.
	// Idempotent.
	MountReadOnly(ctx context.Context, containerID, target string, in *idmap.Pinned, label string) error
	// Discard removes the writable layer; one that is absent is success.
	Discard(ctx context.Context, containerID string) error
	// SnapshotUsage is the usage of the writable layer.
	SnapshotUsage(ctx context.Context, containerID string) (bytes, inodes uint64, err error)
	// Snapshots lists the containers that have a writable layer.
	Snapshots(ctx context.Context) ([]string, error)
	// Mountpoint is where the image file system is mounted.
	Mountpoint() string
}

// Volumes is what pods need of the volumes domain. cmd/berthd gives it.
type Volumes interface {
	// Resolve turns the mounts of host paths asked for into OCI mounts, one
	// for each in their order, host side resolved.
	Resolve(ctx context.Context, mounts []spec.Mount) ([]specs.Mount, error)
	// CopyUp fills the fresh directory dst with what the image has at path.
	CopyUp(ctx context.Context, rootfs, path, dst string) error
	// Prepare is asked of each host path that a container mounts at path: it
	// refuses a named volume that is not there any more, and fills an empty one
	// with what the image has at path unless copyUp is false or another container
	// mounts it, which shared tells.
	Prepare(ctx context.Context, hostPath, rootfs, path string, copyUp bool, shared func() bool) error
	// IsNamed tells whether a host path is that of a named volume.
	IsNamed(hostPath string) bool
	// WriteFiles writes hostname, hosts and resolv.conf into dir.
	WriteFiles(dir string, f EtcFiles) error
	// RewriteHosts gives the hosts file in dir another content, which running
	// containers see.
	RewriteHosts(dir string, f EtcFiles) error
	// MountShm mounts a pod's /dev/shm at dir, of so many bytes or, for 0, as
	// many as are usual; UnmountShm undoes it, idempotent.
	MountShm(dir string, size int64) error
	UnmountShm(dir string) error
}

// EtcFiles is what a pod's files of /etc tell.
type EtcFiles struct {
	Hostname   string
	OwnNetwork bool // the host's loopback, and name servers there, are not the pod's
	DNS        *spec.DNS
	Addresses  []netip.Addr // of Hostname
	Hosts      []spec.HostLine
}
