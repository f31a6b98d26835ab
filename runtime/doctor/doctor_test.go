package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/mount"
	"github.com/berth-runtime/berth/runtime/sys/thread"
)

// files of a host, by path. A value "socket" makes one.
type files map[string]string

func makeHost(t *testing.T, all files) Host {
	t.Helper()
	h := Host{Dir: t.TempDir()}
	for name, text := range all {
		path := h.path(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if text == "socket" {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// v2 is a host with cgroup v2.
func v2(more files) files {
	all := files{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"}
	for k, v := range more {
		all[k] = v
	}
	return all
}

func v1(names ...string) files {
	all := files{}
	for _, n := range names {
		all["/sys/fs/cgroup/"+n+"/cgroup.procs"] = ""
	}
	return all
}

// lawful holds a finding to what all have in common.
func lawful(t *testing.T, f Finding) {
	t.Helper()
	if f.Reason == "" || strings.Contains(f.Reason, "\n") || (f.Fix == "") != (f.Verdict == OK) {
		t.Errorf("a finding without a reason in one line, or whose fix does not fit its verdict: %+v", f)
	}
}

// runtimeLabel is that of a daemon whose file the policy knows.
const runtimeLabel = "system_u:system_r:container_runtime_t:s0\x00"

const kubeletFits = "containerRuntimeEndpoint: unix:///run/berth/kubelet.sock\ncgroupDriver: systemd\nresolvConf: /etc/r\nseccompDefault: true\n"

func TestVerdictsOfHosts(t *testing.T) {
	t.Parallel()
	kubelet := func(text string) files {
		return v2(files{kubeletConfig: text, "/etc/r": "nameserver 192.0.2.1\n"})
	}
	caps := func(eff, bnd string) files {
		return files{"/proc/self/status": "CapEff:\t" + eff + "\nCapBnd:\t" + bnd + "\n"}
	}
	for _, tc := range []struct {
		name    string
		check   string
		host    files
		change  func(*Config)
		verdict Verdict
		says    string // in reason or fix
	}{
		{"old kernel", "kernel.version", files{"/proc/sys/kernel/osrelease": "5.10.0-28-amd64\n"}, nil, Fail, "older than 5.15"},
		{"oldest kernel", "kernel.version", files{"/proc/sys/kernel/osrelease": "5.15.0-1-generic\n"}, nil, OK, "5.15.0"},
		{"new kernel", "kernel.version", files{"/proc/sys/kernel/osrelease": "7.2.1\n"}, nil, OK, "7.2.1"},
		{"no /proc", "kernel.version", nil, nil, Warn, "mount -t proc"},
		{"filters and containerd", "kernel.bugs", v2(files{"/proc/sys/kernel/osrelease": "6.18.4\n", "/run/containerd/containerd.sock": "socket"}), nil, Warn, "runc before 1.5"},
		{"filters and berth alone", "kernel.bugs", v2(files{"/proc/sys/kernel/osrelease": "6.18.4\n"}), nil, OK, "no defect"},
		{"filters repaired", "kernel.bugs", v2(files{"/proc/sys/kernel/osrelease": "7.2.0\n", "/run/containerd/containerd.sock": "socket"}), nil, OK, "no defect"},
		{"old Ubuntu", "kernel.bugs", files{"/proc/sys/kernel/osrelease": "5.15.0\n", "/etc/os-release": "ID=ubuntu\nVERSION_ID=\"20.04\"\n"}, nil, Warn, "Ubuntu 20.04"},
		{"newer Ubuntu", "kernel.bugs", files{"/proc/sys/kernel/osrelease": "5.15.0\n", "/etc/os-release": "ID=ubuntu\nVERSION_ID=\"22.04\"\n"}, nil, OK, ""},

		{"all capabilities", "process.capabilities", caps("000001ffffffffff", "000001ffffffffff"), nil, OK, ""},
		{"no CAP_SYS_RESOURCE", "process.capabilities", caps("000001fffeffffff", "000001fffeffffff"), nil, Warn, "CAP_SYS_RESOURCE is missing"},
		{"not root", "process.capabilities", caps("0000000000000000", "000001ffffffffff"), nil, Fail, "sudo berth doctor"},
		{"no status", "process.capabilities", nil, nil, Warn, "cannot read"},

		{"no AppArmor", "security.apparmor", nil, nil, OK, "no AppArmor"},
		{"AppArmor whole", "security.apparmor", files{"/sys/module/apparmor/parameters/enabled": "Y\n", "/sys/kernel/security/apparmor/profiles": "", "/sbin/apparmor_parser": ""}, nil, OK, "its parser"},
		{"AppArmor without parser", "security.apparmor", files{"/sys/module/apparmor/parameters/enabled": "Y\n", "/sys/kernel/security/apparmor/profiles": ""}, nil, Warn, "apt-get install apparmor"},
		{"AppArmor without securityfs", "security.apparmor", files{"/sys/module/apparmor/parameters/enabled": "Y\n"}, nil, Fail, "securityfs"},

		{"no SELinux", "security.selinux", nil, nil, OK, "no SELinux"},
		{"labels without SELinux", "security.selinux", nil, func(c *Config) { c.SELinux = true }, Fail, "selinux.enable"},
		{"SELinux unused", "security.selinux", files{"/sys/fs/selinux/enforce": "1"}, nil, Warn, "enable = true"},
		{"no policy", "security.selinux", files{"/sys/fs/selinux/enforce": "1"}, func(c *Config) { c.SELinux = true }, Fail, "container-selinux"},
		{"no label of a runtime", "security.selinux", files{"/sys/fs/selinux/enforce": "1", "/proc/self/attr/current": "system_u:system_r:unconfined_service_t:s0", "/etc/selinux/targeted/contexts/lxc_contexts": ""}, func(c *Config) { c.SELinux = true }, Warn, "restorecon"},
		{"permissive", "security.selinux", files{"/sys/fs/selinux/enforce": "0", "/proc/self/attr/current": runtimeLabel, "/etc/selinux/config": "SELINUXTYPE=default\n", "/etc/selinux/default/contexts/lxc_contexts": ""}, func(c *Config) { c.SELinux = true }, Warn, "setenforce 1"},
		{"enforcing", "security.selinux", files{"/sys/fs/selinux/enforce": "1", "/proc/self/attr/current": runtimeLabel, "/etc/selinux/targeted/contexts/lxc_contexts": ""}, func(c *Config) { c.SELinux = true }, OK, "enforcing"},

		{"v2", "cgroup.version", v2(nil), nil, OK, "v2"},
		{"v1", "cgroup.version", v1("memory"), nil, Warn, "failCgroupV1"},
		{"no cgroups", "cgroup.version", nil, nil, Fail, "mount -t cgroup2"},
		{"controllers", "cgroup.controllers", v2(nil), nil, OK, "cpu"},
		{"no memory controller", "cgroup.controllers", files{"/sys/fs/cgroup/cgroup.controllers": "cpu io pids cpuset"}, nil, Fail, "cgroup_enable=memory"},
		{"controllers of v1", "cgroup.controllers", v1("cpu,cpuacct", "memory", "pids", "cpuset", "devices", "freezer"), nil, OK, "freezer"},
		{"no freezer", "cgroup.controllers", v1("cpu", "memory", "pids", "cpuset", "devices"), nil, Fail, "freezer"},
		{"systemd that is not", "cgroup.driver", v2(nil), func(c *Config) { c.CgroupDriver = "systemd" }, Fail, "does not run this machine"},
		{"systemd without a bus", "cgroup.driver", v2(files{"/run/systemd/system/x": ""}), func(c *Config) { c.CgroupDriver = "systemd" }, Fail, "dbus"},
		{"systemd", "cgroup.driver", v2(files{"/run/systemd/system/x": "", "/run/systemd/private": "socket"}), func(c *Config) { c.CgroupDriver = "systemd" }, OK, "systemd"},
		{"cgroupfs beside systemd", "cgroup.driver", v2(files{"/run/systemd/system/x": ""}), nil, Warn, "two masters"},
		{"cgroupfs", "cgroup.driver", v2(nil), nil, OK, "cgroupfs"},
		{"systemd makes them", "cgroup.delegation", v2(nil), func(c *Config) { c.CgroupDriver = "systemd" }, OK, ""},
		{"made and limited", "cgroup.delegation", v2(nil), nil, OK, "limited"},
		{"nowhere to make them", "cgroup.delegation", files{"/sys/fs/cgroup": "a file"}, nil, Fail, "Delegate=yes"},

		{"few instances", "limits.inotify", files{"/proc/sys/fs/inotify/max_user_instances": "128\n"}, nil, Warn, "sysctl -w fs.inotify.max_user_instances=512"},
		{"enough instances", "limits.inotify", files{"/proc/sys/fs/inotify/max_user_instances": "512\n"}, nil, OK, ""},
		{"few files", "limits.files", files{"/proc/sys/fs/file-max": "1000"}, nil, Warn, "fs.file-max"},
		{"any files", "limits.files", files{"/proc/sys/fs/file-max": "9223372036854775807"}, nil, OK, ""},
		{"few pids", "limits.pids", files{"/proc/sys/kernel/pid_max": "4096"}, nil, Warn, "kernel.pid_max"},
		{"enough pids", "limits.pids", files{"/proc/sys/kernel/pid_max": "4194304"}, nil, OK, ""},

		{"alone", "peers", nil, nil, OK, "no other"},
		{"containerd and docker", "peers", files{"/run/containerd/containerd.sock": "socket", "/run/docker.sock": "socket"}, nil, OK, "containerd and docker run beside"},
		{"no socket but a file", "peers", files{"/run/docker.sock": ""}, nil, OK, "no other"},

		{"no kubelet", "kubelet", v2(nil), nil, OK, "no kubelet"},
		{"a kubelet that fits", "kubelet", kubelet(kubeletFits), func(c *Config) { c.CgroupDriver = "systemd" }, OK, "fits"},
		{"no seccomp by default", "kubelet", kubelet(strings.Replace(kubeletFits, "seccompDefault: true", "", 1)), func(c *Config) { c.CgroupDriver = "systemd" }, OK, "seccompDefault is off"},
		{"the socket that shows everything", "kubelet.endpoint", kubelet(strings.Replace(kubeletFits, "kubelet.sock", "berth.sock", 1)), nil, Warn, "shows everything"},
		{"the same by a link", "kubelet.endpoint", kubelet(strings.Replace(kubeletFits, "/run/berth/kubelet.sock", "/link.sock", 1)), func(c *Config) { linkTo(c, "/link.sock", "/run/berth/berth.sock") }, Warn, "shows everything"},
		{"for images only", "kubelet.endpoint", kubelet(kubeletFits + "imageServiceEndpoint: unix:///run/berth/berth.sock\n"), nil, Warn, "imageServiceEndpoint"},
		{"by its command line", "kubelet.endpoint", v2(files{kubeletConfig: kubeletFits, "/proc/42/cmdline": "/usr/bin/kubelet\x00--container-runtime-endpoint=unix:///run/berth/berth.sock\x00"}), nil, Warn, "shows everything"},
		{"another file", "kubelet.endpoint", v2(files{"/k.yaml": kubeletFits, kubeletConfig: "containerRuntimeEndpoint: unix:///run/berth/berth.sock", "/proc/42/cmdline": "kubelet\x00--config\x00/k.yaml\x00", "/etc/r": "nameserver 192.0.2.1"}), func(c *Config) { c.CgroupDriver = "systemd" }, OK, ""},
		{"by drop-ins", "kubelet", v2(files{kubeletConfig: "resolvConf: /etc/r\ncgroupDriver: cgroupfs\n", "/k.d/10-berth.conf": kubeletFits, "/k.d/20.conf": "cgroupDriver: systemd\n", "/k.d/30.yaml": "cgroupDriver: cgroupfs\n",
			"/proc/42/cmdline": "kubelet\x00--config-dir=/k.d\x00", "/etc/r": "nameserver 192.0.2.1"}), func(c *Config) { c.CgroupDriver = "systemd" }, OK, "configuration fits"},
		{"a drop-in with the socket that shows everything", "kubelet.endpoint", v2(files{kubeletConfig: kubeletFits, "/k.d/10.conf": "containerRuntimeEndpoint: unix:///run/berth/berth.sock",
			"/proc/42/cmdline": "kubelet\x00--config-dir=/k.d\x00", "/etc/r": "nameserver 192.0.2.1"}), nil, Warn, "and /k.d is unix:///run/berth/berth.sock"},
		{"another runtime", "kubelet.endpoint", kubelet(strings.Replace(kubeletFits, "/run/berth/kubelet.sock", "/run/crio/crio.sock", 1)), nil, Warn, "another runtime"},
		{"no endpoint", "kubelet.endpoint", kubelet("cgroupDriver: systemd\n"), nil, Warn, "is not set"},
		{"another driver", "kubelet.cgroup_driver", kubelet(kubeletFits), nil, Warn, "cgroupDriver: cgroupfs"},
		{"loopback resolver", "kubelet.resolver", v2(files{kubeletConfig: "containerRuntimeEndpoint: /run/berth/kubelet.sock", "/etc/resolv.conf": "nameserver 127.0.0.53\n", "/run/systemd/resolve/resolv.conf": ""}), nil, Warn, "resolvConf: /run/systemd/resolve/resolv.conf"},
		{"no resolver", "kubelet.resolver", v2(files{kubeletConfig: kubeletFits}), nil, Warn, "cannot be read"},
		{"v1 and a kubelet", "kubelet.cgroup_v1", files{kubeletConfig: kubeletFits, "/etc/r": "nameserver 192.0.2.1"}, nil, Warn, "failCgroupV1: false"},
		{"a broken file", "kubelet", kubelet("a: [\n"), nil, Warn, "repair the file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{
				Host: makeHost(t, tc.host), CgroupDriver: "cgroupfs", Network: true,
				KubeletSocket: "/run/berth/kubelet.sock", EveryPod: "/run/berth/berth.sock",
			}
			if tc.change != nil {
				tc.change(&cfg)
			}
			group, _, _ := strings.Cut(tc.check, ".")
			var found []Finding
			for _, c := range table() {
				if c.name == tc.check || c.name == group {
					found = append(found, c.look(t.Context(), &cfg)...)
				}
			}
			for _, f := range found {
				lawful(t, f)
			}
			at := slices.IndexFunc(found, func(f Finding) bool { return f.Check == tc.check && f.Verdict == tc.verdict })
			switch {
			case at < 0 && (tc.verdict != OK || slices.ContainsFunc(found, func(f Finding) bool { return f.Verdict != OK })):
				t.Errorf("nothing with the verdict %s in %+v", tc.verdict, found)
			case at >= 0 && !strings.Contains(found[at].Reason+found[at].Fix, tc.says):
				t.Errorf("%q is not said in %+v", tc.says, found[at])
			}
		})
	}
}

func linkTo(c *Config, link, target string) {
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(c.Host.path(target)), 0o755),
		os.WriteFile(c.Host.path(target), nil, 0o600),
		os.Symlink(c.Host.path(target), c.Host.path(link))); err != nil {
		panic(err)
	}
}

func TestVerdictsOfFigures(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		got  []Finding
		want []Verdict
	}{
		"files":         {one(filesVerdict(1 << 20)), []Verdict{OK}},
		"all files":     {one(filesVerdict(unix.RLIM_INFINITY)), []Verdict{OK}},
		"fewer files":   {one(filesVerdict(20000)), []Verdict{Warn}},
		"1024 files":    {one(filesVerdict(1024)), []Verdict{Fail}},
		"clock":         {one(clockVerdict(built+1, true)), []Verdict{OK}},
		"nobody's":      {one(clockVerdict(built+1, false)), []Verdict{Warn}},
		"1970":          {one(clockVerdict(86400, true)), []Verdict{Fail}},
		"room":          {room{50 * mib, 100 * mib, 50, 100}.judge("/"), []Verdict{OK, OK}},
		"little room":   {room{5 * mib, 100 * mib, 4, 100}.judge("/"), []Verdict{Warn, Warn}},
		"no room":       {room{0, 100 * mib, 0, 100}.judge("/"), []Verdict{Fail, Fail}},
		"no inodes":     {room{50 * mib, 100 * mib, 0, 0}.judge("/"), []Verdict{OK}},
		"a call":        {tried([]call{{"x", "1.0", Fail, "all", func() error { return nil }}}), []Verdict{OK}},
		"a call lacks":  {tried([]call{{"x", "1.0", Fail, "all", func() error { return unix.ENOSYS }}, {"y", "1.0", Warn, "some", func() error { return unix.EPERM }}}), []Verdict{Fail, Warn}},
		"no programs":   {programs(t.Context(), &Config{Programs: []string{"/nowhere/berth-shim", "/etc/passwd"}}), []Verdict{Fail, Fail}},
		"programs":      {programs(t.Context(), &Config{Programs: []string{"/proc/self/exe"}}), []Verdict{OK}},
		"long state":    {stateDir(t.Context(), &Config{State: "/run/" + strings.Repeat("x", 90)}), []Verdict{Fail}},
		"state on proc": {stateDir(t.Context(), &Config{State: "/proc/berth"}), []Verdict{Warn}},
	} {
		var verdicts []Verdict
		for _, f := range tc.got {
			lawful(t, f)
			verdicts = append(verdicts, f.Verdict)
		}
		if !slices.Equal(verdicts, tc.want) {
			t.Errorf("%s: %+v, want %v", name, tc.got, tc.want)
		}
	}
}

