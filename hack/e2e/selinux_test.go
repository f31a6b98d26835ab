//go:build e2e && selinux

package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// These tests want a host whose SELinux enforces a policy that knows containers;
// hack/vm/selinux.sh runs them in a guest that is one.

// labelled is a node that gives labels, with the image of a shell on it.
func labelled(t *testing.T) *node {
	t.Helper()
	if b, err := os.ReadFile("/sys/fs/selinux/enforce"); err != nil || string(b) != "1" {
		t.Fatalf("SELinux does not enforce here: %q, %v", b, err)
	}
	n := newNode(t, lab.Options{Config: "[selinux]\nenable = true\n"})
	n.crictl("pull", n.shell)
	return n
}

// labelOf is what the kernel has as the label of a file, not of what it leads to.
func labelOf(t *testing.T, path string) string {
	t.Helper()
	b := make([]byte, 256)
	size, err := unix.Lgetxattr(path, "security.selinux", b)
	if err != nil {
		t.Fatalf("label of %s: %v", path, err)
	}
	return strings.TrimSuffix(string(b[:size]), "\x00")
}

// firstPid is the container's first process, on the host.
func (n *node) firstPid(id string) int {
	n.t.Helper()
	if err := n.begun(id); err != nil {
		n.t.Fatal(err)
	}
	var info struct{ Pid int }
	if err := json.Unmarshal([]byte(n.info(id)), &info); err != nil {
		n.t.Fatal(err)
	}
	return info.Pid
}

// info is what the daemon notes of a container.
func (n *node) info(id string) string {
	n.t.Helper()
	r, err := n.runtime().ContainerStatus(n.t.Context(), &criv1.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		n.t.Fatal(err)
	}
	return r.Info["info"]
}

// processLabels are those of the container's first process and of one that is
// executed in it.
func (n *node) processLabels(id string) (first, executed string) {
	n.t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(n.firstPid(id)) + "/attr/current")
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimRight(string(b), "\x00\n"), strings.TrimRight(n.crictl("exec", "-s", id, "cat", "/proc/self/attr/current"), "\x00\n")
}

// hasLabel wants both labels to be the same, and to match.
func (n *node) hasLabel(what, id, pattern string) string {
	n.t.Helper()
	first, executed := n.processLabels(id)
	if first != executed || !regexp.MustCompile("^"+pattern+"$").MatchString(first) {
		n.t.Errorf("%s: its first process has the label %s, one executed in it %s; want %s", what, first, executed, pattern)
	}
	return first
}

// tries runs a script in a container and tells whether it was allowed.
func (n *node) tries(id, script string) (string, bool) {
	n.t.Helper()
	r, err := n.runtime().ExecSync(n.t.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Timeout: 120})
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(string(r.Stdout) + string(r.Stderr)), r.ExitCode == 0
}

func (n *node) may(what, id, script string) {
	n.t.Helper()
	if out, ok := n.tries(id, script); !ok {
		n.t.Errorf("%s: %s: %s", what, script, out)
	}
}

// mayNot wants the refusal to be the policy's, which is EACCES.
func (n *node) mayNot(what, id, script string) {
	n.t.Helper()
	if out, ok := n.tries(id, script); ok || !strings.Contains(out, "Permission denied") {
		n.t.Errorf("%s: %s was not refused: %s", what, script, out)
	}
}

// inPod starts one more container in a pod.
func (n *node) inPod(pod string, config *criv1.ContainerConfig) (string, error) {
	rt, sandbox := n.runtime(), n.podConfig("more")
	made, err := rt.CreateContainer(n.t.Context(), &criv1.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: sandbox})
	if err != nil {
		return "", err
	}
	_, err = rt.StartContainer(n.t.Context(), &criv1.StartContainerRequest{ContainerId: made.ContainerId})
	return made.ContainerId, err
}

