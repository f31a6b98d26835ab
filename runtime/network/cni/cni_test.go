package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/cnitest"
	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/cni"
	"github.com/berth-runtime/berth/runtime/network/hostports"
	"github.com/berth-runtime/berth/runtime/network/portmap"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// The test binary is the plugin too, under the plugins' names.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		os.Exit(cnitest.Main())
	}
	os.Exit(m.Run())
}

// lab is a Network with directories of its own.
type lab struct {
	t   *testing.T
	cfg cni.Config
	*cni.Network
	plugin cnitest.Dir
}

func newLab(t *testing.T, change ...func(*cni.Config)) *lab {
	t.Helper()
	dir := t.TempDir()
	l := &lab{t: t, plugin: cnitest.Dir(filepath.Join(dir, "plugin"))}
	l.cfg = cni.Config{ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{filepath.Join(dir, "none"), filepath.Join(dir, "bin")}, MaxNetworks: 1,
		CacheDir: filepath.Join(dir, "cache"), Owner: dir, Timeout: time.Minute}
	for _, f := range change {
		f(&l.cfg)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{cnitest.Type, "portmap", "bandwidth"} {
		if err := os.Symlink(self, filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	l.start()
	t.Cleanup(func() { l.Close() })
	return l
}

// start makes the Network anew, as a daemon that starts does.
func (l *lab) start() {
	l.t.Helper()
	if l.Network != nil {
		l.Close()
	}
	l.cfg.HostPorts = hostports.New(&portmap.Ports{}, "berth-cnitest")
	n, err := cni.New(context.Background(), l.cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	l.Network = n
}

func (l *lab) list(version, name string, plugins ...map[string]any) string {
	l.t.Helper()
	text, err := json.Marshal(map[string]any{"cniVersion": version, "name": name, "plugins": plugins})
	if err != nil {
		l.t.Fatal(err)
	}
	return string(text)
}

type m = map[string]any

// plain is a list with the one plugin of the tests, which gives two addresses.
func (l *lab) plain() string {
	return l.list("1.1.0", "net1", m{"type": cnitest.Type, "subnets": []string{"10.9.0.0/24", "fd09::/64"}})
}

// write puts a file into a directory that it makes if need be, as a whole.
func (l *lab) write(path, text string) {
	l.t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path+".tmp", []byte(text), 0o644), os.Rename(path+".tmp", path))
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) conf(file string) string { return filepath.Join(l.cfg.ConfDir, file) }

func (l *lab) faults(f cnitest.Faults) {
	l.t.Helper()
	if err := l.plugin.SetFaults(f); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) calls(verbs ...string) []cnitest.Call {
	l.t.Helper()
	calls, err := l.plugin.Calls(verbs...)
	if err != nil {
		l.t.Fatal(err)
	}
	return calls
}

func (l *lab) eventually(what string, f func() bool) {
	l.t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("never: %s", what)
		}
	}
}

// configured waits until a file just written has been read.
func (l *lab) configured(file, text string) {
	l.t.Helper()
	l.write(l.conf(file), text)
	l.eventually("the configuration is read", func() bool { return strings.Contains(l.Info()["cniconfig"], l.conf(file)) })
}

func podID(n int) string { return fmt.Sprintf("%064x", n) }

func request(n int) network.Request {
	return network.Request{PodID: podID(n), Namespace: "ns", Name: fmt.Sprintf("pod%d", n), UID: "uid", Netns: "/var/run/netns/none"}
}

func (l *lab) reserve(r network.Request) network.Lease {
	l.t.Helper()
	lease, err := l.Reserve(l.t.Context(), r)
	if err != nil {
		l.t.Fatal(err)
	}
	return lease
}

func (l *lab) attach(r network.Request) network.Lease {
	l.t.Helper()
	lease, err := l.Attach(l.t.Context(), r, l.reserve(r))
	if err != nil {
		l.t.Fatal(err)
	}
	return lease
}

func (l *lab) detach(lease network.Lease) {
	l.t.Helper()
	if err := l.Detach(l.t.Context(), lease, ""); err != nil {
		l.t.Fatal(err)
	}
	l.Release(lease.PodID)
}

