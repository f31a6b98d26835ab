package pod_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// processLines are lines of /proc/PID/status, by their keys, of the
// container's first process and of one that is executed in it.
func (n *node) processLines(t *testing.T, id string, keys ...string) (first, executed string) {
	t.Helper()
	script := "grep -E '^(" + strings.Join(keys, "|") + "):' /proc/%s/status | tr '\\t' ' ' | sed 's/ *$//'"
	first, _ = n.sh(t, id, fmt.Sprintf(script, "1"))
	executed, _ = n.sh(t, id, fmt.Sprintf(script, "$$"))
	return first, executed
}

// wantProcess fails the test if either process has anything else.
func (n *node) wantProcess(t *testing.T, id, want string, keys ...string) {
	t.Helper()
	first, executed := n.processLines(t, id, keys...)
	if first != want {
		t.Errorf("the first process has\n%s\nwant\n%s", first, want)
	}
	if executed != want {
		t.Errorf("an executed process has\n%s\nwant\n%s", executed, want)
	}
}

// mask is how the kernel prints a set of capabilities: those of caps that this
// machine has.
func mask(t *testing.T, caps ...string) string {
	t.Helper()
	own, err := capability.NewPid2(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Load(); err != nil {
		t.Fatal(err)
	}
	var bits uint64
	for _, c := range capability.ListKnown() {
		for _, name := range caps {
			if name == "CAP_"+strings.ToUpper(c.String()) && own.Get(capability.BOUNDING, c) {
				bits |= 1 << uint(c)
			}
		}
	}
	return fmt.Sprintf("%016x", bits)
}

// T-SPEC. CVE-2016-8867, CVE-2018-1000400: no ambient capabilities unasked.
// CVE-2022-29162, CVE-2022-24769, CVE-2022-27649, -27651, -27652: none
// inheritable.
func TestCapabilitiesOfProcesses(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	user := int64(1000)
	const none = "0000000000000000"
	usual := mask(t, spec.DefaultCaps()...)
	for name, tc := range map[string]struct {
		change                                            func(*spec.Pod, *spec.Container)
		inherited, permitted, effective, bounded, ambient string
	}{
		"usual": {func(*spec.Pod, *spec.Container) {}, none, usual, usual, usual, none},
		"user":  {func(_ *spec.Pod, c *spec.Container) { c.Security.RunAsUser = &user }, none, none, none, usual, none},
		"add": {func(_ *spec.Pod, c *spec.Container) {
			c.Security.CapAdd, c.Security.CapDrop = []string{"NET_ADMIN"}, []string{"ALL"}
		}, none, mask(t, "CAP_NET_ADMIN"), mask(t, "CAP_NET_ADMIN"), mask(t, "CAP_NET_ADMIN"), none},
		"all": {func(_ *spec.Pod, c *spec.Container) { c.Security.CapAdd = []string{"ALL"} }, none, mask(t, spec.AllCaps()...), mask(t, spec.AllCaps()...), mask(t, spec.AllCaps()...), none},
		"ambient": {func(_ *spec.Pod, c *spec.Container) {
			c.Security.RunAsUser, c.Security.CapDrop = &user, []string{"ALL"}
			c.Security.CapAdd, c.Security.CapAmbient = []string{"NET_RAW", "CHOWN"}, []string{"NET_RAW"}
		}, mask(t, "CAP_NET_RAW"), mask(t, "CAP_NET_RAW"), mask(t, "CAP_NET_RAW"), mask(t, "CAP_NET_RAW", "CAP_CHOWN"), mask(t, "CAP_NET_RAW")},
		"privileged": {privileged, none, mask(t, spec.AllCaps()...), mask(t, spec.AllCaps()...), mask(t, spec.AllCaps()...), none},
	} {
		_, id := n.start(t, name, tc.change)
		t.Run(name, func(t *testing.T) {
			want := "CapInh: " + tc.inherited + "\nCapPrm: " + tc.permitted + "\nCapEff: " + tc.effective + "\nCapBnd: " + tc.bounded + "\nCapAmb: " + tc.ambient
			n.wantProcess(t, id, want, "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
		})
	}
}

func TestNoNewPrivs(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	for value, flag := range map[string]bool{"1": true, "0": false} {
		_, id := n.start(t, "nnp-"+value, func(_ *spec.Pod, c *spec.Container) { c.Security.NoNewPrivs = flag })
		n.wantProcess(t, id, "NoNewPrivs: "+value, "NoNewPrivs")
	}
}

func TestSeccomp(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	dir := t.TempDir()
	local := filepath.Join(dir, "deny-chmod.json")
	writeFile(t, local, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`)
	ask := func(s *spec.Seccomp, more ...func(*spec.Pod, *spec.Container)) func(*spec.Pod, *spec.Container) {
		return func(p *spec.Pod, c *spec.Container) {
			c.Security.Seccomp = s
			for _, f := range more {
				f(p, c)
			}
		}
	}
	const chmod = "chmod 700 /bin && echo done"
	for name, tc := range map[string]struct {
		change func(*spec.Pod, *spec.Container)
		mode   string
		chmod  string
	}{
		"default":    {ask(&spec.Seccomp{Mode: spec.SeccompDefault}), "2", "done"},
		"localhost":  {ask(&spec.Seccomp{Mode: spec.SeccompLocalhost, Path: local}), "2", "chmod: /bin: Operation not permitted"},
		"unconfined": {ask(&spec.Seccomp{Mode: spec.SeccompUnconfined}), "0", "done"},
		"nil":        {ask(nil), "0", "done"},
		"privileged": {ask(&spec.Seccomp{Mode: spec.SeccompLocalhost, Path: local}, privileged), "0", "done"},
	} {
		_, id := n.start(t, name, tc.change)
		t.Run(name, func(t *testing.T) {
			n.wantProcess(t, id, "Seccomp: "+tc.mode, "Seccomp")
			n.wantSh(t, id, chmod, tc.chmod)
		})
	}
}

// A profile that cannot be used is an error, not a container without one; and
// a name that is no file does not keep anybody waiting.
func TestSeccompProfilesThatCannotBeUsed(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	dir := t.TempDir()
	fifo, broken, empty := filepath.Join(dir, "fifo"), filepath.Join(dir, "broken"), filepath.Join(dir, "empty")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	writeFile(t, broken, `{"defaultAction":`)
	writeFile(t, empty, `{}`)
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("profiles"))
	if err != nil {
		t.Fatal(err)
	}
	for path, why := range map[string]string{
		fifo: "not a regular file", dir: "not a regular file", broken: "cannot read the seccomp profile", empty: "no defaultAction", filepath.Join(dir, "absent"): "no such file",
	} {
		c := containerConfig("main", "/bin/sleep", "1")
		c.Security.Seccomp = &spec.Seccomp{Mode: spec.SeccompLocalhost, Path: path}
		if _, err := n.Create(t.Context(), pod.ViewAll, podID, c); !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want InvalidArgument because of %q", path, err, why)
		}
	}
}

// T-SPEC. The lists are honoured exactly: what is not in them is open, with
// nothing of our own added, and a privileged container has none.
func TestMaskedAndReadonlyPaths(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	// GHSA-7ww5-4wqc-m92c: powercap is masked as the kubelet asks for.
	masked := []string{"/proc/version", "/sys/firmware", "/sys/devices/virtual/powercap", "/no/such/path"}
	readonly := []string{"/proc/sys", "/no/such/path"}
	lists := func(_ *spec.Pod, c *spec.Container) {
		c.Security.MaskedPaths, c.Security.ReadonlyPaths = masked, readonly
	}
	const (
		lines  = "grep -c . /proc/version"
		listed = "ls /sys/firmware /sys/devices/virtual/powercap 2>/dev/null | grep -v : | grep -c ."
		write  = "echo 1 >/proc/sys/kernel/shm_rmid_forced && echo written"
	)
	_, id := n.start(t, "lists", lists)
	n.wantSh(t, id, lines, "0")
	n.wantSh(t, id, listed, "0")
	n.wantRefused(t, id, write, "Read-only file system")

	_, id = n.start(t, "empty", func(_ *spec.Pod, c *spec.Container) {
		c.Security.MaskedPaths, c.Security.ReadonlyPaths = []string{}, []string{}
	})
	n.wantSh(t, id, lines, "1")
	n.wantSh(t, id, write, "written")

	_, id = n.start(t, "privileged", func(p *spec.Pod, c *spec.Container) { lists(p, c); privileged(p, c) })
	n.wantSh(t, id, lines, "1")
	n.wantSh(t, id, write, "written")
}

func TestReadonlyRootfs(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.start(t, "ro", func(_ *spec.Pod, c *spec.Container) { c.Security.ReadonlyRootfs = true })
	for _, path := range []string{"/x", "/bin/x", "/etc/hosts", "/etc/resolv.conf"} {
		n.wantRefused(t, id, ": >>"+path, "Read-only file system")
	}
	n.wantSh(t, id, ": >/dev/shm/x && echo done", "done")
}

// accounts puts /etc/passwd and /etc/group into the image.
func (n *node) accounts(passwd, group string) {
	n.images.fill = func(dir string) error {
		if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(passwd), 0o644); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "etc/group"), []byte(group), 0o644)
	}
}

// T-SPEC. CVE-2016-3697: what looks like a number is one. CVE-2023-25173,
// CVE-2022-36109, CVE-2022-2989, -2990, -2995: the primary group is among the
// supplementary ones.
func TestIdentity(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	n.accounts("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n2000:x:0:0::/:/bin/sh\n",
		"root:x:0:\napp:x:1001:\nextra:x:50000:app,other\n")
	id := func(n int64) *int64 { return &n }
	for name, tc := range map[string]struct {
		image    string
		sec      spec.Security
		uid, gid string
		groups   string
	}{
		"image":     {image: "app", uid: "1000", gid: "1001", groups: "1001 50000"},
		"image-gid": {image: "app:extra", uid: "1000", gid: "50000", groups: "50000"},
		"uid":       {image: "app", sec: spec.Security{RunAsUser: id(5)}, uid: "5", gid: "0", groups: "0"},
		"known-uid": {sec: spec.Security{RunAsUser: id(1000), SupplementalGroups: []int64{1234}}, uid: "1000", gid: "1001", groups: "1001 1234 50000"},
		"strict":    {sec: spec.Security{RunAsUser: id(1000), SupplementalGroups: []int64{1234}, GroupsPolicy: spec.GroupsStrict}, uid: "1000", gid: "1001", groups: "1001 1234"},
		"group":     {sec: spec.Security{RunAsUsername: "app", RunAsGroup: id(7), GroupsPolicy: spec.GroupsMerge}, uid: "1000", gid: "7", groups: "7 50000"},
		"number":    {image: "2000", uid: "2000", gid: "0", groups: "0"},
		"as-name":   {sec: spec.Security{RunAsUsername: "2000"}, uid: "2000", gid: "0", groups: "0"},
	} {
		n.images.config.User = tc.image
		_, c := n.start(t, name, func(_ *spec.Pod, c *spec.Container) {
			c.Security.RunAsUser, c.Security.RunAsUsername, c.Security.RunAsGroup = tc.sec.RunAsUser, tc.sec.RunAsUsername, tc.sec.RunAsGroup
			c.Security.SupplementalGroups = tc.sec.SupplementalGroups
			if tc.sec.GroupsPolicy != "" {
				c.Security.GroupsPolicy = tc.sec.GroupsPolicy
			}
		})
		t.Run(name, func(t *testing.T) {
			four := func(id string) string { return strings.TrimSuffix(strings.Repeat(id+" ", 4), " ") }
			n.wantProcess(t, c, "Uid: "+four(tc.uid)+"\nGid: "+four(tc.gid)+"\nGroups: "+tc.groups, "Uid", "Gid", "Groups")
		})
	}
}

// T-SPEC. CVE-2024-40635, CVE-2026-46680: what is no user is an error, never
// root. Accounts that are no ordinary files keep nobody waiting, and a link in
// the image leads to a file of the image.
func TestIdentitiesThatAreRefused(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	huge := strings.Repeat("u:x:1:1::/:/bin/sh\n", 1<<20)
	link := func(dir string) error {
		if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
			return err
		}
		return os.Symlink("/etc/passwd-of-host", filepath.Join(dir, "etc/passwd"))
	}
	fifo := func(dir string) error {
		if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
			return err
		}
		return unix.Mkfifo(filepath.Join(dir, "etc/passwd"), 0o644)
	}
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("users"))
	if err != nil {
		t.Fatal(err)
	}
	plain := "root:x:0:0::/root:/bin/sh\nwide:x:4294967296:0::/:/bin/sh\n"
	for name, tc := range map[string]struct {
		user   string
		passwd string
		fill   func(string) error
	}{
		"unknown":          {user: "nobody", passwd: plain},
		"wraps to 0":       {user: "4294967296", passwd: plain},
		"above int32":      {user: "2147483648", passwd: plain},
		"account wraps":    {user: "wide", passwd: plain},
		"long file":        {user: "u", passwd: huge},
		"fifo":             {user: "root", fill: fifo},
		"link to the host": {user: "root", fill: link},
		"unknown group":    {user: "0:none", passwd: plain},
		"spaces":           {user: "0 ", passwd: plain},
		"sign":             {user: "+0", passwd: plain},
	} {
		n.accounts(tc.passwd, "")
		if tc.fill != nil {
			n.images.fill = tc.fill
		}
		n.images.config.User = tc.user
		id, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("main", "/bin/sleep", "1"))
		if !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
		if err == nil {
			_ = n.RemoveContainer(t.Context(), pod.ViewAll, id)
		}
	}
}