func TestProbesOfOthersAndChecksThatFail(t *testing.T) {
	t.Parallel()
	cfg := Config{Host: makeHost(t, nil), Root: t.TempDir(), State: "/run", More: []Check{
		Attempt("good", "it works", Warn, "x", func(context.Context) error { return nil }),
		Attempt("bad", "it works", Warn, "x", func(context.Context) error { return errors.New("it does\nnot") }),
		Attempt("broken", "it works", Warn, "x", func(context.Context) error { panic("oops") }),
	}}
	found := Run(t.Context(), cfg)
	last := found[len(found)-3:]
	if last[0] != (Finding{"good", OK, "it works", ""}) || last[1] != (Finding{"bad", Warn, "it does; not", "x"}) ||
		last[2].Verdict != Fail || !strings.Contains(last[2].Reason, "oops") {
		t.Errorf("got %+v", last)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	hangs := bounded(ended, "hangs", func(context.Context) []Finding { select {} })
	if hangs[0].Verdict != Fail || !strings.Contains(hangs[0].Reason, "did not end") {
		t.Errorf("got %+v", hangs)
	}
}

// byDoing are the checks that try something on this kernel.
var byDoing = []string{"kernel.calls", "kernel.namespaces", "kernel.seccomp", "cgroup.delegation", "storage.overlay", "network.links"}

// ours is the configuration of a node on this machine.
func ours(root string) Config {
	return Config{Root: root, State: root, CgroupDriver: "cgroupfs", Network: true}
}

func verdicts(found []Finding) map[string]Verdict {
	out := map[string]Verdict{}
	for _, f := range found {
		if have, ok := out[f.Check]; !ok || have == OK || f.Verdict == Fail {
			out[f.Check] = f.Verdict
		}
	}
	return out
}

func TestWhatTheKernelCanDoIsTriedAndLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root := t.TempDir()
	before, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	found := Run(t.Context(), ours(root))
	got := verdicts(found)
	for _, name := range byDoing {
		if got[name] != OK {
			t.Errorf("%s: %+v", name, found)
		}
	}
	for _, f := range found {
		lawful(t, f)
	}
	after, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range after {
		if strings.HasPrefix(m.Target, root) && !slices.Contains(before, m) {
			t.Errorf("left mounted: %+v", m)
		}
	}
	if left, _ := os.ReadDir(root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	cfg := ours(root)
	if left, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", "berth-doctor-*")); len(left) > 0 && !cfg.Host.unified() {
		t.Errorf("left cgroups: %v", left)
	}
}

