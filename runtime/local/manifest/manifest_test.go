package manifest

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const whole = `apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  creationTimestamp: null
  labels: {app: web, tier: "1"}
  annotations:
    note: for people
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 5
  shareProcessNamespace: true
  enableServiceLinks: false
  dnsPolicy: None
  dnsConfig:
    nameservers: [192.0.2.53]
    searches: [example.org]
    options: [{name: ndots, value: "2"}, {name: rotate}]
  securityContext:
    runAsUser: 1000
    supplementalGroups: [7]
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]
  volumes:
  - name: data
    hostPath: {path: /srv/data, type: Directory}
  - name: scratch
    emptyDir: {}
  - name: ram
    emptyDir: {medium: Memory, sizeLimit: 16Mi}
  - name: files
    image: {reference: quay.io/a/files}
  initContainers:
  - name: prepare
    image: box:1
    command: [sh, -c, "echo $(GREETING) $$HOME $(NONE)"]
    env:
    - {name: WHO, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: GREETING, value: "hello $(WHO) $(LATER)"}
    volumeMounts:
    - {name: scratch, mountPath: /scratch/}
  - name: proxy
    image: proxy@sha256:0123456789012345678901234567890123456789012345678901234567890123
    restartPolicy: Always
  containers:
  - name: server
    image: nginx
    args: ["-v"]
    workingDir: /srv
    ports:
    - {containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1}
    - {containerPort: 53, protocol: UDP}
    resources:
      requests: {cpu: 250m, memory: 32Mi}
      limits: {cpu: "1.5", memory: 64Mi}
    volumeMounts:
    - {name: data, mountPath: /data, readOnly: true, recursiveReadOnly: Enabled}
    - {name: scratch, mountPath: /scratch}
    - {name: ram, mountPath: /ram}
    - {name: files, mountPath: /files, subPath: etc}
    securityContext:
      runAsUser: 0
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {add: [CAP_NET_ADMIN], drop: [all]}
      seccompProfile: {type: Unconfined}
`

func place() Place {
	return Place{UID: "u", LogDirectory: "/log/web", Dir: func(v string, memory bool) string {
		if memory {
			return "/mem/" + v
		}
		return "/disk/" + v
	}}
}

func parseOne(t *testing.T, text string) *Pod {
	t.Helper()
	pods, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &pods[0]
}

