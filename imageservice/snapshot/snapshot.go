// Package snapshot mounts containers' root file systems: an overlay of an
// image's layers with a writable directory of the container's own.
//
// The law: a snapshot is two directories, and the mount is derived from them
// and the layers alone. It is mounted volatile: what a container writes goes
// with it, so nobody pays for its fsyncs, and after a power cut its writes are
// as good as those of a program that never called fsync. Everything here is
// idempotent and knows no rows: package imageservice decides what may exist.
package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// Dirs are the two directories of a writable layer.
type Dirs struct{ Upper, Work string }

// At gives the directories of a snapshot whose own directory is dir.
func At(dir string) Dirs {
	return Dirs{Upper: filepath.Join(dir, "fs"), Work: filepath.Join(dir, "work")}
}

// Create makes the directories. The upper one takes owner, mode and times of
// the directory like, which is what the container sees as those of "/": mapped,
// if the container is in a user namespace.
func (d Dirs) Create(like string, in *idmap.Pinned) error {
	if err := os.MkdirAll(d.Work, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(d.Upper, 0o755); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(like, &st); err != nil {
		return fmt.Errorf("cannot stat %s: %w", like, err)
	}
	uid, gid := int(st.Uid), int(st.Gid)
	if in != nil {
		uid, gid = in.Owner(st.Uid, st.Gid)
	}
	return errors.Join(
		unix.Chown(d.Upper, uid, gid),
		unix.Chmod(d.Upper, st.Mode&0o7777),
		unix.UtimesNanoAt(unix.AT_FDCWD, d.Upper, []unix.Timespec{st.Mtim, st.Mtim}, 0),
	)
}

// Mount mounts the snapshot at target, which it makes if need be. lowers are
// the layer directories, topmost first, at least one. With in, their owners
// are those that the user namespace has on the host; what is written keeps the
// owners that the writer has there, so the upper directory needs no mapping. A
// target where an overlay is mounted already is left as it is. With label, all
// files have it as theirs of SELinux, whatever is on the disk.
func Mount(d Dirs, lowers []string, target string, in *idmap.Pinned, label string) error {
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	mounted, err := isOverlay(target)
	if err != nil || mounted {
		return err
	}
	// The kernel marks a volatile work directory and refuses it afterwards,
	// so that nobody trusts what may have been cut. A container's owner is
	// not asked to trust it; see the package comment.
	if err := os.RemoveAll(filepath.Join(d.Work, "work", "incompat")); err != nil {
		return err
	}
	if in != nil {
		return overlayMapped(options(d, label), lowers, target, in)
	}
	return overlay(options(d, label), lowers, target)
}

// MountReadOnly mounts the lower directories alone, with in and label like
// Mount. A label needs an overlay, and that two directories.
func MountReadOnly(lowers []string, target string, in *idmap.Pinned, label string) error {
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	mounted, err := isMountPoint(target)
	if err != nil || mounted {
		return err
	}
	opts := append([]option{{"index", "off"}, {"redirect_dir", "off"}, {"metacopy", "off"}}, contextOf(label)...)
	switch single := len(lowers) == 1; { // overlayfs wants two
	case in != nil && single:
		return bindMapped(lowers[0], target, in)
	case in != nil:
		return overlayMapped(opts, lowers, target, in)
	case single:
		return mount.Bind(lowers[0], target, unix.MS_RDONLY)
	}
	return overlay(opts, lowers, target)
}

// options are explicit where the kernel's configuration has a default:
// redirect_dir and metacopy would put meaning into the upper directory that
// only the same mount can read, index ties it to one set of layers.
func options(d Dirs, label string) []option {
	return append([]option{
		{"index", "off"}, {"redirect_dir", "off"}, {"metacopy", "off"}, {"volatile", ""},
		{"upperdir", d.Upper}, {"workdir", d.Work},
	}, contextOf(label)...)
}

// contextOf is the option that gives all files one label of SELinux; none for no
// label, since a kernel without SELinux refuses it.
func contextOf(label string) []option {
	if label == "" {
		return nil
	}
	return []option{{"context", label}}
}

// Mounted reports whether something is mounted at target.
func Mounted(target string) (bool, error) {
	mounted, err := isMountPoint(target)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return mounted, err
}

// isMountPoint reports whether target itself is the root of a mount
// (STATX_ATTR_MOUNT_ROOT, Linux 5.8), without reading the mount table.
func isMountPoint(target string) (bool, error) {
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW, 0, &stx); err != nil {
		return false, fmt.Errorf("cannot stat %s: %w", target, err)
	}
	return stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

func isOverlay(target string) (bool, error) {
	mounted, err := isMountPoint(target)
	if err != nil || !mounted {
		return false, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return false, fmt.Errorf("cannot stat %s: %w", target, err)
	}
	return st.Type == unix.OVERLAYFS_SUPER_MAGIC, nil
}

// Unmount detaches what is mounted at target and removes the empty directory.
// A target that is absent is success.
func Unmount(target string) error {
	if err := mount.Unmount(target); err != nil {
		return err
	}
	err := unix.Rmdir(target)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		return nil // whoever made more of it than a mount point removes it
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", target, err)
	}
	return nil
}
