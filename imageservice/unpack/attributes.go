package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const (
	paxXattr = "SCHILY.xattr."

	overlayXattrs = "trusted.overlay."
	opaqueXattr   = overlayXattrs + "opaque"
)

// The order in all three is owner, attributes, mode: chown clears set-user-id
// and security.capability.

func setFile(f *os.File, h *tar.Header) error {
	if err := checkOwner(h); err != nil {
		return err
	}
	fd := int(f.Fd())
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := setXattrs(h, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) }); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, permissions(h)); err != nil {
		return err
	}
	ts := timespec(h)
	// By /proc, since utimensat with a null path is not wrapped by x/sys.
	return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(f, ""), []unix.Timespec{ts, ts}, 0)
}

// setDirectory leaves the times to finish.
func setDirectory(d *os.File, h *tar.Header) error {
	if err := checkOwner(h); err != nil {
		return err
	}
	fd := int(d.Fd())
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := setXattrs(h, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) }); err != nil {
		return err
	}
	return unix.Fchmod(fd, permissions(h))
}

// setOther is for what cannot or must not be opened: links, devices, FIFOs.
func setOther(dir *os.File, base string, h *tar.Header) error {
	if err := checkOwner(h); err != nil {
		return err
	}
	fd := int(dir.Fd())
	if err := unix.Fchownat(fd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	err := setXattrs(h, func(name string, value []byte) error {
		return unix.Lsetxattr(procPath(dir, base), name, value, 0)
	})
	if err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		// fchmodat follows links, but base is none: it was just made here.
		if err := unix.Fchmodat(fd, base, permissions(h), 0); err != nil {
			return err
		}
	}
	ts := timespec(h)
	return unix.UtimesNanoAt(fd, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// setXattrs sets the extended attributes of a header. Overlay's own would
// change what other layers show; SELinux labels are the host's to give.
func setXattrs(h *tar.Header, set func(name string, value []byte) error) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || strings.HasPrefix(name, overlayXattrs) || name == "security.selinux" {
			continue
		}
		if name == "" || len(name) > unix.NAME_MAX || len(value) > maxXattr {
			return errkind.New(errkind.InvalidArgument, "extended attribute %.64q has %d bytes: the kernel does not take it", name, len(value))
		}
		err := set(name, []byte(value))
		if errors.Is(err, unix.ENOTSUP) && name != "security.capability" {
			continue // a file system without it; what runs does not depend on it
		}
		if err != nil {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	return nil
}

// checkOwner refuses ids that do not fit, and -1, which chown takes for "leave it".
func checkOwner(h *tar.Header) error {
	const most = 1<<32 - 2
	if h.Uid < 0 || h.Uid > most || h.Gid < 0 || h.Gid > most {
		return errkind.New(errkind.InvalidArgument, "its owner %d:%d cannot exist", h.Uid, h.Gid)
	}
	return nil
}

func permissions(h *tar.Header) uint32 { return uint32(h.Mode & 0o7777) }

func timespec(h *tar.Header) unix.Timespec {
	return unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
}

func setOpaque(d *os.File) error { return unix.Fsetxattr(int(d.Fd()), opaqueXattr, []byte("y"), 0) }

// isOpaque takes O_PATH handles too.
func isOpaque(d *os.File) bool {
	var v [1]byte
	n, err := unix.Getxattr(procPath(d, ""), opaqueXattr, v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// procPath names base in dir, or dir itself, for calls that take paths only.
func procPath(dir *os.File, base string) string {
	p := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	if base != "" {
		p += "/" + base
	}
	return p
}