// clean wants nothing held and nothing that Check finds.
func (l *lab) clean() {
	l.t.Helper()
	if held, err := l.plugin.Held(); err != nil || len(held) > 0 {
		l.t.Errorf("addresses are held: %v, %v", held, err)
	}
	if os.Geteuid() == 0 {
		if diffs, err := l.Check(l.t.Context()); err != nil || len(diffs) > 0 {
			l.t.Errorf("the check finds %q, %v", diffs, err)
		}
	}
}

func want(t *testing.T, err error, kind errkind.Kind, words ...string) {
	t.Helper()
	if err == nil || errkind.Of(err) != kind {
		t.Errorf("got %v (%v), want %v", err, errkind.Of(err), kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestAPodIsAttachedAndDetached(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			l := newLab(t)
			l.configured("10.conflist", l.list(version, "net1", m{"type": cnitest.Type, "subnets": []string{"fd09::/64", "10.9.0.0/24"}}))
			if err := l.Status(t.Context()); version != "1.1.0" && err != nil {
				t.Error(err)
			}
			r := request(1)
			reserved := l.reserve(r)
			if len(l.calls("ADD")) > 0 || len(reserved.Addresses) > 0 || len(reserved.Attachments) != 1 || reserved.Attachments[0].Result != nil {
				t.Fatalf("before any plugin ran: %+v", reserved)
			}
			lease, err := l.Attach(t.Context(), r, reserved)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := fmt.Sprint(lease.Addresses), "[10.9.0.2 fd09::2]"; got != want {
				t.Errorf("addresses %s, want %s", got, want)
			}
			add := l.calls("ADD")[0]
			if add.Interface != "eth0" || add.ContainerID != r.PodID || add.Netns != r.Netns {
				t.Errorf("%+v", add)
			}
			if want := "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod1;K8S_POD_INFRA_CONTAINER_ID=" + r.PodID + ";K8S_POD_UID=uid"; add.Args != want {
				t.Errorf("CNI_ARGS is %s, want %s", add.Args, want)
			}
			if again, err := l.Attach(t.Context(), r, lease); err != nil || len(l.calls("ADD")) != 1 || !slices.Equal(again.Addresses, lease.Addresses) {
				t.Errorf("attached again: %+v, %v", again, err)
			}
			if os.Geteuid() == 0 {
				if diffs, err := l.Check(t.Context()); err != nil || len(diffs) > 0 {
					t.Errorf("the check finds %q, %v", diffs, err)
				}
			}
			l.detach(lease)
			del := l.calls("DEL")[0]
			if del.Netns != "" || del.Args != add.Args {
				t.Errorf("without a namespace: %+v", del)
			}
			if has := strings.Contains(string(del.Stdin), `"prevResult"`); has != (version != "0.3.1") {
				t.Errorf("DEL of %s has the result: %v", version, has)
			}
			l.clean()
		})
	}
}

// Which address comes first is the administrator's to say.
func TestThePrimaryAddress(t *testing.T) {
	t.Parallel()
	for prefer, want := range map[cni.Prefer]string{cni.PreferIPv4: "[10.9.0.2 fd09::2 10.8.0.2]", cni.PreferIPv6: "[fd09::2 10.9.0.2 10.8.0.2]", cni.PreferOrder: "[10.9.0.2 fd09::2 10.8.0.2]"} {
		l := newLab(t, func(c *cni.Config) { c.Prefer = prefer })
		l.configured("10.conflist", l.list("1.0.0", "net1", m{"type": cnitest.Type, "subnets": []string{"10.9.0.0/24", "fd09::/64", "10.8.0.0/24"}}))
		if got := fmt.Sprint(l.attach(request(1)).Addresses); got != want {
			t.Errorf("%s: %s, want %s", prefer, got, want)
		}
	}
}

