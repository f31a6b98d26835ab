package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestRunForeground(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.registry["docker.io/library/box:latest"] = "box"
	code, out, errs := n.berth("run", "--rm", "--name", "hi", "box", "echo", "hello", "there")
	if code != 0 || out != "hello there\n" {
		t.Fatalf("code %d, out %q, err %q", code, out, errs)
	}
	if !strings.Contains(errs, "abababababab: done (2MB)") {
		t.Errorf("no progress of the pull in %q", errs)
	}
	if len(n.pods)+len(n.containers) != 0 {
		t.Errorf("--rm left %v %v", n.pods, n.containers)
	}
	if left, _ := os.ReadDir(n.logRoot); len(left) != 0 {
		t.Errorf("--rm left logs: %v", left)
	}
	if code, out, errs = n.berth("run", "--name", "sad", "box", "complain", "no"); code != 0 || out != "" || errs != "no\n" {
		t.Errorf("stderr: code %d, out %q, err %q", code, out, errs)
	}
	if code, _, errs = n.berth("run", "--rm", "box", "exit", "42"); code != 42 || errs != "" {
		t.Errorf("exit 42: code %d, %q", code, errs)
	}
	if len(n.pulls) != 1 {
		t.Errorf("pulled %v", n.pulls)
	}
	if p := n.pods[n.containerNamed(t, "sad").PodSandboxId]; p.State != criv1.PodSandboxState_SANDBOX_NOTREADY {
		t.Error("the pod of an ended container still holds its address and ports")
	}
}

func (n *node) containerNamed(t *testing.T, name string) *fakeContainer {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.containers {
		if c.Metadata.Name == name {
			return c
		}
	}
	t.Fatalf("there is no container %s", name)
	return nil
}

func TestRunDetachedRequest(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	img := n.addImage("docker.io/library/box:latest", "box")
	out := n.must(t, "run", "-d", "--name", "web", "-p", "8080:80", "-p", "127.0.0.1:53:53/udp", "-v", "/srv:/srv:ro,rslave",
		"-e", "A=1", "-w", "/srv", "-u", "1000:1001", "--cpus", "1.5", "-m", "64m", "--pids-limit", "99", "--cap-add", "net_admin",
		"--cap-drop", "ALL", "--read-only", "--label", "x=y", "--stop-signal", "QUIT", "--entrypoint", "sleep", "box", "1", "-d")
	c := n.containerNamed(t, "web")
	if strings.TrimSpace(out) != c.Id || !regexp.MustCompile(`^[0-9a-f]{64}\n$`).MatchString(out) {
		t.Errorf("printed %q, container %s", out, c.Id)
	}
	pod := n.pods[c.PodSandboxId].config
	if pod.Hostname != "web" || pod.Metadata.Namespace != "default" || len(pod.PortMappings) != 2 {
		t.Errorf("pod %v", pod)
	}
	if got := pod.Annotations[portsAnnotation]; got != "*:8080->80/tcp, 127.0.0.1:53->53/udp" {
		t.Errorf("ports %q", got)
	}
	if want := filepath.Join(n.logRoot, "web_"+pod.Metadata.Uid); pod.LogDirectory != want {
		t.Errorf("log directory %s, want %s", pod.LogDirectory, want)
	}
	cfg, sc := c.config, c.config.Linux.SecurityContext
	if cfg.Image.Image != img.Id || cfg.Image.UserSpecifiedImage != "box" {
		t.Errorf("image %v", cfg.Image)
	}
	if !slices.Equal(cfg.Command, []string{"sleep"}) || !slices.Equal(cfg.Args, []string{"1", "-d"}) {
		t.Errorf("command %q %q", cfg.Command, cfg.Args)
	}
	if m := cfg.Mounts[0]; !m.Readonly || m.Propagation != criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER {
		t.Errorf("mount %v", m)
	}
	if sc.RunAsUser.Value != 1000 || sc.RunAsGroup.Value != 1001 || !sc.ReadonlyRootfs || len(sc.MaskedPaths) == 0 {
		t.Errorf("security %v", sc)
	}
	if sc.NamespaceOptions.Pid != criv1.NamespaceMode_CONTAINER || sc.Seccomp.ProfileType != criv1.SecurityProfile_RuntimeDefault {
		t.Errorf("security %v", sc)
	}
	if !slices.Equal(sc.Capabilities.AddCapabilities, []string{"NET_ADMIN"}) || !slices.Equal(sc.Capabilities.DropCapabilities, []string{"ALL"}) {
		t.Errorf("capabilities %v", sc.Capabilities)
	}
	if r := cfg.Linux.Resources; r.CpuQuota != 150_000 || r.MemoryLimitInBytes != 64<<20 || r.Unified["pids.max"] != "99" {
		t.Errorf("resources %v", r)
	}
	if cfg.StopSignal != criv1.Signal_SIGNAL_SIGQUIT || cfg.Labels["x"] != "y" || cfg.WorkingDir != "/srv" {
		t.Errorf("config %v", cfg)
	}
}

