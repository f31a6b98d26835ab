// Package mount wraps the mount system calls that berth makes on the host, so
// that each is idempotent in the direction in which it is undone.
package mount

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bind mounts source at target. Flags beyond MS_BIND (MS_RDONLY, MS_NOSUID,
// ...) are applied by the second, remounting call that the kernel wants.
func Bind(source, target string, flags uintptr) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND|(flags&unix.MS_REC), ""); err != nil {
		return fmt.Errorf("cannot bind %s to %s: %w", source, target, err)
	}
	if rest := flags &^ (unix.MS_BIND | unix.MS_REC); rest != 0 {
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|rest, ""); err != nil {
			_ = unix.Unmount(target, unix.MNT_DETACH)
			return fmt.Errorf("cannot remount %s with flags %#x: %w", target, rest, err)
		}
	}
	return nil
}

// Unmount detaches every mount stacked on target. A target that is absent or
// no mount point is success.
func Unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("cannot unmount %s: %w", target, err)
		}
	}
}

// Info is one row of the own mount table.
type Info struct {
	ID     uint64 // as statx gives it for what is on the mount (STATX_MNT_ID); used again after an unmount
	Target string // mount point
	Root   string // path within the file system that is mounted
	FSType string
	Source string
	Shared bool // a member of a peer group: mounts below propagate out
	Slave  bool // receives propagation from a master
}

// Table reads the mounts of the own mount namespace, in mount order.
func Table() ([]Info, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var out []Info
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		// 36 35 98:0 /root /target opts [shared:1 master:2 ...] - fstype source superopts
		left, right, ok := strings.Cut(s.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 2 {
			return nil, fmt.Errorf("cannot parse mountinfo line %q", s.Text())
		}
		id, err := strconv.ParseUint(l[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("cannot parse mountinfo line %q", s.Text())
		}
		m := Info{ID: id, Target: unescape(l[4]), Root: unescape(l[3]), FSType: r[0], Source: unescape(r[1])}
		for _, o := range l[6:] {
			m.Shared = m.Shared || strings.HasPrefix(o, "shared:")
			m.Slave = m.Slave || strings.HasPrefix(o, "master:")
		}
		out = append(out, m)
	}
	return out, s.Err()
}

// unescape undoes the kernel's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