// The plugin lies or fails: the error names the plugin, the network and the pod,
// what was begun is undone, and nothing is left.
func TestFaults(t *testing.T) {
	t.Parallel()
	for fault, words := range map[string][]string{
		cnitest.Fail:    {"the cable is cut", "said the plugin of the tests", "code 100"},
		cnitest.Busy:    {"the switch is busy"},
		cnitest.Mute:    {"exit status 3", `"no cable\x1b[2J"`},
		cnitest.Garbage: {"no result", "504"},
		cnitest.NoIPs:   {"eth0 no address"},
		cnitest.Null:    {"null"},
		cnitest.BadIPs:  {"interface 7 of 2"},
		cnitest.Huge:    {"more than 1048576 bytes"},
		cnitest.After:   {"the cable came off"},
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.configured("10.conflist", l.plain())
			l.faults(cnitest.Faults{"ADD": fault, "DEL": fault})
			r := request(1)
			lease, err := l.Attach(t.Context(), r, l.reserve(r))
			kind := errkind.Unknown
			if fault == cnitest.Busy {
				kind = errkind.Unavailable
			}
			want(t, err, kind, append(words, `network "net1"`, "pod ns/pod1 ("+r.PodID+")")...)
			if strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%q can steer a terminal", err)
			}
			switch fault {
			case cnitest.Fail, cnitest.Busy, cnitest.Mute, cnitest.After:
				if err := l.Detach(t.Context(), lease, ""); err == nil || !strings.Contains(err.Error(), `cannot detach pod `+r.PodID+` from network "net1": plugin fault: DEL: `) {
					t.Errorf("DEL fails, and Detach says %v", err)
				}
			}
			l.faults(nil)
			l.detach(lease)
			l.clean()
		})
	}
}

// A plugin that hangs is killed with all that it started, and holds up its own
// pod only.
func TestAPluginThatHangs(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *cni.Config) { c.Timeout = 10 * time.Second })
	l.configured("10.conflist", l.plain())
	l.faults(cnitest.Faults{"ADD": cnitest.Hang})
	r, failed := request(1), make(chan error, 1)
	lease := l.reserve(r)
	go func() {
		_, err := l.Attach(context.Background(), r, lease)
		failed <- err
	}()
	l.eventually("the plugin hangs", func() bool { return len(l.calls("ADD")) == 1 })
	l.faults(nil)
	l.attach(request(2))
	want(t, <-failed, errkind.DeadlineExceeded, "plugin fault", "was killed", "network.cni.timeout", "net1", "pod1")
	l.eventually("nothing of it is left", func() bool { return len(marked(t, l.cfg.Owner)) == 0 })
}

// marked are the processes that have the mark of a daemon's plugins.
func marked(t *testing.T, owner string) []string {
	t.Helper()
	var out []string
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), "BERTH_CNI="+owner+";") {
			out = append(out, f)
		}
	}
	return out
}

// What a daemon left running when it was killed has ended before the next one
// runs anything; what a plugin left to live on does.
func TestPluginsOfAnEarlierDaemon(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.configured("10.conflist", l.plain())
	l.faults(cnitest.Faults{"ADD": cnitest.Daemon})
	lease := l.attach(request(1))
	kept := marked(t, l.cfg.Owner)
	if len(kept) != 1 {
		t.Fatalf("%q live on, want one", kept)
	}
	t.Cleanup(func() {
		var pid int
		if _, err := fmt.Sscanf(kept[0], "/proc/%d/", &pid); err == nil {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
	})
	// A run as an earlier daemon of the same session would have left it: of a
	// process that nobody waits for here.
	stray := exec.Command("sleep", "1000")
	text, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range strings.Split(string(text), "\x00") {
		if strings.HasPrefix(v, "BERTH_CNI=") {
			stray.Env = append(os.Environ(), v)
		}
	}
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- stray.Wait() }()
	l.start()
	if err := l.Restore(lease); err != nil {
		t.Fatal(err)
	}
	l.detach(lease)
	if err := <-ended; err == nil {
		t.Error("the stray ended by itself")
	}
	if now := marked(t, l.cfg.Owner); !slices.Equal(now, kept) {
		t.Errorf("%q live on, want %q", now, kept)
	}
	l.clean()
}

// What a pod was attached with is what it is detached with: the list is another
// one by then, or gone, and so is what libcni keeps.
func TestDetachGoesByTheRecord(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.configured("10.conflist", l.plain())
	lease := l.attach(request(1))
	text, err := json.Marshal(lease)
	if err != nil {
		t.Fatal(err)
	}
	l.configured("05.conflist", l.list("1.0.0", "net2", m{"type": "nosuch"}))
	if err := errors.Join(os.Remove(l.conf("10.conflist")), os.RemoveAll(l.cfg.CacheDir)); err != nil {
		t.Fatal(err)
	}
	l.start()
	var read network.Lease
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if err := l.Restore(read); err != nil {
		t.Fatal(err)
	}
	l.detach(read)
	if del := l.calls("DEL"); len(del) != 1 || !strings.Contains(string(del[0].Stdin), `"prevResult":{`) || !strings.Contains(string(del[0].Stdin), `"name":"net1"`) {
		t.Errorf("DEL: %+v", del)
	}
	l.clean()
}

