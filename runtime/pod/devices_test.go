package pod_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// hostDevice finds a device that whoever has its node may open, and that no
// container has by itself. The number is as stat prints it, in hex.
func hostDevice(t *testing.T) (path, number string) {
	t.Helper()
	for _, path := range []string{"/dev/fuse", "/dev/loop-control", "/dev/net/tun"} {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
			return path, fmt.Sprintf("%x:%x", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
	}
	t.Skip("the machine has neither /dev/fuse nor /dev/loop-control nor /dev/net/tun")
	return "", ""
}

// mknod makes the same device at path.
func mknod(t *testing.T, host, path string, perm uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(path, unix.S_IFCHR|perm, int(st.Rdev)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, os.FileMode(perm)); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func askDevice(host, path, permissions string) func(*spec.Pod, *spec.Container) {
	return func(_ *spec.Pod, c *spec.Container) {
		c.Devices = append(c.Devices, spec.Device{HostPath: host, ContainerPath: path, Permissions: permissions})
	}
}

// T-SPEC: a container can use the devices it was given, as it was given them,
// and none besides (GHSA-g54h-m393-cpwq: the list is what is allowed).
func TestDevicePermissions(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	host, number := hostDevice(t)
	dec := func(hex string) string { return "$((0x" + strings.Replace(hex, ":", ")) $((0x", 1) + "))" }(number)
	const (
		read  = ": </dev/theirs"
		write = ": >>/dev/theirs"
	)
	// libcontainer lets everyone make nodes, who has CAP_MKNOD; using them is
	// what the rules are about.
	made := "mknod /made c " + dec + " && : </made"
	for _, tc := range []struct {
		permissions     string
		allowed, denied []string
	}{
		{"r", []string{read, made}, []string{write}},
		{"w", []string{write}, []string{read, made}},
		{"m", nil, []string{read, write, made}},
		{"rwm", []string{read, write, made}, nil},
		{"", []string{read, write, made}, nil},
	} {
		_, id := n.start(t, "device-"+tc.permissions, askDevice(host, "/dev/theirs", tc.permissions))
		for _, script := range tc.allowed {
			if out, code := n.sh(t, id, script); code != 0 {
				t.Errorf("%q: %s: %s", tc.permissions, script, out)
			}
		}
		for _, script := range tc.denied {
			n.wantRefused(t, id, script, "Operation not permitted")
		}
	}
	_, id := n.start(t, "none", func(*spec.Pod, *spec.Container) {})
	n.wantRefused(t, id, made, "Operation not permitted")
	n.wantSh(t, id, "cat /dev/null && head -c 4 /dev/zero | wc -c", "4")
}

// A directory stands for all devices below it, at any depth; links on the way
// to a device or a directory are followed on the host.
func TestDeviceDirectoriesAndLinks(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	host, number := hostDevice(t)
	dir := t.TempDir()
	mknod(t, host, filepath.Join(dir, "real/a"), 0o640)
	mknod(t, host, filepath.Join(dir, "real/deep/er/b"), 0o606)
	writeFile(t, filepath.Join(dir, "real/deep/notes"), "no device")
	for from, to := range map[string]string{"dir-link": "real", "a-link": "real/a", "way": "real/deep"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	_, id := n.start(t, "directory", func(p *spec.Pod, c *spec.Container) {
		askDevice(filepath.Join(dir, "dir-link"), "/dev/all", "r")(p, c)
		askDevice(filepath.Join(dir, "a-link"), "/dev/one", "rw")(p, c)
		askDevice(filepath.Join(dir, "way/er/b"), "/opt/devices/two", "r")(p, c)
	})
	n.wantSh(t, id, "for d in /dev/all/a /dev/all/deep/er/b /dev/one /opt/devices/two; do stat -c '%n %a %t:%T' $d; done", strings.Join([]string{
		"/dev/all/a 640 " + number, "/dev/all/deep/er/b 606 " + number, "/dev/one 640 " + number, "/opt/devices/two 606 " + number}, "\n"))
	n.wantSh(t, id, "ls /dev/all/deep", "er")
}

// In a user namespace nobody can make a node: the host's are bound. The rules
// are the same.
func TestDevicesInAUserNamespace(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	host, number := hostDevice(t)
	node := filepath.Join(t.TempDir(), "node")
	mknod(t, host, node, 0o666)
	_, id := n.start(t, "mapped", func(p *spec.Pod, c *spec.Container) {
		inUserns(p, c)
		askDevice(node, "/dev/theirs", "r")(p, c)
	})
	n.wantSh(t, id, "stat -c %t:%T /dev/theirs; : </dev/theirs && echo readable", number+"\nreadable")
	n.wantRefused(t, id, ": >>/dev/theirs", "Operation not permitted")
	n.wantRefused(t, id, "mknod /made c 1 3", "Operation not permitted")
}

func TestDevicesThatAreNone(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	dir := t.TempDir()
	plain, dangling := filepath.Join(dir, "plain"), filepath.Join(dir, "dangling")
	writeFile(t, plain, "no device")
	if err := os.Symlink("/no/such", dangling); err != nil {
		t.Fatal(err)
	}
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("none"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/dev/no-such-device", plain, dangling} {
		c := containerConfig("main", "/bin/sleep", "1")
		c.Devices = []spec.Device{{HostPath: path, ContainerPath: "/dev/x", Permissions: "r"}}
		_, err := n.Create(t.Context(), pod.ViewAll, podID, c)
		if !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want InvalidArgument that names it", path, err)
		}
	}
	if problems, err := n.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("left behind: %v, %v", problems, err)
	}
}
