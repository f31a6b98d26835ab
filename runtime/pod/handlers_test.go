package pod_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// with boots the node anew after a change of its configuration.
func (n *node) with(t *testing.T, change func(*pod.Config)) {
	t.Helper()
	n.Close()
	change(&n.cfg)
	n.boot(t)
}

// start runs a pod with a container that sleeps, both after a change.
func (n *node) start(t *testing.T, name string, change func(*spec.Pod, *spec.Container)) (podID, id string) {
	t.Helper()
	p, c := podConfig(name), containerConfig("main", "/bin/sleep", "600")
	change(&p, &c)
	podID, err := n.Run(t.Context(), pod.ViewAll, p)
	if err != nil {
		t.Fatal(err)
	}
	if id, err = n.Create(t.Context(), pod.ViewAll, podID, c); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context(), pod.ViewAll, id); err != nil {
		t.Fatal(err)
	}
	return podID, id
}

// sh runs a script in a container and gives what it wrote, both streams, and
// its exit code.
func (n *node) sh(t *testing.T, id, script string) (string, int32) {
	t.Helper()
	res, err := n.ExecSync(t.Context(), pod.ViewAll, id, []string{"/bin/sh", "-c", script}, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(res.Stdout) + string(res.Stderr)), res.Code
}

// wantSh fails the test if a script says anything else.
func (n *node) wantSh(t *testing.T, id, script, want string) {
	t.Helper()
	if got, code := n.sh(t, id, script); got != want {
		t.Errorf("%s: %q, exit %d; want %q", script, got, code, want)
	}
}

// wantRefused fails the test if a script succeeds or fails for another reason.
func (n *node) wantRefused(t *testing.T, id, script, why string) {
	t.Helper()
	if got, code := n.sh(t, id, script); code == 0 || !strings.Contains(got, why) {
		t.Errorf("%s: %q, exit %d; want it refused with %q", script, got, code, why)
	}
}

func privileged(p *spec.Pod, c *spec.Container) { p.Privileged, c.Security.Privileged = true, true }

func TestHandlerLimitsProcesses(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.with(t, func(c *pod.Config) {
		c.Handlers = map[string]spec.Handler{"limited": {Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 200, Hard: 300}}}}
	})
	_, id := n.start(t, "limited", func(p *spec.Pod, _ *spec.Container) { p.RuntimeHandler = "limited" })
	n.wantSh(t, id, "ulimit -Sn; ulimit -Hn", "200\n300")
	n.wantSh(t, id, "while read a b c d e _; do case $a$b$c in Maxopenfiles) echo $d $e;; esac; done </proc/1/limits", "200 300")
	_, other := n.start(t, "free", func(*spec.Pod, *spec.Container) {})
	if got, _ := n.sh(t, other, "ulimit -Sn"); got == "200" {
		t.Error("the default handler has the limits of another one")
	}
}

func TestHandlerWithholdsDevices(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.with(t, func(c *pod.Config) {
		c.Handlers = map[string]spec.Handler{"bare": {NoHostDevices: true}, "open": {NoHostDevices: true, OpenDevices: true}}
	})
	const listed = "test -c /dev/kmsg && echo yes || echo no"
	const made = "mknod /tmp-kmsg c 1 11 && : </tmp-kmsg && echo opened"
	_, plain := n.start(t, "plain", privileged)
	n.wantSh(t, plain, listed, "yes")
	n.wantSh(t, plain, ": </dev/kmsg && echo opened", "opened")
	n.wantSh(t, plain, "ls /dev/pts | wc -l; test -e /dev/shm/..; ls -d /dev/mqueue", "1\n/dev/mqueue")

	_, bare := n.start(t, "bare", func(p *spec.Pod, c *spec.Container) { privileged(p, c); p.RuntimeHandler = "bare" })
	n.wantSh(t, bare, listed, "no")
	n.wantRefused(t, bare, made, "Operation not permitted")

	_, open := n.start(t, "open", func(p *spec.Pod, c *spec.Container) { privileged(p, c); p.RuntimeHandler = "open" })
	n.wantSh(t, open, listed, "no")
	n.wantSh(t, open, made, "opened")
}

func TestHandlerGivesDevicesToTheUser(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.with(t, func(c *pod.Config) { c.Handlers = map[string]spec.Handler{"own": {DeviceOwnership: true}} })
	user, group := int64(1000), int64(2000)
	ask := func(handler string) func(*spec.Pod, *spec.Container) {
		return func(p *spec.Pod, c *spec.Container) {
			p.RuntimeHandler = handler
			c.Security.RunAsUser, c.Security.RunAsGroup = &user, &group
			c.Devices = []spec.Device{{HostPath: "/dev/kmsg", ContainerPath: "/dev/kmsg", Permissions: "r"}}
		}
	}
	_, own := n.start(t, "own", ask("own"))
	n.wantSh(t, own, "stat -c %u:%g /dev/kmsg", "1000:2000")
	_, host := n.start(t, "host", ask(""))
	n.wantSh(t, host, "stat -c %u:%g /dev/kmsg", "0:0")
}

