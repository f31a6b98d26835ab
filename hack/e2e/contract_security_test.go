//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// kernelSays are lines of a process's status, of the first process and of the
// one that asks.
func kernelSays(lines string) string {
	return "for p in 1 self; do grep -E '^(" + lines + "):' /proc/$p/status; done"
}

// TestSecurityFields observes the fields of LinuxContainerSecurityContext, as
// both a container's first process and one executed in it have them.
func TestSecurityFields(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, _ := contractImage(t, n)
	profile := filepath.Join(n.Dir, "no-chmod.json")
	if err := os.WriteFile(profile, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	type sc = criv1.LinuxContainerSecurityContext
	number := func(n int64) *criv1.Int64Value { return &criv1.Int64Value{Value: n} }
	caps := func(add, drop, ambient string) func(*criv1.ContainerConfig) {
		return ofSecurity(func(s *sc) {
			s.RunAsUser = number(1000)
			s.Capabilities = &criv1.Capability{AddCapabilities: list(add), DropCapabilities: list(drop), AddAmbientCapabilities: list(ambient)}
		})
	}
	seccomp := func(p *criv1.SecurityProfile, old string) func(*criv1.ContainerConfig) {
		return ofSecurity(func(s *sc) { s.Seccomp, s.SeccompProfilePath = p, old }) //nolint:staticcheck // deprecated, and held to
	}
	const (
		whoami    = "id -u; id -g; id -G; awk '/^Uid|^Gid/ {print $2}' /proc/1/status"
		chmod     = "grep Seccomp: /proc/1/status; chmod 700 /tmp 2>&1 | grep -o 'Operation not permitted'"
		noFilter  = "Seccomp:\t0"
		filter    = "Seccomp:\t2"
		forbidden = filter + "\nOperation not permitted"
		none      = "0000000000000000"
		netRaw    = "0000000000002000"
	)
	unconfined, local := criv1.SecurityProfile_Unconfined, criv1.SecurityProfile_Localhost
	n.hold(n.podConfig("security"), ref, map[string]asked{
		// Without a right to have them by, a user's are what it may get.
		"capabilities add_capabilities drop_capabilities": {caps("cap_Net_Raw", "ALL", ""), kernelSays("CapEff|CapBnd"), twice("CapEff:\t" + none + "\nCapBnd:\t" + netRaw)},
		"add_ambient_capabilities":                        {caps("NET_RAW", "ALL", "CAP_NET_RAW"), kernelSays("CapPrm|CapEff|CapAmb"), twice("CapPrm:\t" + netRaw + "\nCapEff:\t" + netRaw + "\nCapAmb:\t" + netRaw)},

		"run_as_user":               {ofSecurity(func(s *sc) { s.RunAsUser = number(1000) }), whoami, "1000\n1000\n1000 50000\n1000\n1000"},
		"run_as_group":              {ofSecurity(func(s *sc) { s.RunAsUser, s.RunAsGroup = number(1000), number(7) }), whoami, "1000\n7\n7 50000\n1000\n7"},
		"run_as_username":           {ofSecurity(func(s *sc) { s.RunAsUsername = "www-data" }), whoami, "1002\n1002\n1002\n1002\n1002"},
		"supplemental_groups Merge": {ofSecurity(func(s *sc) { s.RunAsUser, s.SupplementalGroups = number(1000), []int64{1234} }), whoami, "1000\n1000\n1000 1234 50000\n1000\n1000"},
		"supplemental_groups_policy Strict": {ofSecurity(func(s *sc) {
			s.RunAsUser, s.SupplementalGroups, s.SupplementalGroupsPolicy = number(1000), []int64{1234}, criv1.SupplementalGroupsPolicy_Strict
		}), whoami, "1000\n1000\n1000 1234\n1000\n1000"},

		"readonly_rootfs":    {ofSecurity(func(s *sc) { s.ReadonlyRootfs = true }), "(: >/new) 2>&1 | grep -o '" + noWrite + "'", noWrite},
		"no readonly_rootfs": {ofSecurity(func(*sc) {}), ": >/new && echo written", "written"},
		"no_new_privs":       {ofSecurity(func(s *sc) { s.NoNewPrivs = true }), kernelSays("NoNewPrivs"), twice("NoNewPrivs:\t1")},
		"no no_new_privs":    {ofSecurity(func(*sc) {}), kernelSays("NoNewPrivs"), twice("NoNewPrivs:\t0")},
		"masked_paths":       {ofSecurity(func(s *sc) { s.MaskedPaths = []string{"/proc/version", "/etc"} }), "cat /proc/version; ls /etc", ""},
		"readonly_paths":     {ofSecurity(func(s *sc) { s.ReadonlyPaths = []string{"/etc"} }), "(: >/etc/new) 2>&1 | grep -o '" + noWrite + "'", noWrite},
		"no paths":           {ofSecurity(func(*sc) {}), "grep -c Linux /proc/version; : >/etc/new && ls /etc/new", "1\n/etc/new"},

		"no seccomp":                     {seccomp(nil, ""), chmod, noFilter},
		"seccomp RuntimeDefault":         {seccomp(&criv1.SecurityProfile{}, ""), chmod, filter},
		"seccomp Unconfined":             {seccomp(&criv1.SecurityProfile{ProfileType: unconfined}, ""), chmod, noFilter},
		"seccomp Localhost":              {seccomp(&criv1.SecurityProfile{ProfileType: local, LocalhostRef: profile}, ""), chmod, forbidden},
		"seccomp_profile_path localhost": {seccomp(nil, "localhost/"+profile), chmod, forbidden},
		"seccomp_profile_path default":   {seccomp(nil, "runtime/default"), chmod, filter},
		"seccomp before the old field":   {seccomp(&criv1.SecurityProfile{ProfileType: unconfined}, "localhost/"+profile), chmod, noFilter},
	})

	sandbox := n.podConfig("privileged")
	sandbox.Linux.SecurityContext.Privileged = true
	bounding := regexp.MustCompile(`CapBnd:\s(\w+)`).FindStringSubmatch(readText(t, "/proc/self/status"))[1]
	n.hold(sandbox, ref, map[string]asked{
		"privileged": {ofSecurity(func(s *sc) {
			s.Privileged, s.Seccomp, s.MaskedPaths = true, &criv1.SecurityProfile{}, []string{"/proc/version"}
		}), "mkdir /mnt && mount -t tmpfs none /mnt && echo mounted; grep -c Linux /proc/version; grep -E '^(CapEff|Seccomp):' /proc/1/status",
			"mounted\n1\nCapEff:\t" + bounding + "\n" + noFilter},
		"not privileged": {ofSecurity(func(*sc) {}), "mkdir /mnt && mount -t tmpfs none /mnt 2>/dev/null || echo refused", "refused"},
	})
}

// list is the names in s, which spaces part.
func list(s string) []string {
	return regexp.MustCompile(`\S+`).FindAllString(s, -1)
}

func twice(s string) string { return s + "\n" + s }

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestNamespaceFields observes the fields of NamespaceOption and what belongs
// to them, from inside and with the host's own as measure.
func TestNamespaceFields(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, _ := contractImage(t, n)
	const host, own, pod, target = criv1.NamespaceMode_NODE, criv1.NamespaceMode_CONTAINER, criv1.NamespaceMode_POD, criv1.NamespaceMode_TARGET
	ids := []*criv1.IDMapping{{HostId: 1 << 20, Length: 1 << 16}}
	for field, c := range map[string]struct {
		options *criv1.NamespaceOption
		kind    string
		hosts   bool // what the containers are in is the host's
		same    bool // two containers are in the same
	}{
		"network NODE":             {&criv1.NamespaceOption{Network: host, Pid: own}, "net", true, true},
		"network POD":              {&criv1.NamespaceOption{Pid: own}, "net", false, true},
		"pid NODE":                 {&criv1.NamespaceOption{Pid: host}, "pid", true, true},
		"pid POD":                  {&criv1.NamespaceOption{Pid: pod}, "pid", false, true},
		"pid CONTAINER":            {&criv1.NamespaceOption{Pid: own}, "pid", false, false},
		"ipc NODE":                 {&criv1.NamespaceOption{Ipc: host, Pid: own}, "ipc", true, true},
		"ipc POD":                  {&criv1.NamespaceOption{Pid: own}, "ipc", false, true},
		"userns_options mode NODE": {&criv1.NamespaceOption{Pid: own, UsernsOptions: &criv1.UserNamespace{Mode: host}}, "user", true, true},
		"userns_options mode POD":  {&criv1.NamespaceOption{Pid: own, UsernsOptions: &criv1.UserNamespace{Mode: pod, Uids: ids, Gids: ids}}, "user", false, true},
	} {
		t.Run(field, func(t *testing.T) {
			sandbox, config := n.podConfig("ns"), lab.ContainerConfig("a", ref, "sleep", "600")
			sandbox.Linux.SecurityContext.NamespaceOptions, config.Linux.SecurityContext.NamespaceOptions = c.options, c.options
			id, a, err := n.RunPod(t.Context(), sandbox, config)
			if err != nil {
				t.Fatal(err)
			}
			mine, err := os.Readlink("/proc/self/ns/" + c.kind)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := n.runtime().ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: a, Cmd: []string{"readlink", "-n", "/proc/self/ns/" + c.kind}})
			if err != nil {
				t.Fatal(err)
			}
			if (string(theirs.Stdout) == mine) != c.hosts {
				t.Errorf("the container is in %s, the host in %s", theirs.Stdout, mine)
			}
			config.Metadata.Name = "b"
			err = n.holds(id, config, sandbox, asked{script: "readlink /proc/self/ns/" + c.kind, want: string(theirs.Stdout)})
			if (err == nil) != c.same {
				t.Errorf("a second container: %v", err)
			}
			if c.options.UsernsOptions.GetUids() != nil {
				if err := n.finds(a, "sed 's/  */ /g' /proc/self/uid_map /proc/self/gid_map", fmt.Sprintf("0 %[1]d %[2]d\n 0 %[1]d %[2]d", ids[0].HostId, ids[0].Length)); err != nil {
					t.Error(err)
				}
			}
			if c.kind == "pid" && !c.same {
				config.Metadata.Name = "c"
				config.Linux.SecurityContext.NamespaceOptions = &criv1.NamespaceOption{Pid: target, TargetId: a}
				if err := n.holds(id, config, sandbox, asked{script: "readlink /proc/self/ns/pid", want: string(theirs.Stdout)}); err != nil {
					t.Errorf("target_id: %v", err)
				}
			}
			if err := n.RemovePod(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
}