func TestRunUndoesWhatItCannotFinish(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	code, _, errs := n.berth("run", "-d", "box", "nonsense")
	if code != exitNoProgram || !strings.Contains(errs, `why: "nonsense": executable file not found`) || strings.Contains(errs, "rpc error") {
		t.Errorf("code %d, %q", code, errs)
	}
	if len(n.pods)+len(n.containers) != 0 {
		t.Errorf("left %v %v", n.pods, n.containers)
	}
	if left, _ := os.ReadDir(n.logRoot); len(left) != 0 {
		t.Errorf("left logs: %v", left)
	}
}

func TestRunRefusals(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "-p", "8080:80", "box", "sleep")
	for _, tc := range []struct{ name, why, args string }{
		{"name taken", "the name belongs to", "--name web box"},
		{"port taken", "pod web has it", "-p 8080:81 box sleep"},
		{"terminal", "stdin is no terminal", "-i -t box sh"},
		{"rm and restart", "cannot be restarted", "--rm --restart always box"},
		{"host ports", "ports are the host's own", "--network host -p 1:1 box"},
		{"network", `"no/network" is not the name of a network`, "--network no/network box"},
		{"no network", "without a network nobody can reach its ports", "--network none -p 80 box"},
		{"alias", "containers have no names", "--network-alias db box"},
		{"name server", "it is not an IP address", "--dns dns.example box"},
		{"host line", "it is not NAME:ADDRESS", "--add-host db:there box"},
		{"two pods", "with the pod comes its network", "--pod web --network container:web box"},
		{"the pod's", "addresses, name servers, hosts and aliases are the pod's", "--network container:web --dns 192.0.2.1 box"},
		{"address", "no address of the family of --ip6", "--ip6 10.0.0.9 box"},
		{"address of host", "no address of its own", "--network host --ip 10.0.0.9 box"},
		{"policy", `there is no pull policy "x"`, "--pull x box"},
		{"never", "--pull never forbids", "--pull never other"},
		{"absent", "the registry has no such image", "other"},
		{"bad name", "is not of letters", "--name a/b box"},
		{"host port wrong", "is not a port number", "-p web:80 box"},
		{"unknown flag", "unknown flag", "--frob box"},
		{"no image", "requires at least 1 arg", ""},
		{"format", "there is no such format", "--output xml box"},
	} {
		code, out, errs := n.berth(append([]string{"run"}, strings.Fields(tc.args)...)...)
		if code != exitOwn || out != "" || !strings.Contains(errs, tc.why) {
			t.Errorf("%s: code %d, %q %q", tc.name, code, out, errs)
		}
		lines := strings.Split(strings.TrimSpace(strings.TrimPrefix(errs, "The image other is not here yet; pulling it.\n")), "\n")
		if len(lines) != 3 || !strings.HasPrefix(lines[0], "berth: cannot ") || !strings.HasPrefix(lines[1], "  why: ") || !strings.HasPrefix(lines[2], "  try: ") {
			t.Errorf("%s: not three lines: %q", tc.name, errs)
		}
	}
	if len(n.pods) != 1 {
		t.Errorf("left %v", n.pods)
	}
}