func (n *node) mustInPod(pod string, config *criv1.ContainerConfig) string {
	n.t.Helper()
	id, err := n.inPod(pod, config)
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

// sleeper is a container that asks for what change does.
func (n *node) sleeper(name string, change ...func(*criv1.ContainerConfig)) *criv1.ContainerConfig {
	c := lab.ContainerConfig(name, n.shell, "sleep", "100000")
	for _, f := range change {
		f(c)
	}
	return c
}

func asking(o *criv1.SELinuxOption) func(*criv1.ContainerConfig) {
	return func(c *criv1.ContainerConfig) { c.Linux.SecurityContext.SelinuxOptions = o }
}

func mounting(mounts ...*criv1.Mount) func(*criv1.ContainerConfig) {
	return func(c *criv1.ContainerConfig) { c.Mounts = mounts }
}

const (
	ownLevel = `s0:c\d+,c\d+`
	process  = `system_u:system_r:container_t:`
	file     = `system_u:object_r:container_file_t:`
)

func levelOf(label string) string { return strings.SplitN(label, ":", 4)[3] }

// TestSELinuxLabels looks at the labels that processes have, of pods and
// containers that ask for one and that do not, over the end of the daemon.
func TestSELinuxLabels(t *testing.T) {
	n := labelled(t)
	pod, first := n.run("first", n.sleeper("first"))
	label := n.hasLabel("a container that asks for nothing", first, process+ownLevel)
	level := levelOf(label)

	second := n.mustInPod(pod, n.sleeper("second"))
	n.hasLabel("another of its pod", second, regexp.QuoteMeta(label))
	typed := n.mustInPod(pod, n.sleeper("typed", asking(&criv1.SELinuxOption{User: "system_u", Role: "system_r", Type: "svirt_lxc_net_t"})))
	n.hasLabel("one that asks for a type, which is another name", typed, regexp.QuoteMeta(label))
	levelled := n.mustInPod(pod, n.sleeper("levelled", asking(&criv1.SELinuxOption{Level: "s0:c1,c2"})))
	n.hasLabel("one that asks for a level", levelled, process+"s0:c1,c2")
	n.may("one that asks for a level", levelled, "cat /etc/hosts /etc/resolv.conf /etc/hostname && echo x >/new && cat /new")

	_, other := n.run("other", n.sleeper("other"))
	if got := n.hasLabel("a container of another pod", other, process+ownLevel); got == label {
		t.Errorf("two pods have the level of %s", got)
	}

	config := n.podConfig("asks")
	config.Linux.SecurityContext.SelinuxOptions = &criv1.SELinuxOption{Level: "s0:c3,c4"}
	asks, of, err := n.RunPod(t.Context(), config, n.sleeper("of"))
	if err != nil {
		t.Fatal(err)
	}
	n.hasLabel("a container of a pod that asks for a level", of, process+"s0:c3,c4")

	for what, o := range map[string]*criv1.SELinuxOption{
		"a level that is none":             {Level: "s0,c4,c5"},
		"a type that the policy lacks":     {Type: "nonsense_t"},
		"a role that its user lacks":       {Role: "nonsense_r"},
		"a category that the policy lacks": {Level: "s0:c5000"},
	} {
		if _, err := n.inPod(pod, n.sleeper("bad", asking(o))); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want InvalidArgument", what, err)
		}
	}

	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.hasLabel("after the daemon was killed", first, regexp.QuoteMeta(label))
	again := n.mustInPod(pod, n.sleeper("again"))
	n.hasLabel("a container made after it", again, process+regexp.QuoteMeta(level))
	afterwards := n.mustInPod(asks, n.sleeper("afterwards"))
	n.hasLabel("one of the pod that asks", afterwards, process+"s0:c3,c4")

	// What is told is what is.
	for id, want := range map[string]string{first: label, levelled: process + "s0:c1,c2"} {
		var told struct{ ProcessLabel, MountLabel string }
		if err := json.Unmarshal([]byte(n.info(id)), &told); err != nil {
			t.Fatal(err)
		}
		if told.ProcessLabel != want || told.MountLabel != file+levelOf(want) {
			t.Errorf("the status tells the labels %q and %q, want %s", told.ProcessLabel, told.MountLabel, want)
		}
	}
	if got := n.berth("inspect", "--format", "{{.ProcessLabel}} {{.MountLabel}}", first); got != label+" "+file+level {
		t.Errorf("berth inspect tells %q", got)
	}
	// Other things of the guest it may find fault with.
	if out, _ := n.Berth(t.Context(), "doctor"); !strings.Contains(out, "SELinux is enforcing") {
		t.Errorf("berth doctor says:\n%s", out)
	}
}