// A lease of a pod of another boot is never restored, only detached.
func TestDetachOfAnotherBoot(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.configured("10.conflist", l.plain())
	lease := l.attach(request(1))
	if err := os.RemoveAll(l.cfg.CacheDir); err != nil {
		t.Fatal(err)
	}
	l.start()
	file := filepath.Join(t.TempDir(), "netns") // where the namespace was pinned
	l.write(file, "")
	if err := l.Detach(t.Context(), lease, file); err != nil {
		t.Fatal(err)
	}
	if del := l.calls("DEL"); len(del) != 1 || del[0].Netns != "" {
		t.Errorf("DEL: %+v", del)
	}
	l.clean()
}

// Nothing is asked of plugins for a pod that was never attached.
func TestNothingBegunNothingUndone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.configured("10.conflist", l.plain())
	l.detach(l.reserve(request(1)))
	if c := l.calls("ADD", "DEL"); len(c) > 0 {
		t.Errorf("%+v", c)
	}
}

// The directory may come late, be replaced, removed, come again, or be a link.
func TestTheDirectoryIsWatched(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *cni.Config) { c.ConfDir = filepath.Join(c.ConfDir, "deeper", "net.d") })
	is := func(what string) {
		t.Helper()
		l.eventually(what, func() bool {
			text := l.Info()["cniconfig"]
			if what == "" {
				return !strings.Contains(text, `"name"`) && errkind.Is(l.Status(t.Context()), errkind.NotFound) && !l.Configured("")
			}
			return strings.Contains(text, `"name":"`+what+`"`) && l.Configured("")
		})
	}
	named := func(name string) string { return l.list("1.0.0", name, m{"type": cnitest.Type}) }
	dir := l.cfg.ConfDir
	is("")
	if _, err := l.Reserve(t.Context(), request(1)); !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), dir) {
		t.Errorf("without any: %v", err)
	}
	l.write(l.conf("10.conflist"), named("late"))
	is("late")
	l.write(l.conf("10.conflist"), named("replaced"))
	is("replaced")
	l.write(l.conf("05.conf"), `{"cniVersion":"1.0.0","name":"single","type":"fault"}`)
	is("single")
	l.write(l.conf("01.txt"), "not one of those") // passed over
	if err := os.Remove(l.conf("05.conf")); err != nil {
		t.Fatal(err)
	}
	is("replaced")
	if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	is("")
	l.write(l.conf("10.conflist"), named("again"))
	is("again")
	aside := filepath.Join(t.TempDir(), "aside")
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	is("")
	if err := os.Symlink(aside, dir); err != nil {
		t.Fatal(err)
	}
	is("again")
	other := filepath.Join(t.TempDir(), "other")
	l.write(filepath.Join(other, "10.conflist"), named("elsewhere"))
	if err := errors.Join(os.Symlink(other, dir+".new"), os.Rename(dir+".new", dir)); err != nil {
		t.Fatal(err)
	}
	is("elsewhere")
	l.write(filepath.Join(other, "10.conflist"), named("through the link"))
	l.eventually("the name is refused", func() bool {
		err := l.Status(t.Context())
		return err != nil && strings.Contains(err.Error(), "invalid characters")
	})
	l.write(filepath.Join(other, "10.conflist"), named("followed"))
	is("followed")
}

// Plugins in files of their own are part of the list, and of the record.
func TestPluginsBesideTheList(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.configured("10.conflist", l.plain())
	l.write(l.conf("net1/20-more.conf"), `{"type":"fault"}`)
	l.eventually("the other file is read", func() bool { return strings.Contains(l.Info()["cniconfig"], `["fault","fault"]`) })
	lease := l.attach(request(1))
	if err := os.RemoveAll(l.cfg.ConfDir); err != nil {
		t.Fatal(err)
	}
	l.detach(lease)
	if a, d := len(l.calls("ADD")), len(l.calls("DEL")); a != 2 || d != 2 {
		t.Errorf("%d ADD and %d DEL, want two of each", a, d)
	}
}