// Not parallel: the signals are this process's.
func TestRunPassesSignalsOn(t *testing.T) {
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	var out, errs lockedBuffer
	code := make(chan int, 1)
	go func() {
		code <- run([]string{"--socket", n.socket, "run", "--name", "t", "box", "trap"}, strings.NewReader(""), &out, &errs)
	}()
	n.running("t")
	if err := unix.Kill(os.Getpid(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	out.waitFor(t, "got SIGUSR1\n")
	if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := <-code; got != 7 || out.String() != "got SIGUSR1\ngot SIGTERM\n" {
		t.Errorf("code %d, out %q, err %q", got, out.String(), errs.String())
	}
}

func TestRunOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	var out, errs lockedBuffer
	code := make(chan int, 1)
	go func() {
		code <- run([]string{"--socket", n.socket, "run", "--name", "s", "box", "sleep"}, strings.NewReader(""), &out, &errs)
	}()
	id := n.running("s")
	n.say(id, "one")
	n.say(id, "two")
	out.waitFor(t, "two\n")
	n.server.Stop()
	n.say(id, "three")
	n.start(t)
	out.waitFor(t, "three\n")
	n.must(t, "kill", "-s", "TERM", "s")
	if got := <-code; got != 143 || out.String() != "one\ntwo\nthree\n" {
		t.Errorf("code %d, out %q, err %q", got, out.String(), errs.String())
	}
}

func TestLifeOfAContainer(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	id := strings.TrimSpace(n.must(t, "run", "-d", "--name", "web", "-p", "8080:80", "box", "sleep"))

	if got := n.must(t, "ps", "-q"); got != id[:12]+"\n" {
		t.Errorf("ps -q: %q", got)
	}
	if got := n.must(t, "exec", "web", "ls", "-l"); got != "ls -l\n" {
		t.Errorf("exec: %q", got)
	}
	if code, _, errs := n.berth("exec", id[:3], "exit", "3"); code != 3 || errs != "oh\n" {
		t.Errorf("exec exit: %d %q", code, errs)
	}
	n.say(id, "line")
	if got := n.must(t, "logs", "-n", "1", "default/web/web"); got != "line\n" {
		t.Errorf("logs: %q", got)
	}
	if got := n.must(t, "logs", "-t", "web"); !regexp.MustCompile(`^\S+Z line\n$`).MatchString(got) {
		t.Errorf("logs -t: %q", got)
	}
	if code, _, errs := n.berth("rm", "web"); code != exitOwn || !strings.Contains(errs, "it runs") {
		t.Errorf("rm of a running one: %d %q", code, errs)
	}
	if got := n.must(t, "stats", "--no-stream"); !strings.Contains(got, "web    25.00%   16MiB / 64MiB       25.00%   1.2kB / 0B   12kB / 0B   3") {
		t.Errorf("stats: %q", got)
	}
	var rows []statsRow
	if err := json.Unmarshal([]byte(n.must(t, "stats", "--no-stream", "--output", "json", "web")), &rows); err != nil || len(rows) != 1 || *rows[0].CPU != 0.25 || rows[0].Pids != 3 {
		t.Errorf("stats as JSON: %+v, %v", rows, err)
	}
	if got := n.must(t, "stats", "--no-stream", "--format", "{{.Name}} {{.CPUPerc}} {{.PIDs}}"); got != "web 25.00% 3\n" {
		t.Errorf("stats by a template: %q", got)
	}
	n.must(t, "stop", "web")
	if got := n.must(t, "wait", "web"); got != "143\n" {
		t.Errorf("wait: %q", got)
	}
	if got := n.must(t, "ps", "-q"); got != "" {
		t.Errorf("ps -q of nothing: %q", got)
	}
	n.must(t, "run", "-d", "--name", "web2", "-p", "8080:80", "box", "sleep") // the port is free again
	code, out, errs := n.berth("start", "web")
	if again := n.containerNamed(t, "web"); code != 0 || out != "web\n" || again.Id == id ||
		errs != "web is a new attempt, "+again.Id[:12]+", with the same volumes and a fresh writable layer.\n" {
		t.Errorf("start: %d %q %q", code, out, errs)
	}
	if code, _, errs = n.berth("restart", "--keep", "--time", "3", "web"); code != 0 || !strings.Contains(errs, "the old writable layer") || !slices.Contains(n.notes, "grace 3s") {
		t.Errorf("restart: %d %q %q", code, errs, n.notes)
	}
	if code, _, errs = n.berth("start", "web"); code != 0 || errs != "" {
		t.Errorf("start of what runs: %d %q", code, errs)
	}
	n.must(t, "rename", "web", "old")
	if got := n.must(t, "ps", "--no-trunc"); !strings.Contains(got, "old\n") || strings.Contains(got, " web\n") {
		t.Errorf("ps after a rename: %q", got)
	}
	if code, _, errs = n.berth("rename", "old", "web2"); code != exitOwn || !strings.Contains(errs, "the name belongs to container") {
		t.Errorf("rename to a name that is taken: %d %q", code, errs)
	}
	n.must(t, "rm", "-f", "old")
	n.must(t, "rm", "-f", "web2")
	if len(n.pods)+len(n.containers) != 0 {
		t.Errorf("left %v %v", n.pods, n.containers)
	}
	if left, _ := os.ReadDir(n.logRoot); len(left) != 0 {
		t.Errorf("left logs: %v", left)
	}
}

// kubeletsPod makes a pod as the kubelet does, kube-system/dns with the
// container server, whose id it returns.
func (n *node) kubeletsPod(t *testing.T) string {
	t.Helper()
	img := n.addImage("docker.io/library/box:latest", "box")
	pod, err := n.RunPodSandbox(t.Context(), &criv1.RunPodSandboxRequest{Config: &criv1.PodSandboxConfig{
		Metadata: &criv1.PodSandboxMetadata{Name: "dns", Namespace: "kube-system", Uid: "u"}, LogDirectory: t.TempDir(),
		Labels: map[string]string{kubeletPodLabel: "u"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	made, err := n.CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: &criv1.ContainerConfig{
		Metadata: &criv1.ContainerMetadata{Name: "server"}, Image: &criv1.ImageSpec{Image: img.Id},
		Labels: map[string]string{kubeletContainerLabel: "server"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return made.ContainerId
}

func TestKubeletsPodsAreGuarded(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	made := n.kubeletsPod(t)
	n.must(t, "start", "server")
	for _, args := range [][]string{{"rm", "dns"}, {"stop", "server"}, {"rm", "kube-system/dns/server"}, {"kill", "dns"}} {
		if code, _, errs := n.berth(args...); code != exitOwn || !strings.Contains(errs, "it is the kubelet's") {
			t.Errorf("%v: %d %q", args, code, errs)
		}
	}
	if got := n.must(t, "pods"); !strings.Contains(got, "kube-system   dns    Less than a second ago   ready   1            kubelet") {
		t.Errorf("pods: %q", got)
	}
	n.must(t, "rm", "--force", made)
	if len(n.containers) != 0 || len(n.pods) != 1 {
		t.Errorf("left %v %v; the pod is not ours to remove", n.pods, n.containers)
	}
}

func TestImageVerbs(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.registry["docker.io/library/box:latest"] = "box"
	if got := n.must(t, "pull", "box"); !strings.Contains(got, "abababababab: downloading (2MB)\n") {
		t.Errorf("pull: %q", got)
	}
	id := strings.TrimSpace(n.must(t, "pull", "-q", "box"))
	if !strings.HasPrefix(id, "sha256:") {
		t.Errorf("pull -q: %q", id)
	}
	n.must(t, "tag", "box", "registry.example.com/team/app:1")
	want := "REPOSITORY                      TAG      IMAGE ID       CREATED      SIZE\n" +
		"box                             latest   9a52ba4fe5b2   3 days ago   4.32MB\n" +
		"registry.example.com/team/app   1        9a52ba4fe5b2   3 days ago   4.32MB\n"
	want = strings.ReplaceAll(want, "9a52ba4fe5b2", id[7:19])
	if got := n.must(t, "images"); got != want {
		t.Errorf("images:\n%swant\n%s", got, want)
	}
	if got := n.must(t, "images", "-q", "--no-trunc"); got != id+"\n" {
		t.Errorf("images -q: %q", got)
	}
	if got := n.must(t, "load"); !strings.HasPrefix(got, "Loaded loaded:1\n") || string(n.loaded) != "archive" {
		t.Errorf("load: %q of %q", got, n.loaded)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n.must(t, "load", "-i", dir); !strings.Contains(string(n.loaded), "oci-layout") {
		t.Error("load of a folder did not pack it")
	}
	n.must(t, "rmi", "registry.example.com/team/app:1")
	n.must(t, "run", "-d", "--name", "user", "box", "sleep")
	if code, _, errs := n.berth("rmi", "box"); code != exitOwn || !strings.Contains(errs, "it is used by container user") {
		t.Errorf("rmi of a used one: %d %q", code, errs)
	}
	n.must(t, "rm", "-f", "user")
	n.must(t, "rmi", "box", "loaded:1")
	if len(n.images) != 0 {
		t.Errorf("left %v", n.images)
	}
	if code, _, errs := n.berth("rmi", "box"); code != exitOwn || !strings.Contains(errs, "no image here") {
		t.Errorf("rmi of nothing: %d %q", code, errs)
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "box", "sleep")
	pod := n.containerNamed(t, "web").PodSandboxId
	var got []struct {
		Kind   string
		Status struct{ ID string }
		Info   map[string]any
	}
	if err := json.Unmarshal([]byte(n.must(t, "inspect", "web", pod, "box")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0].Kind != "container" || got[1].Kind != "pod" || got[2].Kind != "image" {
		t.Fatalf("%+v", got)
	}
	if got[0].Status.ID != n.containerNamed(t, "web").Id || got[0].Info["pid"] != 42.0 || got[0].Info["note"] != "not JSON" {
		t.Errorf("%+v", got[0])
	}
	if code, out, errs := n.berth("inspect", "nothing"); code != exitOwn || out != "[]\n" || !strings.Contains(errs, "cannot find") {
		t.Errorf("%d %q %q", code, out, errs)
	}
}

func TestNodeVerbs(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for verb, want := range map[string]string{
		"check":   "everything is as recorded\n",
		"df":      "5MB in 300 files at /var/lib/berth",
		"info":    "no: NoAddress the bridge has no address",
		"version": "berth 0.1.0",
		"steps":   "pod.run/netns\npod.run/files\n",
	} {
		if got := n.must(t, verb); !strings.Contains(got, want) {
			t.Errorf("%s: %q", verb, got)
		}
		if verb != "steps" && !json.Valid([]byte(n.must(t, verb, "--output", "json"))) {
			t.Errorf("%s: not JSON", verb)
		}
	}
}