// TestSELinuxFiles uses what every container has: its root, the pod's files,
// /dev/shm, a terminal, standard streams, and what the kernel tells.
func TestSELinuxFiles(t *testing.T) {
	n := labelled(t)
	_, id := n.run("files", n.sleeper("files"))
	_, executed := n.processLabels(id)
	want := file + levelOf(executed)
	root := "/proc/" + strconv.Itoa(n.firstPid(id)) + "/root"
	n.may("its own", id, "echo x >/new && cat /new && mkdir /dir && ln -s new /link && mkfifo /fifo && rm -r /dir")
	n.may("the pod's files", id, "cat /etc/hosts /etc/resolv.conf /etc/hostname && echo 10.0.0.1 x >>/etc/hosts")
	n.may("shared memory", id, "echo x >/dev/shm/new && cat /dev/shm/new")
	n.may("devices", id, "echo x >/dev/null && head -c 1 /dev/urandom >/dev/null && test -c /dev/pts/ptmx")
	n.may("what the kernel tells", id, "cat /proc/self/status /proc/meminfo /proc/net/dev /proc/sys/kernel/hostname >/dev/null && ls /sys/class /sys/fs/cgroup >/dev/null")
	n.may("its network", id, "ping -c 1 -w 60 127.0.0.1 && (nc -l -p 7 </dev/null & sleep 1; echo x | nc 127.0.0.1 7)")
	for _, path := range []string{"/", "/bin/busybox", "/new", "/link", "/fifo", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/dev", "/dev/shm", "/dev/shm/new", "/dev/pts", "/dev/null"} {
		want := want
		if strings.HasPrefix(path, "/etc/") {
			want = file + "s0"
		}
		if got := labelOf(t, root+path); got != want && path != "/dev/null" {
			t.Errorf("%s has the label %s, want %s", path, got, want)
		}
	}
	for _, with := range [][]string{{"exec", "-it", id, "sh"}, {"run", "-it", "--rm", n.shell, "sh"}} {
		p := n.sit(with...)
		p.types("tty -s && echo a te''rminal\n")
		p.sees("a terminal")
		p.types("exit 0\n")
		if code := p.ended(); code != 0 {
			t.Errorf("berth %s ended with %d", with[0], code)
		}
	}
	if out := n.berth("run", "--rm", n.shell, "sh", "-c", "echo said; echo complained >&2"); out != "said" {
		t.Errorf("a container's output: %q", out)
	}

	// With a user namespace, where layers are mounts with other owners.
	config, c := n.podConfig("mapped"), n.sleeper("mapped")
	inUserns(config, c)
	_, mapped, err := n.RunPod(t.Context(), config, c)
	if err != nil {
		t.Fatal(err)
	}
	n.hasLabel("in a user namespace", mapped, process+ownLevel)
	n.may("in a user namespace", mapped, "echo x >/new && cat /new /etc/hosts && echo x >/dev/shm/new")
}

