// Package systest asks the kernel what only tests want to know: as the
// standard library's iotest and fstest, it is for tests to import and for no
// program.
package systest

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// Mounted tells whether target itself is a mount point.
func Mounted(target string) (bool, error) {
	table, err := mount.Table()
	return slices.ContainsFunc(table, func(m mount.Info) bool { return m.Target == target }), err
}

// OwnedBy tells whether the user namespace pinned at user owns that at path.
func OwnedBy(path, user string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	owner, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(owner) }()
	var got, want unix.Stat_t
	err = errors.Join(unix.Fstat(owner, &got), unix.Stat(user, &want))
	return got.Dev == want.Dev && got.Ino == want.Ino, err
}
