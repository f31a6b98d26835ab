// Package netns makes, enters and removes the pinned namespaces of a pod.
//
// The model: a namespace lives as long as something holds it, and what holds a
// pod's is a bind mount of its nsfs file at a path the caller chose. No process
// is needed, so a pod's network is there before the first container and after
// the last one.
//
// The law: Create leaves every asked-for path mounted or none at all; Remove
// may be called on any of them, at any time, any number of times. Work inside a
// namespace is done on a thread that is thrown away afterwards: a thread never
// comes back to the Go scheduler in a namespace that is not the daemon's.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/mount"
	"github.com/berth-runtime/berth/runtime/sys/thread"
)

// loopbackIndex is the index of lo in every network namespace; the kernel
// refuses to boot otherwise (net/core/dev.c, LOOPBACK_IFINDEX).
const loopbackIndex = 1

// Spec says which namespaces to make and what to set in them.
type Spec struct {
	Net, IPC, UTS string            // where to pin each; empty: do not make this one
	Hostname      string            // set in the new UTS namespace; empty: leave the host's
	Sysctls       map[string]string // by dotted name; only of namespaces that are made
	// User is a user namespace to make and pin too, which then owns the
	// others; nil: the host's owns them.
	User *idmap.Pinned
	// OwnQueues gives the file system of the IPC namespace's message queues to
	// root of User, who may give it a label of SELinux then, as libcontainer does
	// for each container. Its owner is whoever made the namespace: the host's root.
	OwnQueues bool
}

// namespace is one kind of namespace: its flag for unshare, its name in
// /proc/thread-self/ns, and where it shall be pinned.
type namespace struct {
	flag   int
	name   string
	target string
}

func (s Spec) namespaces() []namespace {
	var out []namespace
	if s.User != nil {
		out = append(out, namespace{unix.CLONE_NEWUSER, "user", s.User.Path})
	}
	for _, n := range []namespace{
		{unix.CLONE_NEWNET, "net", s.Net},
		{unix.CLONE_NEWIPC, "ipc", s.IPC},
		{unix.CLONE_NEWUTS, "uts", s.UTS},
	} {
		if n.target != "" {
			out = append(out, n)
		}
	}
	return out
}

// Create makes the namespaces of s and pins them. The directories of the
// paths must exist, the paths must not: a name in use is errkind.AlreadyExists.
// A sysctl that does not belong to a namespace being made is
// errkind.InvalidArgument, found before anything is made.
func Create(s Spec) (err error) {
	sysctls, err := s.sysctlPaths()
	if err != nil {
		return err
	}
	if s.Hostname != "" && s.UTS == "" {
		return errkind.New(errkind.InvalidArgument, "cannot set hostname %s: the pod has no UTS namespace of its own", s.Hostname)
	}
	wanted := s.namespaces()
	if len(wanted) == 0 {
		return nil
	}
	var pinned []string
	defer func() {
		if err != nil {
			err = errors.Join(err, Remove(pinned...))
		}
	}()
	for _, n := range wanted {
		if err := touch(n.target); err != nil {
			return err
		}
		pinned = append(pinned, n.target)
	}
	return s.make(wanted, sysctls)
}

// make does the work of Create on a thread that is spoilt by it.
func (s Spec) make(wanted []namespace, sysctls []sysctl) error {
	flags := 0
	for _, n := range wanted {
		flags |= n.flag
	}
	if s.User == nil {
		return thread.Throwaway(func() error {
			if err := unix.Unshare(flags); err != nil {
				return fmt.Errorf("cannot make namespaces (flags %#x): %w", flags, err)
			}
			return s.setUp(wanted, sysctls, func(name string) string { return "/proc/thread-self/ns/" + name })
		})
	}
	return idmap.With(s.User.Map, uintptr(flags), func(path func(string) string) error {
		for _, n := range wanted {
			if err := enter(path(n.name), n.flag); err != nil {
				return err
			}
		}
		return s.setUp(wanted, sysctls, path)
	})
}