// T-SPEC: containers are kept from the host's files, from other pods' and from
// their processes, and are given those for which a client asks it.
func TestSELinuxVolumes(t *testing.T) {
	n := labelled(t)
	outside, dir := filepath.Join(n.Dir, "outside"), filepath.Join(n.Dir, "volume")
	for _, d := range []string{outside, filepath.Join(dir, "sub")} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(outside, "secret"), []byte("secret\n"), 0o666),
		os.WriteFile(filepath.Join(dir, "sub/file"), []byte("file\n"), 0o666),
		os.Symlink(outside, filepath.Join(dir, "way-out"))); err != nil {
		t.Fatal(err)
	}
	before := labelOf(t, outside)
	plain := &criv1.Mount{ContainerPath: "/v", HostPath: dir}
	pod, id := n.run("plain", n.sleeper("plain", mounting(plain)))
	n.mayNot("a host path that is not relabelled", id, "cat /v/sub/file")
	n.mayNot("a host path that is not relabelled", id, "ls /v")

	relabel := &criv1.Mount{ContainerPath: "/v", HostPath: dir, SelinuxRelabel: true}
	a := n.mustInPod(pod, n.sleeper("relabel", mounting(relabel)))
	n.may("one that is", a, "cat /v/sub/file && echo a >/v/sub/of-a")
	n.may("another container of the pod", id, "cat /v/sub/of-a")
	first, _ := n.processLabels(a)
	for _, path := range []string{dir, filepath.Join(dir, "sub"), filepath.Join(dir, "sub/file"), filepath.Join(dir, "sub/of-a"), filepath.Join(dir, "way-out")} {
		if got := labelOf(t, path); got != file+levelOf(first) {
			t.Errorf("%s has the label %s, and the container %s", path, got, first)
		}
	}
	for _, path := range []string{outside, filepath.Join(outside, "secret")} {
		if got := labelOf(t, path); got != before {
			t.Errorf("%s, to which a link in the volume leads, has the label %s; it had %s", path, got, before)
		}
	}
	if m := n.status(a).Mounts; len(m) != 1 || !m[0].SelinuxRelabel {
		t.Errorf("the status has the mounts %v", m)
	}

	// Another pod's container has another level.
	_, b := n.run("other", n.sleeper("other", mounting(plain)))
	n.mayNot("another pod", b, "cat /v/sub/file")
	n.mayNot("another pod", b, "echo b >/v/sub/of-a")
	n.mayNot("another pod", b, "ls /v/sub")
	_, same := n.run("same", n.sleeper("same", mounting(plain), asking(&criv1.SELinuxOption{Level: levelOf(first)})))
	n.may("another pod with the level", same, "cat /v/sub/of-a && echo c >/v/sub/of-c")

	// Nor may it reach other containers' files and processes by the host's paths.
	host := n.podConfig("host")
	host.Linux.SecurityContext.NamespaceOptions.Pid = criv1.NamespaceMode_NODE
	_, sees, err := n.RunPod(t.Context(), host, n.sleeper("sees", mounting(&criv1.Mount{ContainerPath: "/host", HostPath: "/"}),
		func(c *criv1.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = criv1.NamespaceMode_NODE
		}))
	if err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(n.firstPid(a))
	n.mayNot("a container that sees the host", sees, "ls /proc/"+pid+"/root/")
	n.mayNot("a container that sees the host", sees, "cat /proc/"+pid+"/environ")
	n.mayNot("a container that sees the host", sees, "kill -9 "+pid)
	n.mayNot("a container that sees the host", sees, "ls /host"+n.Root)
	n.mayNot("a container that sees the host", sees, "cat /host/etc/shadow")
	n.mayNot("a container that sees the host", sees, "echo x >/host/etc/new")

	for _, path := range []string{"/", "/etc", "/usr", "/var", "/var/lib", "/root", "/tmp", "/proc", "/sys", "/dev"} {
		before := labelOf(t, path)
		c := n.sleeper("system", mounting(&criv1.Mount{ContainerPath: "/v", HostPath: path, SelinuxRelabel: true}))
		if _, err := n.inPod(pod, c); status.Code(err) != codes.InvalidArgument {
			t.Errorf("relabelling %s: %v, want InvalidArgument", path, err)
		}
		if got := labelOf(t, path); got != before {
			t.Errorf("%s has the label %s now, and had %s", path, got, before)
		}
	}

	// A file system that has no labels of its own is mounted all the same.
	share := n.mustInPod(pod, n.sleeper("share", mounting(&criv1.Mount{ContainerPath: "/v", HostPath: "/share", SelinuxRelabel: true})))
	n.hasLabel("with a file system without labels", share, process+ownLevel)
}