func TestPlan(t *testing.T) {
	t.Parallel()
	p := parseOne(t, whole)
	got := p.Plan(place())
	zero, thousand := int64(0), int64(1000)
	ns := spec.Namespaces{Network: spec.ModePod, PID: spec.ModePod, IPC: spec.ModePod}
	labels := map[string]string{podNameLabel: "web", podNamespaceLabel: "shop"}
	if want := (spec.Pod{
		Metadata: spec.PodMetadata{Name: "web", Namespace: "shop", UID: "u"}, Hostname: "web", LogDirectory: "/log/web",
		DNS:    &spec.DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"ndots:2", "rotate"}},
		Ports:  []spec.PortMapping{{Protocol: "tcp", ContainerPort: 80, HostPort: 8080, HostIP: "127.0.0.1"}},
		Labels: map[string]string{"app": "web", "tier": "1"}, Annotations: map[string]string{"note": "for people"},
		Namespaces: ns, Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}, Seccomp: &spec.Seccomp{Mode: spec.SeccompDefault},
	}); !reflect.DeepEqual(got.Pod, want) {
		t.Errorf("pod\ngot  %+v\nwant %+v", got.Pod, want)
	}
	if want := (spec.Container{
		Metadata: spec.ContainerMetadata{Name: "prepare"}, Image: "box:1", UserImage: "box:1", LogPath: "prepare.log", Labels: labels,
		Command: []string{"sh", "-c", "echo hello web $(LATER) $HOME $(NONE)"},
		Env:     []spec.Env{{Key: "WHO", Value: "web"}, {Key: "GREETING", Value: "hello web $(LATER)"}},
		Mounts:  []spec.Mount{{ContainerPath: "/scratch", HostPath: "/disk/scratch", Propagation: spec.PropagationPrivate}},
		Security: spec.Security{RunAsUser: &thousand, SupplementalGroups: []int64{7}, GroupsPolicy: spec.GroupsMerge, Namespaces: ns,
			Seccomp: &spec.Seccomp{Mode: spec.SeccompDefault}, MaskedPaths: spec.DefaultMaskedPaths(), ReadonlyPaths: spec.DefaultReadonlyPaths()},
	}); !reflect.DeepEqual(got.Init[0], want) {
		t.Errorf("init\ngot  %+v\nwant %+v", got.Init[0], want)
	}
	c := got.Containers[0]
	if want := (spec.Resources{CPUPeriod: 100000, CPUQuota: 150000, CPUShares: 256, Memory: 64 << 20}); !reflect.DeepEqual(c.Resources, want) {
		t.Errorf("resources %+v, want %+v", c.Resources, want)
	}
	if want := []spec.Mount{
		{ContainerPath: "/data", HostPath: "/srv/data", ReadOnly: true, RecursiveReadOnly: true, Propagation: spec.PropagationPrivate},
		{ContainerPath: "/scratch", HostPath: "/disk/scratch", Propagation: spec.PropagationPrivate},
		{ContainerPath: "/ram", HostPath: "/mem/ram", Propagation: spec.PropagationPrivate},
		{ContainerPath: "/files", Image: "quay.io/a/files", UserImage: "quay.io/a/files", ImageSubPath: "etc", ReadOnly: true, Propagation: spec.PropagationPrivate},
	}; !reflect.DeepEqual(c.Mounts, want) {
		t.Errorf("mounts %+v, want %+v", c.Mounts, want)
	}
	sec := c.Security
	if *sec.RunAsUser != zero || !sec.NoNewPrivs || !sec.ReadonlyRootfs || sec.Seccomp != nil ||
		!slices.Equal(sec.CapAdd, []string{"NET_ADMIN"}) || !slices.Equal(sec.CapDrop, []string{"ALL"}) {
		t.Errorf("security %+v", sec)
	}
	if want := []Image{{"quay.io/a/files", "Always"}, {"box:1", "IfNotPresent"}, {got.Init[1].Image, "IfNotPresent"}, {"nginx", "Always"}}; !slices.Equal(got.Images, want) {
		t.Errorf("images %v", got.Images)
	}
	if want := []Dir{{Path: "/disk/scratch"}, {Path: "/mem/ram", Memory: true, Size: 16 << 20}}; !slices.Equal(got.EmptyDirs, want) {
		t.Errorf("directories %+v", got.EmptyDirs)
	}
	if !got.Sidecars["proxy"] || got.Sidecars["prepare"] || p.Grace() != 5 {
		t.Errorf("sidecars %v, grace %d", got.Sidecars, p.Grace())
	}
}

func TestTextAndBack(t *testing.T) {
	t.Parallel()
	p := parseOne(t, whole)
	again := parseOne(t, p.Text())
	if d := Differences(p, again); len(d) > 0 || !reflect.DeepEqual(p, again) {
		t.Errorf("differs in %v:\n%s", d, p.Text())
	}
	again.Spec.Containers[0].Image = "other"
	again.Spec.RestartPolicy = "Never"
	again.Metadata.Labels = nil
	if d := Differences(p, again); !slices.Equal(d, []string{"metadata.labels", "spec.containers[0].image", "spec.restartPolicy"}) {
		t.Errorf("differences: %v", d)
	}
}

// A pod that was made in another way, and the one that its manifest makes, ask
// for the same.
func TestOfAndPlan(t *testing.T) {
	t.Parallel()
	first := parseOne(t, whole)
	first.Spec.Containers = append(first.Spec.InitContainers, first.Spec.Containers...)
	first.Spec.InitContainers = nil
	first.Spec.Containers[1].RestartPolicy = ""
	plan := first.Plan(place())
	p, lost := Of(&plan.Pod, plan.Containers, "OnFailure")
	if len(lost) > 0 {
		t.Errorf("lost %v", lost)
	}
	again := parseOne(t, p.Text()).Plan(place())
	if !reflect.DeepEqual(again.Pod, plan.Pod) {
		t.Errorf("pod\ngot  %+v\nwant %+v", again.Pod, plan.Pod)
	}
	for i, c := range again.Containers {
		want := plan.Containers[i]
		want.Security.SupplementalGroups, want.Resources.CPUShares, c.Resources.CPUShares = nil, 0, 0 // said of the pod, and by its requests
		if !reflect.DeepEqual(c, want) {
			t.Errorf("container\ngot  %+v\nwant %+v", c, want)
		}
	}
	_, lost = Of(&spec.Pod{ShmSize: 1}, []spec.Container{{Devices: []spec.Device{{}}, StopSignal: "SIGHUP"}}, "Never")
	if len(lost) != 3 {
		t.Errorf("lost %v", lost)
	}
}

