//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// shellWithVolumes pushes and pulls an image of several layers with a shell,
// a user's own file, a root directory of another group, and two volumes.
func shellWithVolumes(t *testing.T, n *node) string {
	t.Helper()
	base, err := testimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	img, err := testimage.Image{
		Config: v1.Config{Volumes: map[string]struct{}{"/var/lib/data": {}, "/var/new": {}}, Env: []string{"PATH=/bin"}},
		Layers: []testimage.Layer{
			base,
			{Files: []testimage.File{{Path: "/", Dir: true, Mode: 0o750, GID: 7},
				{Path: "/var/lib/data/seed", UID: 33, GID: 34, Data: "seed\n"}}},
			{Files: []testimage.File{{Path: "/home/u", Dir: true, UID: 1000, GID: 1000}, {Path: "/home/u/file", UID: 1000, GID: 1000, Data: "old\n"}, {Path: "/etc/passwd", Data: "root:x:0:0::/:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n"}}},
		},
	}.Build()
	if err != nil {
		t.Fatal(err)
	}
	ref := n.Registry + "/owners:1"
	if _, err := testimage.Push(t.Context(), ref, img); err != nil {
		t.Fatal(err)
	}
	n.crictl("pull", ref)
	return ref
}

// inUserns gives a pod and its container a user namespace, and every mount the
// mapping, as the kubelet does.
func inUserns(pod *criv1.PodSandboxConfig, c *criv1.ContainerConfig) {
	ids := []*criv1.IDMapping{{HostId: 1 << 20, Length: 65536}}
	ns := &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: ids, Gids: ids}
	pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = ns
	c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = ns
	for _, m := range c.Mounts {
		m.UidMappings, m.GidMappings = ids, ids
	}
}

// TestUserNamespaces runs an image of several layers in a pod with a user
// namespace: owners on both sides, volumes of all kinds, another user, stats,
// and a daemon that is killed meanwhile.
func TestUserNamespaces(t *testing.T) {
	matrix(t, func(t *testing.T, n *node) {
		st, err := n.runtime().Status(t.Context(), &criv1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range st.RuntimeHandlers {
			if !h.Features.GetUserNamespaces() {
				t.Fatalf("handler %q has no user namespaces here: %v", h.Name, h.Features)
			}
		}
		ref := shellWithVolumes(t, n)
		data, _ := dataImage(t, n)
		host := filepath.Join(n.Dir, "host")
		if err := os.Mkdir(host, 0o755); err != nil {
			t.Fatal(err)
		}
		sandbox, config := n.podConfig("mapped"), lab.ContainerConfig("c", ref, "sh", "-c", "echo started; trap 'exit 5' TERM; while :; do sleep 0.1; done")
		config.Mounts = []*criv1.Mount{imageMount("/data", data, ""), {ContainerPath: "/host", HostPath: host}}
		inUserns(sandbox, config)
		pod, id, err := n.RunPod(t.Context(), sandbox, config)
		if err != nil {
			t.Fatal(err)
		}
		says := func(want, script string) {
			t.Helper()
			if got := n.crictl("exec", "-s", id, "sh", "-c", script); got != want {
				t.Errorf("%s: %q, want %q", script, got, want)
			}
		}
		says("0 1048576 65536", "read a b c </proc/self/uid_map; echo $a $b $c")
		says("0:7 750", "stat -c '%u:%g %a' /")
		says("0:0 1000:1000 1000:1000 33:34 0:0 0:0 0:0 0:0", "echo $(stat -c %u:%g /bin/sh /home/u /home/u/file /var/lib/data/seed /var/new /data/model/weights /host /etc/hosts)")
		says("seed more", "echo more >>/home/u/file && echo more >/var/lib/data/x && echo x >/var/new/x && echo x >/host/x && echo $(cat /var/lib/data/seed /var/lib/data/x)")
		for what, owner := range map[string]string{"s/" + id + "/fs/home/u/file": "1049576:1049576", "s/" + id + "/fs": "1048576:1048583"} {
			if got := owners(t, filepath.Join(n.Root, "images", what)); got != owner {
				t.Errorf("%s belongs to %s on the host, want %s", what, got, owner)
			}
		}
		if got := owners(t, filepath.Join(host, "x")); got != "0:0" {
			t.Errorf("the volume's file belongs to %s on the host", got)
		}

		n.Kill()
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		says("0:7 750", "stat -c '%u:%g %a' /")
		status, err := n.runtime().PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil || status.Status.Linux.Namespaces.Options.UsernsOptions.GetUids()[0].GetHostId() != 1<<20 {
			t.Errorf("after a crash of the daemon: %v, %v", status.GetStatus(), err)
		}
		stats, err := n.runtime().ContainerStats(t.Context(), &criv1.ContainerStatsRequest{ContainerId: id})
		if err != nil || stats.Stats.WritableLayer.GetUsedBytes().GetValue() == 0 || stats.Stats.Memory.GetWorkingSetBytes().GetValue() == 0 {
			t.Errorf("stats: %v, %v", stats, err)
		}
		n.secondUser(sandbox, pod, ref)
		if _, err := n.runtime().StopContainer(t.Context(), &criv1.StopContainerRequest{ContainerId: id, Timeout: 30}); err != nil {
			t.Fatal(err)
		}
		if s := n.status(id); s.ExitCode != 5 {
			t.Errorf("exit code %d, want that of the program's own handler", s.ExitCode)
		}
	})
}

// secondUser runs a container of the image's user u in the same pod.
func (n *node) secondUser(sandbox *criv1.PodSandboxConfig, pod, ref string) {
	n.t.Helper()
	config := lab.ContainerConfig("second", ref, "sh", "-c", "id -u; id -g; cat /home/u/file; echo mine >>/home/u/file && echo wrote")
	inUserns(sandbox, config)
	config.Linux.SecurityContext.RunAsUsername = "u"
	config.Linux.SecurityContext.NoNewPrivs = true
	// The root directory is closed to others: 0750 of group 7.
	config.Linux.SecurityContext.SupplementalGroups = []int64{7}
	c, err := n.runtime().CreateContainer(n.t.Context(), &criv1.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: sandbox})
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := n.runtime().StartContainer(n.t.Context(), &criv1.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		n.t.Fatal(err)
	}
	n.eventually(func() error {
		if s := n.status(c.ContainerId); s.State != criv1.ContainerState_CONTAINER_EXITED {
			return fmt.Errorf("it is %s", s.State)
		}
		return nil
	})
	if log := strings.Fields(n.crictl("logs", c.ContainerId)); strings.Join(log, " ") != "1000 1000 old wrote" {
		n.t.Errorf("the user's container said %q", log)
	}
}

// owners gives user and group of a file of the host.
func owners(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}