// TestSELinuxPrivileged has privileged containers confined by nothing, as the
// policy says by the file that they are begun with.
func TestSELinuxPrivileged(t *testing.T) {
	n := labelled(t)
	_, a := n.run("plain", n.sleeper("plain"))
	n.may("its own", a, "echo a >/of-a")
	config := n.podConfig("privileged")
	config.Linux.SecurityContext.Privileged = true
	privileged := func(c *criv1.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }
	pod, id, err := n.RunPod(t.Context(), config, n.sleeper("privileged", privileged, mounting(&criv1.Mount{ContainerPath: "/host", HostPath: "/"})))
	if err != nil {
		t.Fatal(err)
	}
	n.hasLabel("a privileged container", id, `system_u:system_r:spc_t:s0`)
	n.may("the host's files", id, "cat /host/etc/shadow && echo x >/host/etc/new && rm /host/etc/new && ls /host"+n.Root)
	n.may("another pod's files", id, "cat /host/proc/"+strconv.Itoa(n.firstPid(a))+"/root/of-a")
	n.may("its own", id, "echo x >/new && cat /etc/hosts && mkdir /mnt && mount -t tmpfs none /mnt")
	if got := labelOf(t, "/proc/"+strconv.Itoa(n.firstPid(id))+"/root/new"); !regexp.MustCompile("^" + file + ownLevel + "$").MatchString(got) {
		t.Errorf("a file of a privileged container has the label %s", got)
	}
	n.hasLabel("one that asks for a label", n.mustInPod(pod, n.sleeper("asks", privileged, asking(&criv1.SELinuxOption{Level: "s0:c1,c2"}))), `system_u:system_r:spc_t:s0`)
	n.hasLabel("one that is not, beside it", n.mustInPod(pod, n.sleeper("beside")), process+ownLevel)

	out := n.berth("run", "--rm", "--security-opt", "label=disable", n.shell, "cat", "/proc/self/attr/current")
	if !strings.Contains(out, ":spc_t:") {
		t.Errorf("without a label: %q", out)
	}
}

// TestSELinuxSharedProcesses has the process that holds the namespace of a
// pod's processes confined as they are.
func TestSELinuxSharedProcesses(t *testing.T) {
	n := labelled(t)
	config := n.podConfig("shared")
	config.Linux.SecurityContext.NamespaceOptions.Pid = criv1.NamespaceMode_POD
	c := n.sleeper("c")
	c.Linux.SecurityContext.NamespaceOptions.Pid = criv1.NamespaceMode_POD
	_, id, err := n.RunPod(t.Context(), config, c)
	if err != nil {
		t.Fatal(err)
	}
	label := n.hasLabel("a container", id, process+ownLevel)
	if out, _ := n.tries(id, "cat /proc/1/attr/current"); strings.TrimRight(out, "\x00\n") != label {
		t.Errorf("the pod's first process has the label %q, and the container %s", out, label)
	}
	if out, _ := n.tries(id, "cat /proc/1/mountinfo"); !strings.Contains(out, `,context="`+file+levelOf(label)+`",`) {
		t.Errorf("the pod's first process has these mounts:\n%s", out)
	}
	if out, _ := n.tries(id, "cat /proc/1/cmdline"); strings.Trim(out, "\x00\n") != "/init" {
		t.Errorf("the pod's first process is %q", out)
	}
}

