package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// Residue lists what the lab has in the kernel at this moment: mounts,
// cgroups, interfaces, nftables tables and processes. Each is found by the
// lab's name, so that docker or another lab beside it does not disturb.
func (l *Lab) Residue() []string {
	var left []string
	for _, m := range l.mounts() {
		left = append(left, "mount "+m)
	}
	for _, c := range l.cgroups() {
		left = append(left, "cgroup "+c)
	}
	for _, i := range l.interfaces() {
		left = append(left, "interface "+i.Attrs().Name)
	}
	for _, t := range l.tables() {
		left = append(left, "nftables table "+t.Name)
	}
	for _, pid := range l.processes() {
		left = append(left, fmt.Sprintf("process %d (%s)", pid, cmdline(pid)))
	}
	return left
}

// OfPods lists those things of Residue that only pods have: everything but
// the daemon, the shim, the registry, and the node's bridge, rules and mounts
// of the state directory itself.
func (l *Lab) OfPods() []string {
	var left []string
	for _, m := range l.mounts() {
		if m != l.State && m != l.Root && m != filepath.Join(l.State, "netns") {
			left = append(left, "mount "+m)
		}
	}
	for _, c := range l.cgroups() {
		if filepath.Base(c) != l.Name {
			left = append(left, "cgroup "+c)
		}
	}
	for _, i := range l.interfaces() {
		if i.Attrs().Name != l.Bridge {
			left = append(left, "interface "+i.Attrs().Name)
		}
	}
	for _, pid := range l.processes() {
		if l.inCgroup(pid) {
			left = append(left, fmt.Sprintf("process %d (%s)", pid, cmdline(pid)))
		}
	}
	return left
}

// takeDown removes what a node keeps while it has no pods: shim processes,
// bridge, tables, mounts of the state directory, the parent cgroup.
func (l *Lab) takeDown() error {
	for _, pid := range l.processes() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	err := Eventually(context.Background(), 10*time.Second, func() error {
		if left := l.processes(); len(left) > 0 {
			return fmt.Errorf("%d processes do not end", len(left))
		}
		return nil
	})
	errs := []error{err}
	for _, i := range l.interfaces() {
		errs = append(errs, netlink.LinkDel(i))
	}
	if tables := l.tables(); len(tables) > 0 {
		conn := &nftables.Conn{}
		for _, t := range tables {
			conn.DelTable(t)
		}
		errs = append(errs, conn.Flush())
	}
	mounts := l.mounts()
	slices.Reverse(mounts) // the last mounted first
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("cannot unmount %s: %w", m, err))
		}
	}
	cgroups := l.cgroups()
	slices.Reverse(cgroups) // children first
	for _, c := range cgroups {
		err := Eventually(context.Background(), 2*time.Second, func() error { return os.Remove(c) })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// under tells whether path is one of the lab's directories or below one.
func (l *Lab) under(path string) bool {
	for _, dir := range []string{l.Dir, l.State} {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

func (l *Lab) mounts() []string {
	var found []string
	for _, m := range mountTable() {
		if l.under(m.Target) {
			found = append(found, m.Target)
		}
	}
	return found
}

func mountTable() []mount.Info {
	table, err := mount.Table()
	if err != nil {
		panic(err) // no /proc: nothing here can work
	}
	return table
}

func (l *Lab) cgroups() []string {
	var found []string
	for _, m := range mountTable() {
		if !strings.HasPrefix(m.FSType, "cgroup") {
			continue
		}
		_ = filepath.WalkDir(filepath.Join(m.Target, l.CgroupParent), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				found = append(found, path)
			}
			return nil // what vanishes meanwhile is not left
		})
	}
	return found
}

func (l *Lab) interfaces() []netlink.Link {
	links, err := netlink.LinkList()
	if err != nil {
		return nil
	}
	bridge := -1
	for _, link := range links {
		if link.Attrs().Name == l.Bridge {
			bridge = link.Attrs().Index
		}
	}
	var found []netlink.Link
	for _, link := range links {
		a := link.Attrs()
		if a.Name == l.Bridge || (bridge > 0 && a.MasterIndex == bridge) {
			found = append(found, link)
		}
	}
	return found
}

func (l *Lab) tables() []*nftables.Table {
	tables, err := (&nftables.Conn{}).ListTables()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(tables, func(t *nftables.Table) bool { return !strings.Contains(t.Name, l.Name) })
}

// processes are the lab's, but this one: those in its cgroups and those that
// were started with one of its paths.
func (l *Lab) processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() && l.owns(pid) {
			found = append(found, pid)
		}
	}
	return found
}

func (l *Lab) owns(pid int) bool {
	if l.inCgroup(pid) {
		return true
	}
	// Of the others only our own programs: not an editor that shows our log.
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	switch name := strings.TrimSuffix(filepath.Base(exe), " (deleted)"); {
	case strings.HasPrefix(exe, "/memfd:"), strings.HasPrefix(name, "berth"), name == "docker-registry":
	default:
		return false
	}
	line := cmdline(pid)
	return strings.Contains(line, l.Dir+"/") || strings.Contains(line, l.State)
}

func (l *Lab) inCgroup(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && (strings.Contains(string(data), l.CgroupParent+"/") || strings.Contains(string(data), l.CgroupParent+"\n"))
}

func cmdline(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
}
