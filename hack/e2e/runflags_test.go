//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/hack/lab"
)

// TestRunFlags looks from inside at what docker's flags of run ask for.
func TestRunFlags(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	dir := filepath.Join(n.Dir, "flags")
	put(t, dir+"/mounted/file", "from the host\n")
	labels := put(t, dir+"/labels", "# a comment\ncom.example.a=1\n")
	for name, tc := range map[string]struct {
		flags        []string
		script, want string
	}{
		"ulimit":      {[]string{"--ulimit", "nofile=1024:2048", "--ulimit", "core=0"}, "ulimit -Sn; ulimit -Hn; ulimit -c", "1024\n2048\n0"},
		"shm-size":    {[]string{"--shm-size", "32m"}, "df -k /dev/shm | awk 'END {print $2}'", "32768"},
		"tmpfs":       {[]string{"--tmpfs", "/scratch:size=1m,mode=700"}, "df -k /scratch | awk 'END {print $1, $2}'; stat -c %a /scratch", "tmpfs 1024\n700"},
		"mount tmpfs": {[]string{"--mount", "type=tmpfs,target=/scratch,tmpfs-size=1m"}, "df -k /scratch | awk 'END {print $1, $2}'", "tmpfs 1024"},
		"mount bind": {[]string{"--mount", "type=bind,source=" + dir + "/mounted,target=/m,readonly"},
			"cat /m/file; touch /m/x 2>&1 | grep -o 'Read-only'", "from the host\nRead-only"},
		"mount image": {[]string{"--mount", "type=image,source=" + n.web + ",target=/img"}, "ls -d /img/bin", "/img/bin"},
		"sysctl":      {[]string{"--sysctl", "net.core.somaxconn=200"}, "cat /proc/sys/net/core/somaxconn", "200"},
		"group-add":   {[]string{"-u", "7:8", "--group-add", "42"}, "id -u; id -G", "7\n8 42"},
		"security-opt": {[]string{"--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined"},
			"grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'", "NoNewPrivs:1\nSeccomp:0"},
		"oom-score-adj":     {[]string{"--oom-score-adj", "300"}, "cat /proc/self/oom_score_adj", "300"},
		"init":              {[]string{"--init"}, "cat /proc/1/comm", "init"},
		"hostname":          {[]string{"-h", "other"}, "hostname", "other"},
		"pid host":          {[]string{"--pid", "host"}, "[ -d /proc/" + fmt.Sprint(os.Getpid()) + " ] && echo the host is seen", "the host is seen"},
		"ipc host":          {[]string{"--ipc", "host"}, "stat -Lc %i /proc/self/ns/ipc", inodeOf(t, "/proc/self/ns/ipc")},
		"device":            {[]string{"--device", "/dev/null:/dev/nothing:rw"}, "echo x >/dev/nothing; stat -c %t:%T /dev/nothing", "1:3"},
		"env":               {[]string{"-e", "A=b", "--label-file", labels, "--annotation", "com.example.n=1"}, "echo $A", "b"},
		"volume of its own": {[]string{"-v", "/own"}, "touch /own/file; ls /own; grep -c ' /own ' /proc/mounts", "file\n1"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append(append([]string{"run", "--rm"}, tc.flags...), n.shell, "sh", "-c", tc.script)
			code, out, errs := n.outcome(args...)
			if got := strings.TrimSpace(out); code != 0 && name != "mount bind" || got != tc.want {
				t.Errorf("%d, %q, %q; want %q", code, got, errs, tc.want)
			}
		})
	}
	limits := []string{"--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--cpu-shares", "512", "--cpuset-cpus", "0", "--pids-limit", "50"}
	n.berth(append(append([]string{"run", "-d", "--name", "limited", "--cidfile", dir + "/cid"}, limits...), n.shell, "sleep", "1000")...)
	id, err := os.ReadFile(dir + "/cid")
	if err != nil || len(id) != 64 {
		t.Errorf("the file for the id has %q, %v", id, err)
	}
	r := n.status(string(id)).GetResources().GetLinux()
	if r.MemoryLimitInBytes != 64<<20 || r.CpuQuota != 50_000 || r.CpuShares != 512 || r.CpusetCpus != "0" {
		t.Errorf("limits: %v", r)
	}
	if code, _, errs := n.outcome("run", "--cidfile", dir+"/cid", n.shell, "true"); code != 125 || !strings.Contains(errs, "is there already") {
		t.Errorf("a file that is there: %d, %q", code, errs)
	}

	// One more container in its pod has its network and its host name.
	n.berth("run", "-d", "--name", "beside", "--pod", "limited", n.shell, "sleep", "1000")
	if a, b := n.berth("exec", "limited", "stat", "-Lc", "%i", "/proc/self/ns/net"), n.berth("exec", "beside", "stat", "-Lc", "%i", "/proc/self/ns/net"); a != b {
		t.Errorf("network namespaces %s and %s", a, b)
	}
	n.berth("rm", "-f", "limited")
	want(t, n.berth("ps"), "beside")
	n.berth("rm", "-f", "beside")
	if out := n.berth("pods", "-q"); out != "" {
		t.Errorf("left pods %q", out)
	}
}