// TestSELinuxOwnVolumes uses the volumes that berth keeps: of images, by name,
// of manifests, and what an image declares; and builds.
func TestSELinuxOwnVolumes(t *testing.T) {
	n := labelled(t)
	ref, _ := dataImage(t, n)
	_, id := n.run("image", n.sleeper("image", mounting(imageMount("/data", ref, ""), imageMount("/model", ref, "model"))))
	n.may("an image's files", id, "cat /data/model/weights /model/weights && /model/run")
	n.fails("an image's files", id, "echo x >/data/model/weights")

	declared := shellWithVolumes(t, n)
	_, id = n.run("declared", n.sleeper("declared", func(c *criv1.ContainerConfig) { c.Image.Image = declared }))
	n.may("what an image declares", id, "cat /var/lib/data/seed && echo x >/var/new/x && echo x >/var/lib/data/x")

	n.berth("volume", "create", "kept")
	n.berth("run", "--rm", "-v", "kept:/v", n.shell, "sh", "-c", "mkdir /v/dir && echo first >/v/dir/file")
	if out := n.berth("run", "--rm", "-v", "kept:/v", n.shell, "sh", "-c", "echo second >>/v/dir/file && cat /v/dir/file"); out != "first\nsecond" {
		t.Errorf("a named volume has %q", out)
	}
	n.berth("volume", "rm", "kept")

	dir := filepath.Join(n.Dir, "shared")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	n.berth("run", "-d", "--name", "one", "-v", dir+":/v:z", n.shell, "sleep", "100000")
	n.berth("run", "-d", "--name", "two", "-v", dir+":/v:z", n.shell, "sleep", "100000")
	n.berth("exec", "one", "sh", "-c", "echo one >/v/of-one")
	if out := n.berth("exec", "two", "cat", "/v/of-one"); out != "one" {
		t.Errorf("of a directory that two share the second reads %q", out)
	}
	n.berth("run", "-d", "--name", "three", "-v", dir+":/v:Z", n.shell, "sleep", "100000")
	n.berth("exec", "three", "cat", "/v/of-one")
	if out, err := n.Berth(t.Context(), "exec", "two", "cat", "/v/of-one"); err == nil {
		t.Errorf("what one has for its own the other reads: %q", out)
	}

	manifest := n.file("pod.yaml", map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "dirs"},
		"spec": map[string]any{
			"volumes": []any{map[string]any{"name": "disk", "emptyDir": map[string]any{}}, map[string]any{"name": "memory", "emptyDir": map[string]any{"medium": "Memory"}}},
			"containers": []any{map[string]any{"name": "writer", "image": n.shell, "command": []any{"sleep", "100000"},
				"volumeMounts": []any{map[string]any{"name": "disk", "mountPath": "/disk"}, map[string]any{"name": "memory", "mountPath": "/memory"}}}},
		}})
	n.berth("apply", "-f", manifest)
	writer := ""
	n.eventually(func() error {
		r, err := n.runtime().ListContainers(t.Context(), &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING}}})
		for _, c := range r.GetContainers() {
			if c.Metadata.Name == "writer" {
				writer = c.Id
			}
		}
		if err == nil && writer == "" {
			err = errors.New("the container of the manifest does not run")
		}
		return err
	})
	n.may("emptyDirs", writer, "echo x >/disk/x && echo x >/memory/x && cat /disk/x /memory/x")
	n.berth("delete", "-f", manifest)

	context := filepath.Join(n.Dir, "context")
	if err := errors.Join(os.Mkdir(context, 0o755), os.WriteFile(filepath.Join(context, "f"), []byte("f\n"), 0o644),
		os.WriteFile(filepath.Join(context, "Dockerfile"), []byte("FROM "+n.shell+"\nCOPY f /f\nRUN cat /f >/g && cat /proc/self/attr/current\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	n.berth("build", "-t", "built:1", context)
	if out := n.berth("run", "--rm", "built:1", "cat", "/g"); out != "f" {
		t.Errorf("what was built has %q", out)
	}
}

// fails is mayNot of what may be refused by others than the policy: by a read-only mount.
func (n *node) fails(what, id, script string) {
	n.t.Helper()
	if out, ok := n.tries(id, script); ok {
		n.t.Errorf("%s: %s was not refused: %s", what, script, out)
	}
}

// TestSELinuxOff refuses labels where they would be missed, and has the rest
// run without.
func TestSELinuxOff(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	pod, id := n.run("plain", n.sleeper("plain"))
	if first, _ := n.processLabels(id); strings.Contains(first, ":container_t:") {
		t.Errorf("a container of a daemon that gives no labels has %s", first)
	}
	if _, err := n.inPod(pod, n.sleeper("asks", asking(&criv1.SELinuxOption{Level: "s0"}))); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a label: %v, want FailedPrecondition", err)
	}
}