// A process without capabilities sees the same probes fail.
func TestProbesFailWithoutRights(t *testing.T) {
	if os.Getenv("DOCTOR_CHILD") != "" {
		if err := json.NewEncoder(os.Stdout).Encode(Run(t.Context(), ours(os.Getenv("DOCTOR_CHILD")))); err != nil {
			t.Fatal(err)
		}
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestProbesFailWithoutRights$")
	cmd.Env = append(os.Environ(), "DOCTOR_CHILD="+t.TempDir())
	var out []byte
	err := thread.Throwaway(func() (err error) {
		// Nothing can come to what is executed from here.
		for c := uintptr(0); unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) == nil; c++ { // EINVAL after the last
		}
		var sets [2]unix.CapUserData
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capget(&header, &sets[0]); err != nil {
			return err
		}
		sets[0].Inheritable, sets[1].Inheritable = 0, 0
		if err := unix.Capset(&header, &sets[0]); err != nil {
			return err
		}
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var found []Finding
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	got := verdicts(found)
	for _, name := range []string{"kernel.namespaces", "process.capabilities", "storage.overlay", "network.links"} {
		if got[name] != Fail {
			t.Errorf("%s is %s without rights: %+v", name, got[name], found)
		}
	}
}

func TestARootThatCannotHoldLayers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	// ramfs has no attributes.
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	cfg := ours(filepath.Join(dir, "berth"))
	if f := overlay(t.Context(), &cfg)[0]; f.Verdict != Fail || !strings.Contains(f.Reason, "attributes") {
		t.Errorf("got %+v", f)
	}
	cfg = ours("/proc/berth")
	if f := overlay(t.Context(), &cfg)[0]; f.Verdict != Fail || !strings.Contains(f.Reason, "cannot write") {
		t.Errorf("got %+v", f)
	}
}