func TestHandlerHasItsOwnDefaultFilter(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	profile := filepath.Join(t.TempDir(), "profile.json")
	filter := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":122}]}`
	if err := os.WriteFile(profile, []byte(filter), 0o644); err != nil {
		t.Fatal(err)
	}
	n.with(t, func(c *pod.Config) { c.Handlers = map[string]spec.Handler{"strict": {Seccomp: profile}} })
	ask := func(mode spec.SeccompMode) func(*spec.Pod, *spec.Container) {
		return func(p *spec.Pod, c *spec.Container) {
			p.RuntimeHandler, c.Security.Seccomp = "strict", &spec.Seccomp{Mode: mode}
		}
	}
	_, id := n.start(t, "filtered", ask(spec.SeccompDefault))
	n.wantRefused(t, id, "mkdir /made", "quota exceeded") // EDQUOT, which nothing else here gives
	_, id = n.start(t, "unconfined", ask(spec.SeccompUnconfined))
	n.wantSh(t, id, "mkdir /made; grep ^Seccomp: /proc/1/status | tr -d '\\t'", "Seccomp:0")
}

func TestUnknownHandlerLeavesNothing(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.with(t, func(c *pod.Config) { c.Handlers = map[string]spec.Handler{"": {}, "runc": {}} })
	p := podConfig("unknown")
	p.RuntimeHandler = "kata"
	_, err := n.Run(t.Context(), pod.ViewAll, p)
	if !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), `"kata"`) || !strings.Contains(err.Error(), `["" "runc"]`) {
		t.Fatalf("got %v, want InvalidArgument that names the handlers", err)
	}
	p.RuntimeHandler = "runc" // the name is free
	if _, err := n.Run(t.Context(), pod.ViewAll, p); err != nil {
		t.Fatal(err)
	}
}

// A pod whose handler left the configuration goes on, is listed with it, and
// can be stopped and removed; only more containers it cannot have.
func TestPodsOutliveTheirHandler(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.with(t, func(c *pod.Config) { c.Handlers = map[string]spec.Handler{"brief": {}} })
	podID, id := n.start(t, "outlives", func(p *spec.Pod, _ *spec.Container) { p.RuntimeHandler = "brief" })
	n.with(t, func(c *pod.Config) { c.Handlers = nil })
	n.wantSh(t, id, "echo alive", "alive")
	if st, err := n.Pod(pod.ViewAll, podID); err != nil || !st.Ready || st.Config.RuntimeHandler != "brief" {
		t.Fatalf("%+v, %v", st, err)
	}
	_, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("more", "/bin/sleep", "1"))
	if !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), `"brief"`) {
		t.Errorf("another container: %v, want InvalidArgument that names the handler", err)
	}
	if err := n.Stop(t.Context(), pod.ViewAll, podID); err != nil {
		t.Error(err)
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Error(err)
	}
}

func TestWritableCgroupsNeedV2(t *testing.T) {
	if cgroup.Unified() {
		t.Skip("the machine has cgroup v2: there is nothing to refuse")
	}
	n := newNode(t, pod.GroupNode)
	cfg := n.cfg
	cfg.Handlers = map[string]spec.Handler{"w": {CgroupWritable: true}}
	if _, err := pod.New(cfg); !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "cgroup v2") {
		t.Errorf("got %v, want FailedPrecondition", err)
	}
}

func TestWritableCgroups(t *testing.T) {
	if !cgroup.Unified() {
		t.Skip("cgroups can be writable with cgroup v2 only")
	}
	n := newNode(t, pod.GroupNode)
	n.with(t, func(c *pod.Config) { c.Handlers = map[string]spec.Handler{"w": {CgroupWritable: true}} })
	_, id := n.start(t, "writable", func(p *spec.Pod, _ *spec.Container) { p.RuntimeHandler = "w" })
	n.wantSh(t, id, "mkdir /sys/fs/cgroup/own && ls -d /sys/fs/cgroup/own/cgroup.procs && rmdir /sys/fs/cgroup/own", "/sys/fs/cgroup/own/cgroup.procs")
	n.wantSh(t, id, "cat /proc/self/cgroup", "0::/") // what it can write to is its own
	_, id = n.start(t, "usual", func(*spec.Pod, *spec.Container) {})
	n.wantRefused(t, id, "mkdir /sys/fs/cgroup/own", "Read-only file system")
}

// The bundle is what hooks and agents read.
func TestHandlerPassesAnnotations(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.with(t, func(c *pod.Config) {
		c.Handlers = map[string]spec.Handler{"notes": {PodAnnotations: []string{"pod.example/*", "*.*/*"}, ContainerAnnotations: []string{"*.example/*"}}}
	})
	all := map[string]string{"pod.example/a": "1", "org.systemd.property.X": "'/usr/bin/evil'", "org.criu.config": "/etc/shadow", "io.kubernetes.cri.sandbox-id": "forged", "plain": "x"}
	_, id := n.start(t, "notes", func(p *spec.Pod, c *spec.Container) {
		p.RuntimeHandler, p.Annotations = "notes", all
		c.Annotations = map[string]string{"c.example/b": "2", "c.other/c": "3"}
	})
	var got []string
	for key := range n.bundleSpec(t, id).Annotations {
		if !strings.HasPrefix(key, "io.kubernetes.cri.") {
			got = append(got, key)
		}
	}
	slices.Sort(got)
	if want := []string{"c.example/b", "pod.example/a"}; !slices.Equal(got, want) {
		t.Errorf("passed on %q, want %q", got, want)
	}
	if v := n.bundleSpec(t, id).Annotations["io.kubernetes.cri.sandbox-id"]; v == "forged" {
		t.Error("the pod's annotation took the place of ours")
	}
}
