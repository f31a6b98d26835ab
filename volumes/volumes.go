// Package volumes makes what a container sees of the host: host paths, the
// content of image VOLUMEs, and in its subpackages the files of /etc and
// /dev/shm.
//
// The host side of a volume is the administrator's: its links are followed.
// The image's side is nobody's friend: it is only reached through a handle on
// its root. Resolve decides and CopyUp copies; neither mounts anything. The
// mounts themselves are made inside the container's mount namespace and end
// with it.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// Resolver turns requests into OCI mounts.
type Resolver struct {
	// Strict refuses a missing host path, as CRI says. Without it the path
	// becomes an empty directory, as the peers do and users came to rely on.
	Strict bool
}

// Request is one host path to be seen in a container.
type Request struct {
	ContainerPath, HostPath     string
	ReadOnly, RecursiveReadOnly bool
	Propagation                 string // private, slave or shared; empty is private
	// IDs maps the owners of the files, of the mounts below too; a file system
	// that cannot is an error when the container is created. nil: as they are.
	IDs     *idmap.Map
	Options []string // of noexec, nodev and nosuid
}

// Resolve checks and resolves all requests, in their order. Read-only without
// RecursiveReadOnly leaves the mounts below the host path writable.
func (r Resolver) Resolve(ctx context.Context, reqs []Request) ([]specs.Mount, error) {
	out := make([]specs.Mount, 0, len(reqs))
	var table []mount.Info // read once, and only if propagation asks for it
	for _, req := range reqs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := check(req); err != nil {
			return nil, err
		}
		if req.RecursiveReadOnly && !ProbeRRO() {
			// The first word is CRI's contract.
			return nil, errkind.New(errkind.FailedPrecondition,
				"RROUnsupported: cannot mount %s recursively read-only: the kernel is older than 5.12", req.HostPath)
		}
		source, err := r.source(req.HostPath)
		if err != nil {
			return nil, err
		}
		if req.Propagation == "slave" || req.Propagation == "shared" {
			if table == nil {
				if table, err = mount.Table(); err != nil {
					return nil, err
				}
			}
			if err := checkPropagation(table, source, req); err != nil {
				return nil, err
			}
		}
		m := specs.Mount{
			Destination: path.Clean(req.ContainerPath),
			Type:        "bind",
			Source:      source,
			Options:     options(req),
		}
		if req.IDs != nil {
			m.UIDMappings, m.GIDMappings = mapping(req.IDs.UID), mapping(req.IDs.GID)
		}
		out = append(out, m)
	}
	return out, nil
}

// check refuses what is wrong whatever the host has.
func check(req Request) error {
	refuse := func(why string) error {
		return errkind.New(errkind.InvalidArgument, "cannot mount %q at %q: %s", req.HostPath, req.ContainerPath, why)
	}
	switch {
	case !path.IsAbs(req.ContainerPath) || path.Clean(req.ContainerPath) == "/":
		return refuse("the path in the container must be absolute and not the root")
	case !path.IsAbs(req.HostPath):
		return refuse("the path on the host must be absolute")
	case strings.ContainsRune(req.ContainerPath+req.HostPath, 0):
		return refuse("a path has a NUL byte")
	case req.RecursiveReadOnly && !req.ReadOnly:
		return refuse("recursive read-only needs read-only")
	case req.RecursiveReadOnly && req.Propagation != "private" && req.Propagation != "":
		return refuse("recursive read-only needs private propagation")
	}
	for _, o := range req.Options {
		if !slices.Contains([]string{"noexec", "nodev", "nosuid"}, o) {
			return refuse("option " + o + " is not noexec, nodev or nosuid")
		}
	}
	if !slices.Contains([]string{"", "private", "slave", "shared"}, req.Propagation) {
		return refuse("unknown propagation " + req.Propagation)
	}
	return nil
}

// source resolves the links of a host path, which is made if need be.
func (r Resolver) source(hostPath string) (string, error) {
	source, err := filepath.EvalSymlinks(hostPath)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return "", errkind.New(errkind.FailedPrecondition, "cannot resolve host path %s: %w", hostPath, err)
		}
		return source, nil
	}
	if r.Strict {
		return "", errkind.New(errkind.NotFound, "host path %s does not exist; create it, or allow missing paths to be made", hostPath)
	}
	if err := os.MkdirAll(hostPath, 0o755); err != nil {
		return "", errkind.New(errkind.FailedPrecondition, "cannot make host path %s: %w", hostPath, err)
	}
	return filepath.EvalSymlinks(hostPath)
}

// checkPropagation compares what is asked with what the mount that source is
// on can give.
func checkPropagation(table []mount.Info, source string, req Request) error {
	on, err := mountOf(table, source)
	switch {
	case err != nil:
		return errkind.New(errkind.FailedPrecondition, "cannot tell how mounts below %s propagate: %w", source, err)
	case req.Propagation == "shared" && !on.Shared:
		return errkind.New(errkind.FailedPrecondition,
			"cannot share mounts below %s both ways: its mount %s is not shared; run \"mount --make-shared %s\" on the host", source, on.Target, on.Target)
	case req.Propagation == "slave" && !on.Shared && !on.Slave:
		return errkind.New(errkind.FailedPrecondition,
			"cannot pass mounts below %s to the container: its mount %s is neither shared nor slave; run \"mount --make-shared %s\" on the host", source, on.Target, on.Target)
	}
	return nil
}

// mountOf is the mount that source is on. Its place in the table would not tell:
// a mount may hide what was mounted deeper before (STATX_MNT_ID, Linux 5.8).
func mountOf(table []mount.Info, source string) (mount.Info, error) {
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, source, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &stx); err != nil {
		return mount.Info{}, &os.PathError{Op: "statx", Path: source, Err: err}
	}
	i := slices.IndexFunc(table, func(m mount.Info) bool { return m.ID == stx.Mnt_id })
	if i < 0 {
		return mount.Info{}, fmt.Errorf("the mount that %s is on went away", source)
	}
	return table[i], nil
}

func options(req Request) []string {
	access, propagation := "rw", "rprivate"
	switch {
	case req.RecursiveReadOnly:
		access = "rro"
	case req.ReadOnly:
		access = "ro"
	}
	switch req.Propagation {
	case "slave":
		propagation = "rslave"
	case "shared":
		propagation = "rshared"
	}
	out := append([]string{"rbind", access, propagation}, req.Options...)
	if req.IDs != nil {
		out = append(out, "ridmap")
	}
	return out
}

func mapping(r idmap.Range) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{HostID: r.Host, Size: r.Length}}
}

// ProbeRRO tells whether the kernel can make mounts read-only recursively
// (mount_setattr, Linux 5.12), by doing so to a mount that nobody sees. The
// answer does not change while the machine is up.
func ProbeRRO() bool {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr) == nil
}
