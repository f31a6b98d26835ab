package pod_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/systest"
)

// inUserns gives a pod and its container a user namespace.
func inUserns(p *spec.Pod, c *spec.Container) {
	for _, ns := range []*spec.Namespaces{&p.Namespaces, &c.Security.Namespaces} {
		ns.User = spec.ModePod
		ns.IDs = idmap.Map{UID: idmap.Range{Host: 300000, Length: 65536}, GID: idmap.Range{Host: 400000, Length: 65536}}
	}
}

// TestUserNamespace looks from inside a container and from the host at what
// root of the pod is and may.
func TestUserNamespace(t *testing.T) {
	groups(t, func(t *testing.T, g pod.ShimGroup) {
		n := newNode(t, g)
		podID, id := n.start(t, "mapped", func(p *spec.Pod, c *spec.Container) {
			inUserns(p, c)
			p.Sysctls = map[string]string{"kernel.shmmni": "77", "net.ipv4.ip_forward": "1"}
			c.Security.CapAdd = []string{"NET_ADMIN"}
		})
		n.wantSh(t, id, "read a b c </proc/self/uid_map; read d e f </proc/self/gid_map; echo $a $b $c $d $e $f", "0 300000 65536 0 400000 65536")
		n.wantSh(t, id, "id -u; id -g", "0\n0")
		// Of the namespaces that the user namespace owns, root has the rights.
		n.wantSh(t, id, "cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_forward; hostname", "77\n1\nmapped")
		n.wantSh(t, id, "ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu", "1400")
		// The files of ours are root's, those of the image too, and what root
		// writes belongs to nobody on the host.
		n.wantSh(t, id, "stat -c %u:%g /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /bin/sh / | sort -u", "0:0")
		n.wantSh(t, id, "echo more >>/etc/hosts && echo x >/dev/shm/x && stat -c %u:%g /dev/shm/x", "0:0")
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(n.cfg.State, "pods", podID, "shm", "x"), &st); err != nil || st.Uid != 300000 || st.Gid != 400000 {
			t.Errorf("the host sees the file as %d:%d, %v", st.Uid, st.Gid, err)
		}
		status, err := n.Container(pod.ViewAll, id)
		if err != nil {
			t.Fatal(err)
		}
		proc := filepath.Join("/proc", strconv.Itoa(status.Pid))
		if err := unix.Stat(proc, &st); err != nil || st.Uid != 300000 {
			t.Errorf("the host sees the process as %d, %v", st.Uid, err)
		}
		for _, ns := range []string{"net", "ipc", "uts", "pid", "mnt"} {
			if owned, err := systest.OwnedBy(filepath.Join(proc, "ns", ns), filepath.Join(n.cfg.State, "pods", podID, "ns", "user")); err != nil || !owned {
				t.Errorf("the %s namespace is not owned by the pod's user namespace: %v", ns, err)
			}
		}

		// A daemon that starts anew finds and uses it.
		n.Close()
		n.boot(t)
		n.wantSh(t, id, "id -u; read a b c </proc/self/uid_map; echo $b", "0\n300000")
		c := containerConfig("second", "/bin/sh", "-c", "exit 9")
		inUserns(&spec.Pod{}, &c)
		c.Security.RunAsUser = new(int64)
		*c.Security.RunAsUser = 1000
		second, err := n.Create(t.Context(), pod.ViewAll, podID, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context(), pod.ViewAll, second); err != nil {
			t.Fatal(err)
		}
		if st := n.ended(t, second); st.ExitCode != 9 {
			t.Errorf("the second container exited with %d: %s", st.ExitCode, st.Message)
		}
	})
}

