//go:build kube

package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// idle is a container's command that does nothing until it is told to end.
const idle = `command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.2; done"]`

// TestNamespaces gives pods those of the host, of each other, and of users.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("hostpid", `
  hostPID: true
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.run("shared", `
  shareProcessNamespace: true
  containers:
  - {name: c, image: $BOX, `+idle+`}
  - {name: other, image: $AGNHOST, args: [pause]}
`)
	s.run("hostipc", `
  hostIPC: true
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.run("own", `
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	for _, name := range []string{"hostpid", "shared", "hostipc", "own"} {
		s.ready(name)
	}
	ns := func(kind string) string {
		link, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	s.says("hostpid", ns("pid"), "readlink /proc/self/ns/pid")
	s.says("hostipc", ns("ipc"), "readlink /proc/self/ns/ipc")
	s.says("own", "1", "[ $(readlink /proc/self/ns/pid) != '"+ns("pid")+"' ] && [ $(readlink /proc/self/ns/ipc) != '"+ns("ipc")+"' ] && echo $$ | grep -c .")
	s.says("shared", "/agnhost pause", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -o '^/agnhost pause'; done; true")
	// The files of the other container, through its process.
	s.says("shared", "yes", "p=$(for p in /proc/[0-9]*; do grep -lq ^/agnhost $p/cmdline 2>/dev/null && echo $p; done); test -e $p/root/agnhost && echo yes")
	// In a shared namespace no container is the first process.
	if pid := s.exec("shared", "cat /proc/1/cmdline | tr '\\0' ' '"); strings.Contains(pid, "sh -c") {
		t.Errorf("the first process of the shared namespace is %q", pid)
	}
	s.kubectl("exec", "shared", "-c", "other", "--", "sh", "-c", "kill $(pidof agnhost)")
	s.until("shared", func(p pod) error {
		if c := p.Status.ContainerStatuses[1]; c.RestartCount != 1 || c.State.Running == nil {
			return fmt.Errorf("not restarted: %v", c)
		}
		return nil
	})
}

// TestUserNamespace runs pods whose root is nobody on the host, with volumes whose
// files have the owners that the pod sees.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: red}
`)
	spec := `
  hostUsers: false
  volumes: [{name: e, emptyDir: {}}, {name: c, configMap: {name: settings}}, {name: i, image: {reference: $REGISTRY/data:1}}]
  containers:
  - {name: c, image: $BOX, ` + idle + `, volumeMounts: [{name: e, mountPath: /e}, {name: c, mountPath: /c}, {name: i, mountPath: /i}]}
`
	s.run("a", spec)
	s.run("b", spec)
	maps := map[string]string{}
	for _, name := range []string{"a", "b"} {
		s.ready(name)
		fields := strings.Fields(s.exec(name, "cat /proc/self/uid_map"))
		if len(fields) != 3 || fields[0] != "0" || fields[1] == "0" || fields[2] != "65536" {
			t.Errorf("the map of %s is %q", name, fields)
			continue
		}
		maps[fields[1]] = name
		s.says(name, "0 0:0 red w8 0:0", "touch /e/x; echo $(id -u) $(stat -c %u:%g /e/x) $(cat /c/color) $(cat /i/model/weights) $(stat -c %u:%g /bin/sh)")
		s.says(name, "refused", "mount -t tmpfs x /e 2>/dev/null || echo refused")
	}
	if len(maps) != 2 {
		t.Errorf("two pods share a map: %v", maps)
	}
}

// TestSecurityContext asks the kernel what a container may do.
func TestSecurityContext(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("plain", `
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.run("tight", `
  securityContext: {runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, supplementalGroups: [4567], runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  volumes: [{name: e, emptyDir: {}}]
  containers:
  - name: c
    image: $BOX
    `+idle+`
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
    volumeMounts: [{name: e, mountPath: /e}]
`)
	s.run("loose", `
  containers: [{name: c, image: $BOX, `+idle+`, securityContext: {privileged: true}}]
`)
	s.run("root", `
  securityContext: {runAsNonRoot: true}
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	for _, name := range []string{"plain", "tight", "loose"} {
		s.ready(name)
	}
	const status = "awk '/^(CapEff|NoNewPrivs|Seccomp):/ { printf \"%s \", $2 }' /proc/self/status"
	s.says("plain", "00000000a80425fb 0 0", status)
	s.says("tight", "0000000000000000 1 2", status)
	s.says("tight", "1234 2345 2345 3456 4567", "echo $(id -u) $(id -g) $(id -G)")
	s.says("tight", "2777 1234:3456", "echo $(stat -c %a /e) $(touch /e/x; stat -c %u:%g /e/x)")
	s.says("tight", "refused", "touch /x 2>/dev/null || echo refused")
	s.says("plain", "refused", "mount -t tmpfs x /tmp 2>/dev/null || echo refused")
	s.says("loose", "mounted", "mount -t tmpfs x /tmp && echo mounted; test -e /dev/loop-control")
	s.until("root", func(p pod) error {
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
			return fmt.Errorf("no status yet")
		}
		w := p.Status.ContainerStatuses[0].State.Waiting
		if w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, "runAsNonRoot") {
			return fmt.Errorf("it waits for %v", w)
		}
		return nil
	})
}

// TestSeccomp runs containers under the runtime's filter, one of the node's own,
// and none.
func TestSeccomp(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	profiles := s.dir("k/seccomp")
	if err := os.MkdirAll(profiles, 0o755); err != nil {
		t.Fatal(err)
	}
	profile := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`
	if err := os.WriteFile(filepath.Join(profiles, "nodirs.json"), []byte(profile), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, profile := range map[string]string{
		"default": "{type: RuntimeDefault}", "none": "{type: Unconfined}",
		"mine": "{type: Localhost, localhostProfile: nodirs.json}", "lacks": "{type: Localhost, localhostProfile: no-such.json}",
	} {
		s.run(name, `
  containers: [{name: c, image: $BOX, `+idle+`, securityContext: {seccompProfile: `+profile+`}}]
`)
	}
	for name, want := range map[string]string{"default": "2 made", "none": "0 made", "mine": "2 refused"} {
		s.ready(name)
		s.says(name, want, "echo $(awk '/^Seccomp:/ { print $2 }' /proc/self/status) $(mkdir /d 2>/dev/null && echo made || echo refused)")
	}
	s.event("lacks", "no-such.json")
}

// TestSysctls sets those that pods may, the node allows, and nobody has allowed.
func TestSysctls(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  securityContext: {sysctls: [{name: net.ipv4.ip_local_port_range, value: "20000 30000"}, {name: net.core.somaxconn, value: "777"}, {name: kernel.msgmax, value: "65000"}]}
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.run("refused", `
  securityContext: {sysctls: [{name: net.ipv4.ip_forward, value: "1"}]}
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.ready("p")
	s.says("p", "20000 30000 777 65000", "echo $(cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax)")
	s.until("refused", func(p pod) error {
		if p.Status.Phase != "Failed" || p.Status.Reason != "SysctlForbidden" {
			return fmt.Errorf("%s %s", p.Status.Phase, p.Status.Reason)
		}
		return nil
	})
}

// TestSupplementalGroups merges a pod's groups with those that the image has for
// the user, or does not, and tells which the process got.
func TestSupplementalGroups(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for name, want := range map[string]string{"Merge": "1000 4000 50000", "Strict": "1000 4000"} {
		pod := strings.ToLower(name)
		s.run(pod, `
  securityContext: {runAsUser: 1000, supplementalGroups: [4000], supplementalGroupsPolicy: `+name+`}
  containers: [{name: c, image: $REGISTRY/users:1, `+idle+`}]
`)
		p := s.ready(pod)
		s.says(pod, want, "id -G | tr ' ' '\\n' | sort -n | xargs echo")
		user := p.Status.ContainerStatuses[0].User.Linux
		if user.UID != 1000 || user.GID != 1000 || len(user.SupplementalGroups) != len(strings.Fields(want)) {
			t.Errorf("%s: the status says %+v, want %s", name, user, want)
		}
	}
}

// TestRuntimeClass chooses another handler of the node, and one that it lacks.
func TestRuntimeClass(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: tuned}
handler: tuned
overhead: {podFixed: {memory: 16Mi}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: lacks}
handler: no-such
`)
	s.run("p", `
  runtimeClassName: tuned
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.run("lacks", `
  runtimeClassName: lacks
  containers: [{name: c, image: $BOX, `+idle+`}]
`)
	s.ready("p")
	s.says("p", "1234 2345", "echo $(ulimit -Sn) $(ulimit -Hn)")
	s.event("lacks", "no-such")
}