// T-NET. Every configuration that cannot work says why, and the file; a plugin
// that is named by a path is none (CVE-2021-20206).
func TestWrongConfigurations(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"path":         {`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../../tmp/evil"}]}`, "is a path"},
		"dots":         {`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":".."}]}`, "is a path"},
		"path of ipam": {`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","ipam":{"type":"a/b"}}]}`, "is a path"},
		"no JSON":      {`{`, "unexpected end"},
		"no plugins":   {`{"cniVersion":"1.0.0","name":"n","plugins":[]}`, "no plugins"},
		"no name":      {`{"cniVersion":"1.0.0","plugins":[{"type":"fault"}]}`, "no name"},
		"name":         {`{"cniVersion":"1.0.0","name":"../n","plugins":[{"type":"fault"}]}`, "invalid characters"},
		"future":       {`{"cniVersion":"9.0.0","name":"n","plugins":[{"type":"fault"}]}`, `"9.0.0"`},
		"huge":         {strings.Repeat(" ", 2<<20), "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.write(l.conf("10.conflist"), c.text)
			l.eventually("it is refused", func() bool {
				err := l.Status(t.Context())
				return err != nil && strings.Contains(err.Error(), c.want) && strings.Contains(err.Error(), l.conf("10.conflist"))
			})
			if !l.Configured("") {
				t.Error("what is wrong is taken for what is not there")
			}
			if _, err := l.Reserve(t.Context(), request(1)); err == nil {
				t.Error("a pod is given a network")
			}
		})
	}
}

// The type in a record is not trusted either.
func TestAPathInARecordIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.configured("10.conflist", l.plain())
	lease := l.attach(request(1))
	evil := lease
	evil.Attachments = slices.Clone(lease.Attachments)
	evil.Attachments[0].List = json.RawMessage(`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../bin/fault"}]}`)
	if err := l.Detach(t.Context(), evil, ""); err == nil || !strings.Contains(err.Error(), "is a path") {
		t.Errorf("got %v", err)
	}
	l.detach(lease)
}

// Plugins get the data of the capabilities that they declare; two reference
// plugins that would do nothing without them are not run then, any other is.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	all := m{"portMappings": true, "bandwidth": true, "dns": true, "cgroupPath": true, "io.kubernetes.cri.pod-annotations": true}
	l.configured("10.conflist", l.list("1.0.0", "net1",
		m{"type": cnitest.Type, "subnets": []string{"10.9.0.0/24"}, "capabilities": all},
		m{"type": "portmap", "capabilities": m{"portMappings": true}, "snat": true},
		m{"type": "bandwidth", "capabilities": m{"bandwidth": true}}))
	ran := func(r network.Request) (stdin []string, names string) {
		t.Helper()
		before := len(l.calls())
		lease := l.attach(r)
		adds := len(l.calls())
		l.detach(lease)
		calls := l.calls()[before:]
		for i, c := range calls {
			var conf struct {
				Type string
				Data json.RawMessage `json:"runtimeConfig"`
			}
			if err := json.Unmarshal(c.Stdin, &conf); err != nil {
				t.Fatal(err)
			}
			if i < adds-before {
				stdin = append(stdin, string(conf.Data))
			}
			names += c.Verb + " " + conf.Type + " "
		}
		return stdin, strings.TrimSpace(names)
	}
	if data, names := ran(request(1)); names != "ADD fault DEL fault" || data[0] != "" {
		t.Errorf("nothing asked: %s %q", names, data)
	}
	r := request(2)
	r.Ports = []spec.PortMapping{{Protocol: "tcp", ContainerPort: 80, HostPort: 18765}, {Protocol: "tcp", ContainerPort: 81}}
	if data, names := ran(r); names != "ADD fault ADD portmap DEL portmap DEL fault" ||
		data[1] != `{"portMappings":[{"hostPort":18765,"containerPort":80,"protocol":"tcp","hostIP":""}]}` {
		t.Errorf("ports: %s %q", names, data)
	}
	r = request(3)
	r.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "10M", "other": "x"}
	r.DNS = &spec.DNS{Servers: []string{"192.0.2.1"}}
	r.CgroupParent = "/kubepods/x"
	data, names := ran(r)
	if names != "ADD fault ADD bandwidth DEL bandwidth DEL fault" || data[1] != `{"bandwidth":{"ingressRate":10000000,"ingressBurst":4294967295}}` {
		t.Errorf("bandwidth: %s %q", names, data)
	}
	for _, part := range []string{`"dns":{"servers":["192.0.2.1"]}`, `"cgroupPath":"/kubepods/x"`, `"io.kubernetes.cri.pod-annotations":{"kubernetes.io/ingress-bandwidth":"10M","other":"x"}`} {
		if !strings.Contains(data[0], part) {
			t.Errorf("%s is missing in %s", part, data[0])
		}
	}
	// Rates in the configuration, an option nobody knows, no declaration: run.
	l.configured("05.conflist", l.list("1.0.0", "net2", m{"type": cnitest.Type, "subnets": []string{"10.9.0.0/24"}},
		m{"type": "bandwidth", "capabilities": m{"bandwidth": true}, "ingressRate": 1000, "ingressBurst": 1000},
		m{"type": "portmap", "capabilities": m{"portMappings": true}, "always": true}, m{"type": "portmap"}))
	if _, names := ran(request(4)); names != "ADD fault ADD bandwidth ADD portmap ADD portmap DEL portmap DEL portmap DEL bandwidth DEL fault" {
		t.Errorf("in doubt: %s", names)
	}
	l.clean()
}

