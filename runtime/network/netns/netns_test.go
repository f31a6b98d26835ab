package netns

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/systest"
	"github.com/berth-runtime/berth/runtime/sys/thread"
)

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func full(t *testing.T) Spec {
	t.Helper()
	dir := t.TempDir()
	s := Spec{
		Net: filepath.Join(dir, "net"), IPC: filepath.Join(dir, "ipc"), UTS: filepath.Join(dir, "uts"),
		Hostname: "boat",
		Sysctls: map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0",
			"net.ipv4.ping_group_range":           "0 2147483647",
			"kernel.shmmni":                       "77",
			"fs.mqueue.msg_max":                   "11",
			"kernel.domainname":                   "harbour",
		},
	}
	t.Cleanup(func() { _ = Remove(s.Net, s.IPC, s.UTS) })
	return s
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// owned is full in a user namespace.
func owned(t *testing.T) Spec {
	t.Helper()
	s := full(t)
	s.User = &idmap.Pinned{Path: filepath.Join(filepath.Dir(s.IPC), "user"), Map: idmap.Map{
		UID: idmap.Range{Host: 300000, Length: 65536}, GID: idmap.Range{Host: 400000, Length: 65536}}}
	t.Cleanup(func() { _ = Remove(s.User.Path) })
	return s
}

func TestCreateMakesReadyNamespaces(t *testing.T) {
	needsRoot(t)
	t.Run("of the host's user namespace", func(t *testing.T) { createMakesReadyNamespaces(t, full(t)) })
	t.Run("of their own user namespace", func(t *testing.T) {
		s := owned(t)
		createMakesReadyNamespaces(t, s)
		for _, path := range []string{s.Net, s.IPC, s.UTS} {
			if owned, err := systest.OwnedBy(path, s.User.Path); err != nil || !owned {
				t.Errorf("%s is not owned by the pod's user namespace: %v", path, err)
			}
		}
	})
}

func createMakesReadyNamespaces(t *testing.T, s Spec) {
	host, shmmni := read(t, "/proc/sys/kernel/hostname"), read(t, "/proc/sys/kernel/shmmni")
	if err := Create(s); err != nil {
		t.Fatal(err)
	}
	err := thread.Throwaway(func() error {
		for path, flag := range map[string]int{s.Net: unix.CLONE_NEWNET, s.IPC: unix.CLONE_NEWIPC, s.UTS: unix.CLONE_NEWUTS} {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			err = errors.Join(unix.Setns(fd, flag), unix.Close(fd))
			if err != nil {
				return err
			}
		}
		for path, want := range map[string]string{
			"net/ipv4/ip_unprivileged_port_start": "0", "net/ipv4/ping_group_range": "0\t2147483647",
			"kernel/shmmni": "77", "fs/mqueue/msg_max": "11", "kernel/domainname": "harbour", "kernel/hostname": "boat",
		} {
			b, err := os.ReadFile("/proc/sys/" + path)
			if err != nil {
				return err
			}
			if got := strings.TrimSpace(string(b)); got != want {
				t.Errorf("%s is %q, want %q", path, got, want)
			}
		}
		lo, err := net.InterfaceByName("lo")
		if err == nil && lo.Flags&net.FlagUp == 0 {
			t.Error("lo is down")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if read(t, "/proc/sys/kernel/hostname") != host || read(t, "/proc/sys/kernel/shmmni") != shmmni {
		t.Error("the host's own namespaces were changed")
	}
}

func TestCreateOnAUsedPathChangesNothing(t *testing.T) {
	needsRoot(t)
	s := full(t)
	if err := Create(s); err != nil {
		t.Fatal(err)
	}
	second := s
	second.Net = filepath.Join(filepath.Dir(s.Net), "net2")
	if err := Create(second); !errkind.Is(err, errkind.AlreadyExists) {
		t.Fatalf("got %v, want AlreadyExists", err)
	}
	if _, err := os.Lstat(second.Net); !os.IsNotExist(err) {
		t.Errorf("the undone path is still there: %v", err)
	}
	if on, err := systest.Mounted(s.IPC); err != nil || !on {
		t.Errorf("the first pod's IPC namespace is gone (%v)", err)
	}
}

func TestCreateUndoesAFailureInside(t *testing.T) {
	needsRoot(t)
	for name, value := range map[string]string{"net.ipv4.no_such_thing": "1", "net.ipv4.ip_forward": "many", "kernel.sem": "few"} {
		for _, s := range []Spec{full(t), owned(t)} {
			s.Sysctls[name] = value
			if err := Create(s); !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want InvalidArgument that names %s", err, name)
			}
			paths := []string{s.Net, s.IPC, s.UTS}
			if s.User != nil {
				paths = append(paths, s.User.Path)
			}
			for _, p := range paths {
				if _, err := os.Lstat(p); !os.IsNotExist(err) {
					t.Errorf("%s was left behind", p)
				}
			}
		}
	}
}

func TestSysctlsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, why := range map[string]string{
		"vm.overcommit_memory":     "not namespaced",
		"kernel.panic":             "not namespaced",
		"kernel.hostname":          "not namespaced",
		"user.max_net_namespaces":  "only a process of a user namespace",
		"net":                      "not namespaced",
		"net/../kernel/panic":      "dotted component",
		"net.//.kernel.panic":      "dotted component",
		"net..ipv4":                "dotted component",
		"":                         "dotted component",
		"net.ipv4.IP_FORWARD":      "only a-z",
		"net.ipv4.ip_forward\x00x": "only a-z",
		"kernel.shmmax":            "no IPC namespace",
		"kernel.domainname":        "no UTS namespace",
	} {
		err := Create(Spec{Net: filepath.Join(t.TempDir(), "net"), Sysctls: map[string]string{name: "1"}})
		if !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: got %v, want InvalidArgument because of %q", name, err, why)
		}
	}
}