func inodeOf(t *testing.T, path string) string {
	t.Helper()
	link, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(strings.SplitN(link, "[", 2)[1], "]")
}

// TestWhatEndedHoldsNothing has the port of a container that has ended used
// again, and a container that was not to be kept gone.
func TestWhatEndedHoldsNothing(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	port, err := lab.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	publish := fmt.Sprintf("%d:80", port)
	n.berth("run", "-d", "--name", "first", "-p", publish, n.shell, "true")
	n.eventually(func() error {
		code, _, errs := n.outcome("run", "-d", "--name", "second", "-p", publish, n.shell, "sleep", "1000")
		if code != 0 {
			return fmt.Errorf("%d: %s", code, errs)
		}
		return nil
	})
	want(t, n.berth("port", "second"), fmt.Sprintf("80/tcp -> 0.0.0.0:%d", port))
	if code, _, errs := n.outcome("start", "first"); code != 125 || !strings.Contains(errs, "host port") {
		t.Errorf("a start whose port is taken: %d, %q", code, errs)
	}
	want(t, n.berth("ps", "-a"), "Exited (0)") // it is as it was

	n.berth("run", "-d", "--rm", "--name", "gone", n.shell, "true")
	n.eventually(func() error {
		if out := n.berth("ps", "-a") + n.berth("pods"); strings.Contains(out, "gone") {
			return fmt.Errorf("it is there still:\n%s", out)
		}
		return nil
	})
}

// TestHealth follows a container's health, by flags and by its image.
func TestHealth(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	become := func(name, health string) {
		t.Helper()
		n.eventually(func() error {
			if out := n.berth("ps", "--filter", "name="+name); !strings.Contains(out, "("+health+")") {
				return fmt.Errorf("ps: want %s in\n%s", health, out)
			}
			return nil
		})
	}
	n.berth("run", "-d", "--name", "c", "--health-cmd", "test -e /tmp/ok || { echo not yet; exit 1; }", "--health-interval", "50ms", "--health-retries", "2", n.shell, "sleep", "1000")
	become("c", "unhealthy")
	want(t, n.berth("inspect", "c"), `"output": "not yet\n"`)
	want(t, n.berth("inspect", "-f", "{{.State.Status}} {{.State.Health.Status}} {{.RestartCount}}", "c"), "running unhealthy 0")
	n.berth("exec", "c", "touch", "/tmp/ok")
	become("c", "healthy")
	events := n.berth("events")
	want(t, events, "container unhealthy")
	want(t, events, "container healthy")

	n.berth("commit", "--change", "HEALTHCHECK --interval=50ms CMD true", "c", "example.org/checked:1")
	n.berth("run", "-d", "--name", "by-image", "example.org/checked:1", "sleep", "1000")
	become("by-image", "healthy")
	n.berth("run", "-d", "--name", "unchecked", "--no-healthcheck", "example.org/checked:1", "sleep", "1000")
	if out := n.berth("ps", "--filter", "name=unchecked", "--format", "{{.Names}}: {{.Health}}."); out != "unchecked: ." {
		t.Errorf("%q", out)
	}
	// The next daemon goes on with it.
	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.berth("exec", "c", "rm", "/tmp/ok")
	become("c", "unhealthy")
}