// Addresses that a person wants go to the plugins that take wishes; where there
// are none, that is an error and not forgotten.
func TestWishes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.configured("10.conflist", l.list("1.0.0", "net1", m{"type": cnitest.Type, "subnets": []string{"10.9.0.0/24"}, "capabilities": m{"ips": true}}))
	r := request(1)
	r.IPs = []netip.Addr{netip.MustParseAddr("10.9.0.77"), netip.MustParseAddr("fd09::77")}
	l.attach(r)
	if text := string(l.calls("ADD")[0].Stdin); !strings.Contains(text, `"runtimeConfig":{"ips":["10.9.0.77","fd09::77"]}`) {
		t.Error(text)
	}
	r = request(2)
	r.MAC = "0a:58:0a:09:00:4d"
	_, err := l.Reserve(t.Context(), r)
	want(t, err, errkind.FailedPrecondition, `capability "mac"`, "net1")
	l.configured("05.conflist", l.list("1.0.0", "net2", m{"type": cnitest.Type, "subnets": []string{"10.9.0.0/24"}, "capabilities": m{"mac": true}}))
	l.attach(r)
	if text := string(l.calls("ADD")[1].Stdin); !strings.Contains(text, `"mac":"0a:58:0a:09:00:4d"`) {
		t.Error(text)
	}
}

// Annotations that make no sense refuse the pod, with the annotation's name.
func TestWrongRequests(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.configured("10.conflist", l.plain())
	for value, word := range map[string]string{"fast": "no quantity", "1": "between 1k and 1P", "2P": "between", "-1M": "no quantity", "1e99": "no quantity", "": "no quantity"} {
		r := request(1)
		r.Annotations = map[string]string{"kubernetes.io/egress-bandwidth": value}
		_, err := l.Reserve(t.Context(), r)
		want(t, err, errkind.InvalidArgument, "kubernetes.io/egress-bandwidth", word)
	}
	r := request(1)
	r.Name = "a;K8S_POD_NAMESPACE=kube-system"
	_, err := l.Reserve(t.Context(), r)
	want(t, err, errkind.InvalidArgument, "semicolon")
}

// Two networks: the first interface has the pod's addresses, and a failure of the
// second undoes both.
func TestSeveralNetworks(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *cni.Config) { c.MaxNetworks = 2 })
	l.write(l.conf("20.conflist"), l.list("1.0.0", "net2", m{"type": cnitest.Type, "subnets": []string{"10.8.0.0/24"}}))
	l.write(l.conf("30.conflist"), l.list("1.0.0", "net3", m{"type": cnitest.Type}))
	l.configured("10.conflist", l.plain())
	l.eventually("both are read", func() bool {
		return strings.Contains(l.Info()["cniconfig"], "net2") && !strings.Contains(l.Info()["cniconfig"], "net3")
	})
	lease := l.attach(request(1))
	if got := fmt.Sprint(lease.Addresses); got != "[10.9.0.2 fd09::2]" {
		t.Errorf("addresses %s", got)
	}
	if add := l.calls("ADD"); len(add) != 2 || add[1].Interface != "eth1" {
		t.Errorf("%+v", add)
	}
	l.detach(lease)
	l.clean()
}