// enter moves the calling thread into a new namespace of a pod, but for the
// user namespace: no thread of a Go program can enter one, and root need not.
func enter(path string, flag int) error {
	if flag == unix.CLONE_NEWUSER {
		return nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open namespace %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, flag); err != nil {
		return fmt.Errorf("cannot enter namespace %s: %w", path, err)
	}
	return nil
}

// setUp makes the new namespaces that the calling thread is in ready for use
// and pins them, by the paths that path gives for their names.
func (s Spec) setUp(wanted []namespace, sysctls []sysctl, path func(name string) string) error {
	if s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("cannot set hostname %s: %w", s.Hostname, err)
		}
	}
	if s.Net != "" {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	if s.OwnQueues && s.User != nil && s.IPC != "" {
		if err := giveQueues(s.User.Map); err != nil {
			return err
		}
	}
	for _, c := range sysctls {
		write := c.write
		if s.User != nil && c.kind == "IPC" {
			write = func() error { return asRootOf(s.User.Map, c.write) }
		}
		if err := write(); err != nil {
			return err
		}
	}
	// Pinned last: a path that is mounted names a namespace that is ready.
	for _, n := range wanted {
		if err := mount.Bind(path(n.name), n.target, 0); err != nil {
			return err
		}
	}
	return nil
}

// giveQueues changes the owner of the root of the mqueue file system, of which
// each IPC namespace has one. The calling thread is in the namespace.
func giveQueues(m idmap.Map) error {
	queues, err := openQueues()
	if err == nil {
		defer func() { _ = unix.Close(queues) }()
		uid, gid := m.Owner(0, 0)
		err = unix.Fchownat(queues, "", uid, gid, unix.AT_EMPTY_PATH)
	}
	if err != nil {
		return fmt.Errorf("cannot give the message queues to the pod's root: %w", err)
	}
	return nil
}

// openQueues opens that root, without mounting it anywhere.
func openQueues() (int, error) {
	conf, err := unix.Fsopen("mqueue", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(conf) }()
	if err := unix.FsconfigCreate(conf); err != nil {
		return -1, err
	}
	return unix.Fsmount(conf, unix.FSMOUNT_CLOEXEC, 0)
}

func loopbackUp() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot open netlink in the new network namespace: %w", err)
	}
	defer h.Close()
	if err := h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopbackIndex}}); err != nil {
		return fmt.Errorf("cannot bring lo up: %w", err)
	}
	return nil
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o444)
	if errors.Is(err, fs.ErrExist) {
		return errkind.New(errkind.AlreadyExists, "cannot pin a namespace at %s: the path is in use", path)
	}
	if err != nil {
		return fmt.Errorf("cannot pin a namespace: %w", err)
	}
	return f.Close()
}

// Remove unpins the namespaces at paths and removes the files. What is absent
// or empty is skipped; the first failure does not keep the rest from being tried.
func Remove(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if p == "" {
			continue
		}
		if err := mount.Unmount(p); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("cannot remove namespace file: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Do runs fn in the network namespace pinned at path. A path that is absent or
// holds no network namespace is errkind.NotFound.
func Do(path string, fn func() error) (err error) {
	Each([]string{path}, func(_ int, entered error) {
		if err = entered; err == nil {
			err = fn()
		}
	})
	return err
}

// Each runs fn in the network namespace pinned at each of paths in turn, all on
// one thread, which is most of what Do costs. fn is told of the place in paths,
// and of the error of a namespace that could not be entered: it is somewhere
// else then.
func Each(paths []string, fn func(n int, entered error)) {
	_ = thread.Throwaway(func() error {
		for n, path := range paths {
			fn(n, enterNetwork(path))
		}
		return nil
	})
}

func enterNetwork(path string) error {
	err := enter(path, unix.CLONE_NEWNET)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return errkind.New(errkind.NotFound, "no network namespace is pinned there: %w", err)
	}
	return err
}
