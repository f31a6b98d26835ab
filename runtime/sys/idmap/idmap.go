// Package idmap names the ids of a user namespace as the host sees them, makes
// such namespaces, and shows directories with their owners mapped.
//
// A user namespace is made in a child process (a thread of a Go program cannot
// enter one) that is stopped before its first instruction and killed when what
// it holds has been pinned or opened. Nothing ever runs in it.
//
// What each kernel brought: MOUNT_ATTR_IDMAP 5.12, overlayfs on such layers
// 5.19.
package idmap

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/thread"
)

// Range maps the ids 0 to Length-1 of a user namespace to Host and up.
type Range struct {
	Host   uint32 `json:"host"`
	Length uint32 `json:"length"`
}

// ToHost gives the host's id for an id of the namespace; ok is false for one
// that the namespace does not have.
func (r Range) ToHost(id uint32) (host uint32, ok bool) { return r.Host + id, id < r.Length }

// Map is the mapping of a user namespace.
type Map struct {
	UID Range `json:"uid"`
	GID Range `json:"gid"`
}

// overflow is what the kernel shows for an id without a mapping; on the host
// it is nobody.
const overflow = 65534

// Owner is who, on the host, owns what uid and gid own in the namespace. What
// belongs there to an id that it does not have is nobody's on the host: an
// image could name one that is another pod's.
func (m Map) Owner(uid, gid uint32) (hostUID, hostGID int) {
	hostUID, hostGID = overflow, overflow
	if id, ok := m.UID.ToHost(uid); ok {
		hostUID = int(id)
	}
	if id, ok := m.GID.ToHost(gid); ok {
		hostGID = int(id)
	}
	return hostUID, hostGID
}

// Pinned is a user namespace and the path that it can be opened by.
type Pinned struct {
	Map
	Path string
}

// With runs fn while there are namespaces: a user namespace with the mapping
// m, and those of flags (CLONE_NEWNET, ...), which it owns. They end with
// their last user: fn must open or bind what it wants to keep, by the paths
// that its argument gives for a name of /proc/PID/ns. fn runs on a throwaway
// thread.
func With(m Map, flags uintptr, fn func(path func(name string) string) error) error {
	return thread.Throwaway(func() error { return with(m, flags, fn) })
}

func with(m Map, flags uintptr, fn func(path func(name string) string) error) error {
	// The child stops for its tracer when it executes. If the tracer, this
	// thread, dies, so does the child; it never gets to be another daemon.
	p, err := os.StartProcess("/proc/self/exe", []string{"user-namespace"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER | flags,
		UidMappings:                []syscall.SysProcIDMap{{HostID: int(m.UID.Host), Size: int(m.UID.Length)}},
		GidMappings:                []syscall.SysProcIDMap{{HostID: int(m.GID.Host), Size: int(m.GID.Length)}},
		GidMappingsEnableSetgroups: true,
		Ptrace:                     true,
		Pdeathsig:                  syscall.SIGKILL,
	}})
	if err != nil {
		return fmt.Errorf("cannot make a user namespace of %d ids from %d: %w", m.UID.Length, m.UID.Host, err)
	}
	defer func() {
		_ = p.Kill()
		_, _ = p.Wait()
	}()
	return fn(func(name string) string { return "/proc/" + strconv.Itoa(p.Pid) + "/ns/" + name })
}

// Open opens the pinned namespace. The caller closes the file.
func (p Pinned) Open() (*os.File, error) {
	f, err := os.OpenFile(p.Path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open user namespace: %w", err)
	}
	return f, nil
}

// Tree makes a mount of the directory dir that is nowhere attached and in
// which the owners are mapped as userns maps them. It ends when the caller
// closes the file, unless it is attached or made a layer before.
func Tree(dir string, userns *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot clone the mount of %s: %w", dir, err)
	}
	tree := os.NewFile(uintptr(fd), dir)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = tree.Close()
		return nil, fmt.Errorf("cannot map the owners of %s: the file system or the kernel may not be able to: %w", dir, err)
	}
	return tree, nil
}