func TestSysctlPathSwapsSeparators(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":                "net/ipv4/ip_forward",
		"net/ipv4/ip_forward":                "net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/100.forwarding":  "net/ipv4/conf/eth0.100/forwarding",
		"net/ipv4/conf/eth0.100/forwarding":  "net/ipv4/conf/eth0.100/forwarding",
		"kernel.shm_rmid_forced":             "kernel/shm_rmid_forced",
		"net.netfilter.nf_conntrack_tcp-abc": "net/netfilter/nf_conntrack_tcp-abc",
	} {
		if got, why := sysctlPath(name); got != want {
			t.Errorf("%s: got %q (%s), want %q", name, got, why, want)
		}
	}
}

func TestRemoveIsIdempotent(t *testing.T) {
	needsRoot(t)
	s := full(t)
	if err := Create(s); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := Remove(s.Net, s.IPC, s.UTS, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := Do(s.Net, func() error { return nil }); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("Do on a removed namespace: got %v, want NotFound", err)
	}
}

func TestDoOnAnOrdinaryFileIsNotFound(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := Do(path, func() error { return nil }); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("got %v, want NotFound", err)
	}
}

// Each is in one namespace after the other, and says of which it could not
// enter that it is not in it.
func TestEachEntersAllThatCanBeEntered(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	paths := []string{filepath.Join(dir, "a"), filepath.Join(dir, "absent"), filepath.Join(dir, "b")}
	for _, n := range []int{0, 2} {
		if err := Create(Spec{Net: paths[n]}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := Remove(paths[n]); err != nil {
				t.Error(err)
			}
		})
	}
	var st unix.Stat_t
	inode := func(path string) uint64 {
		if err := unix.Stat(path, &st); err != nil {
			t.Error(err)
		}
		return st.Ino
	}
	var told []int
	Each(paths, func(n int, err error) {
		told = append(told, n)
		if n == 1 {
			if !errkind.Is(err, errkind.NotFound) {
				t.Errorf("an absent one: %v", err)
			}
			return
		}
		if in, want := inode("/proc/thread-self/ns/net"), inode(paths[n]); err != nil || in != want {
			t.Errorf("in namespace %d: %v, instead of %d", in, err, want)
		}
	})
	if !slices.Equal(told, []int{0, 1, 2}) {
		t.Errorf("told of %v", told)
	}
}

func TestNoThreadComesBackChanged(t *testing.T) {
	needsRoot(t)
	home := func() string {
		s, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		return s
	}
	want := home()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s := Spec{Net: filepath.Join(t.TempDir(), "net")}
			if err := Create(s); err != nil {
				t.Error(err)
				return
			}
			if err := Do(s.Net, func() error {
				if home() == want {
					t.Error("Do ran in the host's namespace")
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			if err := Remove(s.Net); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for range 64 {
		wg.Go(func() {
			if got := home(); got != want {
				t.Errorf("a thread was left in %s", got)
			}
		})
	}
	wg.Wait()
	if got, err := os.Readlink("/proc/self/ns/net"); err != nil || got != want {
		t.Errorf("the main thread is in %s (%v), want %s", got, err, want)
	}
}

// Whoever is to label the message queues must own them, which is nobody of the
// pod's unless it is asked for.
func TestOwnersOfMessageQueues(t *testing.T) {
	needsRoot(t)
	for own, want := range map[bool][2]uint32{false: {0, 0}, true: {300000, 400000}} {
		s := owned(t)
		s.OwnQueues = own
		if err := Create(s); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		err := thread.Throwaway(func() error {
			if err := enter(s.IPC, unix.CLONE_NEWIPC); err != nil {
				return err
			}
			queues, err := openQueues()
			if err != nil {
				return err
			}
			return errors.Join(unix.Fstat(queues, &st), unix.Close(queues))
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]uint32{st.Uid, st.Gid}; got != want {
			t.Errorf("asked for: %v; the owner is %v, want %v", own, got, want)
		}
		if err := Remove(s.Net, s.IPC, s.UTS, s.User.Path); err != nil {
			t.Fatal(err)
		}
	}
}
