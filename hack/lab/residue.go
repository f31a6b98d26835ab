package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
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
		if filepath.Base(c) != filepath.Base(l.CgroupParent) {
			left = append(left, "cgroup "+c)
		}
	}
	for _, i := range l.interfaces() {
		if i.Attrs().Name != l.Bridge && i.Type() != "bridge" {
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
	errs := []error{err, l.Inside(l.takeDownNetwork)}
	mounts := l.mounts()
	slices.Reverse(mounts) // the last mounted first
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("cannot unmount %s: %w", m, err))
		}
	}
	if SystemdRuns() {
		// Its unit, which would outlive the group. One that is not there is as good.
		_ = exec.Command("systemctl", "stop", filepath.Base(l.CgroupParent)).Run()
	}
	cgroups := l.cgroups()
	slices.Reverse(cgroups) // children first
	for _, c := range cgroups {
		err := Eventually(context.Background(), 2*time.Second, func() error {
			if err := os.Remove(c); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil // the last process of a unit takes its group along
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (l *Lab) takeDownNetwork() error {
	var errs []error
	for _, i := range l.interfaces() {
		if err := netlink.LinkDel(i); err != nil && !errors.Is(err, unix.ENODEV) { // one end took the other along
			errs = append(errs, err)
		}
	}
	if tables := l.tables(); len(tables) > 0 {
		conn := &nftables.Conn{}
		for _, t := range tables {
			conn.DelTable(t)
		}
		errs = append(errs, conn.Flush())
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
		if l.under(m.Target) && (l.net == nil || m.Target != l.net.path) {
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
	var links []netlink.Link
	err := l.Inside(func() (err error) {
		// A list that changes while it is read comes in part, and says so.
		for range 100 {
			if links, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
				break
			}
		}
		return err
	})
	if err != nil {
		return nil
	}
	if l.net != nil { // whatever is in there is the lab's, but what the kernel made
		return slices.DeleteFunc(links, func(k netlink.Link) bool { return k.Type() == "device" || slices.Contains(kernels, k.Attrs().Name) })
	}
	bridges := map[int]bool{} // the usual one, and those of networks that were made
	for _, link := range links {
		if a := link.Attrs(); a.Name == l.Bridge || strings.HasPrefix(a.Name, l.Bridge+"-") {
			bridges[a.Index] = true
		}
	}
	return slices.DeleteFunc(links, func(k netlink.Link) bool { return !bridges[k.Attrs().Index] && !bridges[k.Attrs().MasterIndex] })
}

// kernels are the interfaces that a kernel with such modules puts into every new
// network namespace.
var kernels = []string{"tunl0", "sit0", "ip6tnl0", "ip_vti0", "ip6_vti0", "gre0", "gretap0", "erspan0", "ip6gre0", "dummy0"}

func (l *Lab) tables() []*nftables.Table {
	var tables []*nftables.Table
	err := l.Inside(func() (err error) {
		tables, err = (&nftables.Conn{}).ListTables()
		return err
	})
	if err != nil {
		return nil
	}
	if l.net != nil {
		return tables
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
	case strings.HasPrefix(exe, "/memfd:"), strings.HasPrefix(name, "berth"), name == "docker-registry", strings.HasPrefix(name, "kube"), name == "etcd":
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

// podRules lists the rules of nftables that are about one pod: those of the
// reference plugins have its id in the comment, ours say so.
func podRules() ([]string, error) {
	conn := &nftables.Conn{}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, c := range chains {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			if ofPod.MatchString(comment) {
				out = append(out, fmt.Sprintf("rule %q of chain %s of table %s", comment, c.Name, c.Table.Name))
			}
		}
	}
	return out, nil
}

// ofPod finds the begin of a pod's id, and the words of our own rules.
var ofPod = regexp.MustCompile(`\b[0-9a-f]{12}|of pod `)