// Each case is the manifest with one text in place of another.
func TestWhatIsNotHonouredIsNamedWithItsLine(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ old, new, says string }{
		{"kind: Pod", "kind: Deployment", "line 2: kind: it is v1 Deployment"},
		{"name: web\n", "name: Web_1\n", `line 4: metadata.name: "Web_1"`},
		{"  labels:", "  finalizers: [x]\n  labels:", "line 7: metadata.finalizers: it is not honoured"},
		{"note: for people", "io.berth.run: x", "line 9: metadata.annotations.io.berth.run"},
		{"spec:\n", "spec:\n  nodeSelector: {a: b}\n", "line 11: spec.nodeSelector: it is not honoured here: this is the only node"},
		{"OnFailure", "Sometimes", `line 11: spec.restartPolicy: "Sometimes"`},
		{"enableServiceLinks: false", "enableServiceLinks: true", "line 14: spec.enableServiceLinks"},
		{"type: Directory", "type: Folder", `line 26: spec.volumes[0].hostPath.type: "Folder"`},
		{"/srv/data", "srv/../data", "line 26: spec.volumes[0].hostPath.path"},
		{"emptyDir: {}", "configMap: {name: x}", "line 28: spec.volumes[1].configMap: it is not honoured here: put the files into a hostPath"},
		{"sizeLimit: 16Mi", "sizeLimit: 16Mo", `"16Mo" is no quantity`},
		{"medium: Memory, ", "", "spec.volumes[2].emptyDir.sizeLimit: it is honoured with medium Memory only"},
		{"metadata.labels['app']", "status.podIP", `"status.podIP" is not honoured`},
		{"name: GREETING", "name: 1=2", "is no name of a variable"},
		{"    args: [\"-v\"]", "    args: [\"-v\"]\n    livenessProbe: {httpGet: {port: 80}}", "line 49: spec.containers[0].livenessProbe: it is not honoured here"},
		{"name: server", "name: prepare", "there are two of it"},
		{"    workingDir: /srv", "    restartPolicy: Always", `spec.containers[0].restartPolicy: "Always" is not honoured`},
		{"containerPort: 80,", "containerPort: 80808,", "line 51"},
		{"containerPort: 80,", "containerPort: 0,", "it is not a port from 1 to 65535"},
		{"hostIP: 127.0.0.1", "hostIP: here", `"here" is no address`},
		{"memory: 64Mi", "memory: 64", "in which no container starts"},
		{"cpu: 250m", "gpu: 1", "spec.containers[0].resources.requests.gpu: it is not honoured here"},
		{"{name: data, mountPath", "{name: dat, mountPath", `the pod has no volume "dat"`},
		{"mountPath: /data,", "mountPath: data,", "is not an absolute path below /"},
		{"mountPath: /ram", "mountPath: /ram, subPath: a", "subPath: it is honoured of images only"},
		{"mountPath: /ram", "mountPath: /ram, mountPropagation: Bidirectional", "needs a privileged container"},
		{"mountPath: /ram", "mountPath: /scratch/", "two volumes are mounted at /scratch"},
		{"runAsUser: 0", "runAsUser: 0\n      runAsNonRoot: true", "runAsUser is 0, which is root"},
		{"type: Unconfined", "type: Localhost", "that needs it"},
		{"type: Unconfined", "type: None", `"None" is not honoured`},
		{"capabilities: {add: [CAP_NET_ADMIN], drop: [all]}", "capabilities: all", "it must be a mapping"},
		{"supplementalGroups: [7]", "fsGroup: 7", "line 22: spec.securityContext.fsGroup: it is not honoured here: give the files"},
		{"args: [\"-v\"]", "args: -v", "it must be a list"},
		{"  restartPolicy: OnFailure", "  restartPolicy: OnFailure\n  restartPolicy: Never", "already defined"},
	} {
		text := strings.Replace(whole, tc.old, tc.new, 1)
		if text == whole {
			t.Fatalf("%q is not in the manifest", tc.old)
		}
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), tc.says) || !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%q: got %v, want %q", tc.new, err, tc.says)
		}
	}
}