// TestNamedVolumes are kept, shared, filled once and guarded.
func TestNamedVolumes(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	n.berth("run", "--name", "first", "-v", "tools:/bin", n.shell, "sh", "-c", "echo mine >/bin/mine") // filled, or nothing could run
	n.berth("rm", "first")
	want(t, n.berth("run", "--rm", "-v", "tools:/again", n.shell, "cat", "/again/mine"), "mine")
	want(t, n.berth("run", "--rm", "-v", "empty:/etc:nocopy", "-w", "/", n.shell, "sh", "-c", "[ -e /etc/passwd ] || echo nothing was copied"), "nothing was copied")
	n.berth("create", "--name", "user", "-v", "tools:/t:ro", n.shell, "true")
	if code, _, errs := n.outcome("volume", "rm", "tools"); code != 125 || !strings.Contains(errs, "it is mounted by container user") {
		t.Errorf("a volume in use: %d, %q", code, errs)
	}
	want(t, n.berth("volume", "ls"), "user (")
	if code, _, errs := n.outcome("run", "--rm", "-v", "tools:/t:ro", n.shell, "touch", "/t/x"); code == 0 || !strings.Contains(errs, "Read-only") {
		t.Errorf("a volume that is read-only: %d, %q", code, errs)
	}
	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.berth("rm", "user")
	want(t, n.berth("volume", "inspect", "tools"), `"users": []`)
	n.berth("volume", "prune", "--all", "--force")
	if out := n.berth("volume", "ls", "-q"); out != "" {
		t.Errorf("left %q", out)
	}
}

// T-TAINT. What the command line asks for by annotations is not to be had by
// them on the kubelet's socket, where the author of a pod chooses them.
func TestAnnotationsOfTheKubeletsPodsDecideNothing(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	conn, err := n.Dial(n.Kubelet)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	kubelet := criv1.NewRuntimeServiceClient(conn)
	for _, tc := range []struct {
		rt   criv1.RuntimeServiceClient
		name string
		want string
	}{{n.runtime(), "local", "1\n1\n"}, {kubelet, "kubelet", "0\n0\n"}} {
		pod := n.podConfig(tc.name)
		pod.Annotations = map[string]string{"io.berth.shm-size": "1048576"}
		c := lab.ContainerConfig("c", n.shell, "sh", "-c", "exit 3")
		c.Annotations = map[string]string{
			"io.berth.tmpfs": `[{"path":"/scratch"}]`, "io.berth.volumes": `["/own"]`, "io.berth.ulimits": "nofile=100", "io.berth.restart": "always", "io.berth.remove": "true",
		}
		made, err := tc.rt.RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: pod})
		if err != nil {
			t.Fatal(err)
		}
		look := lab.ContainerConfig("look", n.shell, "sleep", "1000")
		look.Annotations = c.Annotations
		var ids []string
		for _, config := range []*criv1.ContainerConfig{look, c} {
			r, err := tc.rt.CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: made.PodSandboxId, Config: config, SandboxConfig: pod})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tc.rt.StartContainer(t.Context(), &criv1.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.ContainerId)
		}
		r, err := tc.rt.ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: ids[0], Timeout: 30,
			Cmd: []string{"sh", "-c", "grep -c ' /scratch tmpfs' /proc/mounts; grep -c ' /own ' /proc/mounts; true"}})
		if err != nil || string(r.Stdout) != tc.want {
			t.Errorf("%s: %q, %v; want %q", tc.name, r.GetStdout(), err, tc.want)
		}
		if tc.name != "kubelet" {
			continue
		}
		n.eventually(func() error {
			st, err := tc.rt.ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: ids[1]})
			if err == nil && st.Status.State != criv1.ContainerState_CONTAINER_EXITED {
				err = fmt.Errorf("it is %s", st.Status.State)
			}
			return err
		})
		// Neither restarted nor removed; both would have come before this answer.
		if _, err := n.Admin().Again(t.Context(), &api.AgainRequest{Container: ids[1]}); err == nil || !strings.Contains(err.Error(), "the kubelet's") {
			t.Errorf("a start again of the kubelet's container: %v", err)
		}
		list, err := tc.rt.ListContainers(t.Context(), &criv1.ListContainersRequest{})
		if err != nil || len(list.Containers) != 2 {
			t.Errorf("%v, %v", list, err)
		}
	}
}