// A runtime handler may have networks of its own.
func TestHandlers(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *cni.Config) {
		c.HandlerDirs = map[string]string{"kata": filepath.Join(c.ConfDir, "..", "kata.d")}
	})
	l.configured("10.conflist", l.plain())
	r := request(1)
	r.Handler = "kata"
	if _, err := l.Reserve(t.Context(), r); err == nil || l.Configured("kata") {
		t.Errorf("there is none for the handler yet: %v", err)
	}
	l.write(filepath.Join(l.cfg.HandlerDirs["kata"], "10.conflist"), l.list("1.0.0", "other", m{"type": cnitest.Type, "subnets": []string{"10.7.0.0/24"}}))
	l.eventually("it is read", func() bool { return l.Configured("kata") && l.Info()["lastCNILoadStatus.kata"] == "OK" })
	if got := l.attach(r).Addresses; !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.7.0.2")}) {
		t.Errorf("addresses %v", got)
	}
}

// The plugins say how they are; nobody waits for them, and a pod is not refused
// for it.
func TestStatusOfPlugins(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.faults(cnitest.Faults{"STATUS": cnitest.Fail})
	l.configured("10.conflist", l.plain())
	l.eventually("the network is not ready", func() bool {
		err := l.Status(t.Context())
		return err != nil && strings.Contains(err.Error(), `network "net1" is not ready: plugin fault: STATUS: the cable is cut`)
	})
	l.faults(nil)
	l.eventually("the network is ready", func() bool { return l.Status(t.Context()) == nil })
	asked := len(l.calls("STATUS"))
	for range 100 {
		if err := l.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if again := len(l.calls("STATUS")); again != asked {
		t.Errorf("the plugins were asked %d times more", again-asked)
	}
	l.faults(cnitest.Faults{"STATUS": cnitest.Hang})
	l.start()
	if err := l.Status(t.Context()); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("while they do not answer: %v", err)
	}
	l.attach(request(1))
}

// At its start the daemon has given back what no record explains, by DEL where
// a result is kept, by GC for the rest; what has a record is kept.
func TestGarbage(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: host ports are repaired too")
	}
	l := newLab(t)
	l.configured("10.conflist", l.plain())
	kept, lost, half := l.attach(request(1)), l.attach(request(2)), request(3)
	aside := l.cfg.CacheDir + ".aside"
	if err := os.Rename(l.cfg.CacheDir, aside); err != nil {
		t.Fatal(err)
	}
	if diffs, err := l.Check(t.Context()); err != nil || len(diffs) != 2 || !strings.Contains(diffs[0], "no result of that is kept") {
		t.Errorf("without what libcni keeps the check finds %q, %v", diffs, err)
	}
	if err := os.Rename(aside, l.cfg.CacheDir); err != nil {
		t.Fatal(err)
	}
	l.faults(cnitest.Faults{"ADD": cnitest.After})
	if _, err := l.Attach(t.Context(), half, l.reserve(half)); err == nil {
		t.Fatal("the plugin fails")
	}
	l.faults(nil)
	l.start()
	if err := l.Restore(kept); err != nil {
		t.Fatal(err)
	}
	if diffs, err := l.Check(t.Context()); err != nil || len(diffs) != 1 || !strings.Contains(diffs[0], lost.PodID) {
		t.Errorf("the check finds %q, %v", diffs, err)
	}
	if err := l.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	held, err := l.plugin.Held()
	if err != nil || len(held) != 2 {
		t.Errorf("held: %v, %v", held, err)
	}
	for _, by := range held {
		if by != kept.PodID+" eth0" {
			t.Errorf("held by %s", by)
		}
	}
	if del := l.calls("DEL"); len(del) != 1 || del[0].ContainerID != lost.PodID {
		t.Errorf("DEL: %+v", del)
	}
	if len(l.calls("GC")) != 1 {
		t.Errorf("GC: %+v", l.calls("GC"))
	}
	l.detach(kept)
	l.clean()
}

