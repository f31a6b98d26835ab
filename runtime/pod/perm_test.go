package pod_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/berth-runtime/berth/runtime/spec"
)

// T-PERM. CVE-2021-41103, CVE-2021-41091, CVE-2024-25621: a user of the host
// who knows a container's id (the mount table tells it) reaches neither its
// programs, of which one may be set-user-ID root, nor its files.
func TestHostUsersReachNoContainer(t *testing.T) {
	n := newVolumeNode(t)
	n.images.config.Volumes = []string{"/data"}
	for name, change := range map[string]func(*spec.Pod, *spec.Container){"plain": func(*spec.Pod, *spec.Container) {}, "mapped": inUserns} {
		podID, id := n.start(t, name, func(p *spec.Pod, c *spec.Container) {
			change(p, c)
			p.Namespaces.PID = spec.ModePod // which has an init, with a root of its own
			c.Mounts = []spec.Mount{imageMount("/image", "busybox", "")}
		})
		bundle, state := filepath.Join(n.cfg.State, "containers", id), filepath.Join(n.cfg.State, "pods", podID)
		for _, path := range []string{filepath.Join(bundle, "rootfs/bin/sh"), filepath.Join(bundle, "images/0/bin/sh"), filepath.Join(bundle, "config.json"),
			filepath.Join(n.cfg.Root, "volumes", id, "0"), filepath.Join(state, "shm"), filepath.Join(state, "hosts"), filepath.Join(state, "init/rootfs")} {
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: the test has the wrong path: %v", name, err)
			}
			cmd := exec.Command("/bin/busybox", "stat", path)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			if out, err := cmd.CombinedOutput(); err == nil {
				t.Errorf("%s: nobody of the host reaches %s: %s", name, path, out)
			}
		}
		cmd := exec.Command(filepath.Join(bundle, "rootfs/bin/sh"), "-c", "exit 0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if err := cmd.Run(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: nobody of the host executes the container's program: %v", name, err)
		}
	}
}