func TestAllThatIsWrongIsToldTogether(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("OnFailure", "Sometimes", "type: Directory", "type: Folder").Replace(whole) + "---\n" + strings.Replace(whole, "kind: Pod", "kind: Job", 1)
	_, err := Parse([]byte(text))
	for _, says := range []string{"line 11:", "line 26:", "v1 Job"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q is not in %v", says, err)
		}
	}
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	const json = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "j"}, "spec": {"containers": [{"name": "c", "image": "box"}]}}`
	pods, err := Parse([]byte("# nothing yet\n---\n" + whole + "---\n" + json + "\n---\n"))
	if err != nil || len(pods) != 2 || pods[1].Metadata.Name != "j" {
		t.Fatalf("%v, %+v", err, pods)
	}
	anchored := strings.Replace(json, `[{"name": "c", "image": "box"}]`, `[&a {"name": "c", "image": "box"}]`, 1)
	if _, err := Parse([]byte(anchored)); err != nil {
		t.Error(err)
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		c := string(rune('b' + i))
		bomb += c + ": &" + c + " [" + strings.TrimSuffix(strings.Repeat("*"+string(rune('a'+i))+",", 9), ",") + "]\n"
	}
	for name, text := range map[string]string{
		"nothing": "", "only comments": "# a\n---\n", "no YAML": "\t{", "a list": "- a\n", "too long": strings.Repeat("#", maxText+1),
		"too many":  strings.Repeat(json+"\n---\n", maxPods+1),
		"a bomb":    json[:len(json)-1] + ", \"spec\": {\"volumes\": [" + strings.Repeat("{},", maxNodes+1) + "{}]}}",
		"aliases":   bomb,
		"merge key": "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  <<: {hostPID: true}\n",
	} {
		if pods, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, pods)
		}
	}
}

func TestQuantities(t *testing.T) {
	t.Parallel()
	for q, want := range map[Quantity]int64{
		"1": 1000, "0.5": 500, "500m": 500, "1.5": 1500, "1e3": 1e6, "2E1": 20000, "1k": 1e6, "1Ki": 1024000, "0.0001": 1, "64Mi": 64 << 20 * 1000, "3u": 1,
	} {
		if got, err := q.times(1000); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", q, got, err, want)
		}
	}
	for _, q := range []Quantity{"", "m", "-1", "1x", "1ki", "1e99", "1e3Ki", "1/2", "1_0", "0x1", "99999999999999999999", Quantity(strings.Repeat("9", 40))} {
		if got, err := q.times(1000); err == nil {
			t.Errorf("%s: %d", q, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Fuzz(func(t *testing.T, text []byte) {
		pods, err := Parse(text)
		if err != nil {
			return
		}
		for i := range pods {
			pods[i].Plan(place())
			again, err := Parse([]byte(pods[i].Text()))
			if err != nil || len(again) != 1 {
				t.Fatalf("cannot be read again: %v\n%s", err, pods[i].Text())
			}
		}
	})
}

// The example is honoured as a whole.
func TestTheExampleOfADatabase(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../hack/example/pod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	plan := parseOne(t, string(text)).Plan(place())
	c := plan.Containers[0]
	if c.Image != "db:1" || c.Mounts[0].HostPath != "/srv/db" || c.Mounts[0].ContainerPath != "/data/db" || plan.EmptyDirs[0].Size != 256<<20 ||
		plan.Pod.Ports[0] != (spec.PortMapping{Protocol: "tcp", ContainerPort: 5432, HostPort: 5432, HostIP: "127.0.0.1"}) {
		t.Errorf("%+v", plan)
	}
}
