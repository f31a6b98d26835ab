package netns

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
)

// sysctl is a checked setting: path lies below /proc/sys and belongs to a
// namespace of the pod, of the given kind.
type sysctl struct{ name, path, kind, value string }

// namespaced lists the sysctls that the kernel keeps per namespace. A trailing
// star makes an entry a prefix.
var namespaced = []struct{ pattern, kind string }{
	{"net/*", "network"},
	{"kernel/shm*", "IPC"},
	{"kernel/msg*", "IPC"},
	{"kernel/sem", "IPC"},
	{"kernel/sem_next_id", "IPC"},
	{"fs/mqueue/*", "IPC"},
	{"kernel/domainname", "UTS"},
}

// sysctlPaths checks s.Sysctls and returns them in the order of their names,
// so that two pods with the same settings are made the same way.
func (s Spec) sysctlPaths() ([]sysctl, error) {
	made := map[string]bool{"network": s.Net != "", "IPC": s.IPC != "", "UTS": s.UTS != ""}
	var out []sysctl
	for _, name := range slices.Sorted(maps.Keys(s.Sysctls)) {
		path, why := sysctlPath(name)
		if why != "" {
			return nil, errkind.New(errkind.InvalidArgument, "cannot set sysctl %q: %s", name, why)
		}
		if strings.HasPrefix(path, "user/") {
			return nil, errkind.New(errkind.InvalidArgument, "cannot set sysctl %s: only a process of a user namespace can set what is limited in it", name)
		}
		kind := namespaceOf(path)
		if kind == "" {
			return nil, errkind.New(errkind.InvalidArgument, "cannot set sysctl %s: it is not namespaced, it would change the whole host", name)
		}
		if !made[kind] {
			return nil, errkind.New(errkind.InvalidArgument, "cannot set sysctl %s: the pod has no %s namespace of its own", name, kind)
		}
		// A value goes to one file as it is, so no character of it can make a
		// second setting (CVE-2022-0811); a second line is a mistake all the same.
		if strings.ContainsFunc(strings.TrimSuffix(s.Sysctls[name], "\n"), func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) {
			return nil, errkind.New(errkind.InvalidArgument, "cannot set sysctl %s: the value %q has a control character", name, s.Sysctls[name])
		}
		out = append(out, sysctl{name: name, path: path, kind: kind, value: s.Sysctls[name]})
	}
	return out, nil
}

// sysctlPath turns a name into a path below /proc/sys the way sysctl(8) does:
// the first separator found separates, the other one is part of a component
// (net.ipv4.conf.eth0/100.forwarding is about the interface eth0.100).
func sysctlPath(name string) (path, why string) {
	for _, r := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789._/-", r) {
			return "", fmt.Sprintf("the name holds %q, only a-z, 0-9 and . _ / - are allowed", r)
		}
	}
	path = name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	for c := range strings.SplitSeq(path, "/") {
		if c == "" || c == "." || c == ".." {
			return "", "the name has an empty or a dotted component"
		}
	}
	return path, ""
}

func namespaceOf(path string) string {
	for _, n := range namespaced {
		prefix, isPrefix := strings.CutSuffix(n.pattern, "*")
		if path == n.pattern || isPrefix && strings.HasPrefix(path, prefix) {
			return n.kind
		}
	}
	return ""
}

// asRootOf runs fn with the effective ids, of the calling thread alone, that
// root of a user namespace has on the host. The kernel asks for those of whoever
// opens a sysctl of an IPC namespace, whatever its capabilities (ipc/ipc_sysctl.c,
// ipc_permissions), and for a capability with those of a network namespace.
func asRootOf(m idmap.Map, fn func() error) (err error) {
	uid, gid := m.Owner(0, 0)
	// By raw calls: the wrappers change all threads.
	set := func(nr uintptr, id int) error {
		if _, _, errno := unix.RawSyscall(nr, ^uintptr(0), uintptr(id), ^uintptr(0)); errno != 0 {
			return fmt.Errorf("cannot take the identity of the pod's root: %w", errno)
		}
		return nil
	}
	if err := errors.Join(set(unix.SYS_SETRESGID, gid), set(unix.SYS_SETRESUID, uid)); err != nil {
		return err
	}
	return errors.Join(fn(), set(unix.SYS_SETRESUID, 0), set(unix.SYS_SETRESGID, 0))
}

// write sets the sysctl in the namespaces of the calling thread: /proc/sys
// shows net, kernel and fs.mqueue of whoever opens it, per thread.
func (c sysctl) write() error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", c.path), os.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return errkind.New(errkind.InvalidArgument, "cannot set sysctl %s: this kernel has none of that name", c.name)
	}
	if err != nil {
		return fmt.Errorf("cannot set sysctl %s: %w", c.name, err)
	}
	_, err = f.WriteString(c.value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE) {
		return errkind.New(errkind.InvalidArgument, "cannot set sysctl %s: the kernel does not take the value %q", c.name, c.value)
	}
	if err != nil {
		return fmt.Errorf("cannot set sysctl %s to %q: %w", c.name, c.value, err)
	}
	return nil
}
