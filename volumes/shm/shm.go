// Package shm mounts the /dev/shm of a pod: one tmpfs that its containers
// share, whose content ends with the pod.
package shm

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// DefaultSize is the size of a pod's /dev/shm in bytes.
const DefaultSize = 64 << 20

// Mount mounts a tmpfs of size bytes at dir, which is made if need be. A dir
// that is mounted already is success.
func Mount(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	mounted, err := isMounted(dir)
	if err != nil || mounted {
		return err
	}
	err = unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, fmt.Sprintf("mode=1777,size=%d", size))
	if err != nil {
		return fmt.Errorf("cannot mount shared memory at %s: %w", dir, err)
	}
	return nil
}

// isMounted compares the devices of dir and its parent, which for a tmpfs of
// its own always differ. The mount table would tell as well, but reading it
// costs with every mount on the machine.
func isMounted(dir string) (bool, error) {
	var own, parent unix.Stat_t
	if err := unix.Lstat(dir, &own); err != nil {
		return false, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &parent); err != nil {
		return false, &os.PathError{Op: "stat", Path: filepath.Dir(dir), Err: err}
	}
	return own.Dev != parent.Dev, nil
}

// Unmount undoes Mount but for the directory; a dir that is absent or not
// mounted is success.
func Unmount(dir string) error { return mount.Unmount(dir) }