// TestUserNamespaceWith runs user namespaces beside namespaces of every other
// mode that the kernel can have with them.
func TestUserNamespaceWith(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	both := func(p *spec.Pod, c *spec.Container, change func(*spec.Namespaces)) {
		inUserns(p, c)
		change(&p.Namespaces)
		change(&c.Security.Namespaces)
	}
	const id = "id -u; read a b c </proc/self/uid_map; echo $b"
	t.Run("the host's network", func(t *testing.T) {
		_, c := n.start(t, "hostnet", func(p *spec.Pod, c *spec.Container) {
			both(p, c, func(ns *spec.Namespaces) { ns.Network = spec.ModeNode })
			c.Security.CapAdd, c.Security.Seccomp = []string{"ALL"}, nil
		})
		n.wantSh(t, c, id, "0\n300000")
		n.wantSh(t, c, "readlink /proc/self/ns/net", readlink(t, "/proc/self/ns/net"))
		// The host's /sys. With every capability root of the pod may undo the
		// mount's being read-only, and then still owns nothing in it.
		before, inside, after := interfaces(t), strings.Fields(n.shOut(t, c, "ls /sys/class/net")), interfaces(t)
		for _, name := range before {
			// Others may have made and removed some meanwhile.
			if slices.Contains(after, name) && !slices.Contains(inside, name) {
				t.Errorf("the container does not see the host's interface %s among %q", name, inside)
			}
		}
		n.wantRefused(t, c, "echo 1 >/sys/class/net/lo/mtu", "Read-only file system")
		n.wantRefused(t, c, "mount -o remount,bind,rw /sys; echo 1 >/sys/class/net/lo/mtu", "ermission denied")
		n.wantRefused(t, c, "ip link set lo mtu 1400", "not permitted")
	})
	t.Run("the host's IPC", func(t *testing.T) {
		_, c := n.start(t, "hostipc", func(p *spec.Pod, c *spec.Container) {
			both(p, c, func(ns *spec.Namespaces) { ns.IPC = spec.ModeNode })
		})
		n.wantSh(t, c, id, "0\n300000")
		n.wantSh(t, c, "readlink /proc/self/ns/ipc", readlink(t, "/proc/self/ns/ipc"))
	})
	t.Run("a shared PID namespace", func(t *testing.T) {
		podID, c := n.start(t, "shared", func(p *spec.Pod, c *spec.Container) {
			both(p, c, func(ns *spec.Namespaces) { ns.PID = spec.ModePod })
		})
		n.wantSh(t, c, id, "0\n300000")
		n.wantSh(t, c, "cat /proc/1/comm; stat -c %u /proc/1", "init\n65534")
		if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a namespace smaller than nobody", func(t *testing.T) {
		_, c := n.start(t, "small", func(p *spec.Pod, c *spec.Container) {
			both(p, c, func(ns *spec.Namespaces) { ns.PID, ns.IDs.UID.Length, ns.IDs.GID.Length = spec.ModePod, 3, 4 })
		})
		n.wantSh(t, c, "stat -c %u:%g /proc/1 /dev/pts", "2:2\n0:0")
	})
	t.Run("the PID namespace of a container", func(t *testing.T) {
		podID, target := n.start(t, "target", inUserns)
		cfg := containerConfig("debug", "/bin/sleep", "600")
		inUserns(new(spec.Pod), &cfg)
		cfg.Security.Namespaces.PID, cfg.Security.Namespaces.TargetID = spec.ModeTarget, target
		debug, err := n.Create(t.Context(), pod.ViewAll, podID, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context(), pod.ViewAll, debug); err != nil {
			t.Fatal(err)
		}
		n.wantSh(t, debug, "readlink /proc/1/ns/pid", n.shOut(t, target, "readlink /proc/self/ns/pid"))
	})
	t.Run("privileges", func(t *testing.T) {
		_, c := n.start(t, "privileged", func(p *spec.Pod, c *spec.Container) {
			inUserns(p, c)
			privileged(p, c)
		})
		n.wantSh(t, c, "mkdir /mnt && mount -t tmpfs none /mnt && echo mounted", "mounted")
		n.wantRefused(t, c, "echo 1 >/proc/sys/kernel/panic", "ermission denied")
	})
}

// TestUserNamespaceRefusals: each leaves nothing behind, which the node's end
// tests.
func TestUserNamespaceRefusals(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	p, c := podConfig("hostpid"), containerConfig("main", "/bin/sleep", "600")
	inUserns(&p, &c)
	p.Namespaces.PID = spec.ModeNode
	if _, err := n.Run(t.Context(), pod.ViewAll, p); !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), "hostPID") {
		t.Errorf("with the host's processes: %v", err)
	}
	mapped, _ := n.start(t, "mapped", inUserns)
	plain, _ := n.start(t, "plain", func(*spec.Pod, *spec.Container) {})
	refused := func(what, podID, why string, change func(*spec.Container)) {
		t.Helper()
		cfg := containerConfig("other", "/bin/sleep", "600")
		inUserns(new(spec.Pod), &cfg)
		change(&cfg)
		if _, err := n.Create(t.Context(), pod.ViewAll, podID, cfg); !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want InvalidArgument with %q", what, err, why)
		}
	}
	big := int64(65536)
	refused("the host's, in a pod that has its own", mapped, "not those of its pod", func(c *spec.Container) { c.Security.Namespaces.User = "" })
	refused("its own, in a pod of the host's", plain, "not those of its pod", func(*spec.Container) {})
	refused("another mapping", mapped, "not those of its pod", func(c *spec.Container) { c.Security.Namespaces.IDs.GID.Host = 500000 })
	refused("a user beyond the last", mapped, "no user 65536", func(c *spec.Container) { c.Security.RunAsUser = &big })
	refused("an image of another mapping", mapped, "ImageVolumeMountFailed", func(c *spec.Container) {
		c.Mounts = []spec.Mount{imageMount("/data", "busybox", "")}
		c.Mounts[0].IDs = &idmap.Map{UID: idmap.Range{Length: 1}, GID: idmap.Range{Length: 1}}
	})
}

func readlink(t *testing.T, path string) string {
	t.Helper()
	to, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// interfaces are those of the host, sorted.
func interfaces(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// shOut gives what a script says, which must succeed.
func (n *node) shOut(t *testing.T, id, script string) string {
	t.Helper()
	out, code := n.sh(t, id, script)
	if code != 0 {
		t.Errorf("%s: %q, exit %d", script, out, code)
	}
	return out
}
