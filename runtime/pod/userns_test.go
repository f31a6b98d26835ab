package pod_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
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
			if !ownedBy(t, filepath.Join(proc, "ns", ns), filepath.Join(n.cfg.State, "pods", podID, "ns", "user")) {
				t.Errorf("the %s namespace is not owned by the pod's user namespace", ns)
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

// ownedBy tells whether the user namespace at user owns the namespace at path.
func ownedBy(t *testing.T, path, user string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	owner, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(owner) }()
	var got, want unix.Stat_t
	if err := errors.Join(unix.Fstat(owner, &got), unix.Stat(user, &want)); err != nil {
		t.Fatal(err)
	}
	return got.Ino == want.Ino
}