// While the plugins collect garbage a new pod waits: they would take it for some.
func TestPodsWaitForTheCollection(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: host ports are repaired too")
	}
	l := newLab(t)
	l.configured("10.conflist", l.plain())
	known := l.reserve(request(1))
	l.faults(cnitest.Faults{"GC": cnitest.Slow})
	done := make(chan error, 1)
	go func() { done <- l.Repair(context.Background()) }()
	l.eventually("the collection is under way", func() bool { return len(l.calls("GC")) == 1 })
	if _, err := l.Attach(t.Context(), request(1), known); err != nil {
		t.Errorf("a pod that they know of: %v", err)
	}
	lease := l.attach(request(2))
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	default:
		t.Error("a new pod was attached during the collection")
	}
	held, err := l.plugin.Held()
	if err != nil || len(held) != 4 {
		t.Errorf("held: %v, %v", held, err)
	}
	l.detach(lease)
	l.detach(known)
}

// Plugins that hang do not hold up the daemon's start, and are killed.
func TestPluginsThatHangAtTheStart(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: host ports are repaired too")
	}
	l := newLab(t)
	l.configured("10.conflist", l.plain())
	l.faults(cnitest.Faults{"GC": cnitest.Hang, "STATUS": cnitest.Hang})
	if err := l.Repair(t.Context()); err != nil {
		t.Error(err)
	}
	if err := l.Status(t.Context()); !errkind.Is(err, errkind.Unavailable) {
		t.Errorf("status: %v", err)
	}
	l.Close()
	l.Network = nil
	l.eventually("they are ended", func() bool { return len(marked(t, l.cfg.Owner)) == 0 })
	l.start()
}

// A network that others use too is not collected.
func TestDisableGC(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: host ports are repaired too")
	}
	l := newLab(t)
	l.configured("10.conflist", `{"disableGC":true,`+l.plain()[1:])
	if err := l.Repair(t.Context()); err != nil || len(l.calls("GC")) > 0 {
		t.Errorf("%v, %+v", err, l.calls("GC"))
	}
}

// A port that one pod has is no other's, whoever serves it.
func TestHostPortsAreHeldOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.configured("10.conflist", l.list("1.0.0", "net1", m{"type": cnitest.Type, "subnets": []string{"10.9.0.0/24"}},
		m{"type": "portmap", "capabilities": m{"portMappings": true}}))
	r := request(1)
	r.Ports = []spec.PortMapping{{Protocol: "tcp", ContainerPort: 80, HostPort: 18766}}
	lease := l.attach(r)
	other := request(2)
	other.Ports = r.Ports
	_, err := l.Reserve(t.Context(), other)
	want(t, err, errkind.AlreadyExists, "18766", "ns/pod1")
	l.start()
	if err := l.Restore(lease); err != nil {
		t.Fatal(err)
	}
	_, err = l.Reserve(t.Context(), other)
	want(t, err, errkind.AlreadyExists, "ns/pod1")
	l.detach(lease)
	l.reserve(other)
}

// The kubelet's word becomes a configuration where there is none.
func TestTemplate(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *cni.Config) { c.ConfTemplate = filepath.Join(c.ConfDir, "..", "template") })
	l.write(l.cfg.ConfTemplate, `{"cniVersion":"1.0.0","name":"made","plugins":[{"type":"fault","subnets":[{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}"{{$r}}"{{end}}],`+
		`"first":"{{.PodCIDR}}","routes":[{{range $i, $r := .Routes}}{{if $i}},{{end}}{"dst":"{{$r}}"}{{end}}]}]}`)
	if err := l.SetPodCIDR(t.Context(), ""); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"10.1.0.0", "10.1.0.0/24,nonsense", "10.1.0.0/24;fd00::/64"} {
		want(t, l.SetPodCIDR(t.Context(), bad), errkind.InvalidArgument, bad)
	}
	if l.Configured("") {
		t.Error("there is a configuration already")
	}
	if err := l.SetPodCIDR(t.Context(), "10.1.0.0/24,fd01::/64"); err != nil {
		t.Fatal(err)
	}
	lease := l.attach(request(1))
	if got := fmt.Sprint(lease.Addresses); got != "[10.1.0.2 fd01::2]" {
		t.Errorf("addresses %s", got)
	}
	text := string(l.calls("ADD")[0].Stdin)
	if !strings.Contains(text, `"first":"10.1.0.0/24"`) || !strings.Contains(text, `"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]`) {
		t.Error(text)
	}
	if err := l.SetPodCIDR(t.Context(), "10.2.0.0/24"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(l.conf("10-berth-net.conflist")); err != nil || strings.Contains(string(text), "10.2.0.0") {
		t.Errorf("a configuration that there is was replaced: %s, %v", text, err)
	}
	l.detach(lease)
	l.clean()
}
