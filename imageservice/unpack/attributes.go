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

	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// object is a file whose attributes are set: by a handle only, since a name
// may have been given to another file, or to a link, a moment later.
type object struct {
	*os.File
	path bool // opened with O_PATH, as what cannot or must not be opened is
	mode uint32

	// made is what a file was when it was made: what is right of it already
	// need not be set, which for most files of most layers is all but the time.
	// nil if that is not known.
	made *unix.Stat_t
}

// openObject opens what was just made as base in dir.
func openObject(dir *os.File, base string) (object, error) {
	f, err := openAt(dir, base, unix.O_PATH)
	if err != nil {
		return object{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return object{}, err
	}
	return object{File: f, path: true, mode: st.Mode}, nil
}

func (o object) setXattr(name string, value []byte) error {
	if o.path {
		return unix.Setxattr(procPath(o.File), name, value, 0)
	}
	return unix.Fsetxattr(int(o.Fd()), name, value, 0)
}

func (o object) chmod(mode uint32) error {
	switch {
	case o.mode&unix.S_IFMT == unix.S_IFLNK:
		return nil // links have no mode of their own
	case o.path:
		return unix.Chmod(procPath(o.File), mode)
	}
	return unix.Fchmod(int(o.Fd()), mode)
}

// set gives o the owner, attributes, mode and time of a header. The order
// matters: chown clears set-user-id and security.capability.
func (o object) set(h *tar.Header) error {
	const most = 1<<32 - 2 // -1 is chown's "leave it"
	if h.Uid < 0 || h.Uid > most || h.Gid < 0 || h.Gid > most {
		return errkind.New(errkind.InvalidArgument, "its owner %d:%d cannot exist", h.Uid, h.Gid)
	}
	owned := o.made != nil && int(o.made.Uid) == h.Uid && int(o.made.Gid) == h.Gid
	if !owned {
		if err := unix.Fchownat(int(o.Fd()), "", h.Uid, h.Gid, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	// An access control list among the attributes changes the mode too.
	changed, err := o.setXattrs(h.PAXRecords)
	if err != nil {
		return err
	}
	mode := uint32(h.Mode & 0o7777)
	if !owned || changed || o.made.Mode&0o7777 != mode {
		if err := o.chmod(mode); err != nil {
			return err
		}
	}
	return setMtime(o.File, unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())})
}

// setXattrs sets the extended attributes among the records, and reports whether
// there were any. Overlay's own would change what other layers show; SELinux
// labels are the host's to give.
func (o object) setXattrs(records map[string]string) (changed bool, err error) {
	for key, value := range records {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || strings.HasPrefix(name, overlayXattrs) || name == "security.selinux" {
			continue
		}
		if name == "" || len(name) > unix.NAME_MAX || len(value) > maxXattr {
			return changed, errkind.New(errkind.InvalidArgument, "extended attribute %.64q has %d bytes: the kernel does not take it", name, len(value))
		}
		changed = true
		err := o.setXattr(name, []byte(value))
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOTSUP) && name != "security.capability":
			// A file system without it; what runs does not depend on it.
		case errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "user."):
			// Only files and directories can have them, see xattr(7).
		case errors.Is(err, unix.EINVAL):
			return changed, errkind.New(errkind.InvalidArgument, "extended attribute %s has a value that the kernel does not take", name)
		default:
			return changed, fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	return changed, nil
}

// hasDefaultACL reports whether what is made in the directory d inherits
// access control lists.
func hasDefaultACL(d *os.File) bool {
	_, err := unix.Fgetxattr(int(d.Fd()), defaultACL, nil)
	return err == nil
}

// dropACLs takes from a new file the lists that it inherited: a tar says all
// that a file has.
func (o object) dropACLs() error {
	for _, name := range []string{accessACL, defaultACL} {
		err := unix.Removexattr(procPath(o.File), name)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}

// setMtime sets the modification time of an open file, and the access time too.
func setMtime(f *os.File, ts unix.Timespec) error {
	return unix.UtimesNanoAt(int(f.Fd()), "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH)
}

func setOpaque(d *os.File) error { return unix.Fsetxattr(int(d.Fd()), opaqueXattr, []byte("y"), 0) }

// isOpaque takes O_PATH handles too.
func isOpaque(d *os.File) bool {
	var v [1]byte
	n, err := unix.Getxattr(procPath(d), opaqueXattr, v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// procPath names an open file for calls that take no handle of O_PATH.
func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
