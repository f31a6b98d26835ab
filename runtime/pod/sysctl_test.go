package pod_test

import (
	"os"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestSysctls(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	_, id := n.start(t, "defaults", func(*spec.Pod, *spec.Container) {})
	n.wantSh(t, id, "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range", "0\n0\t2147483647")
	_, id = n.start(t, "asked", func(p *spec.Pod, _ *spec.Container) {
		p.Sysctls = map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "1000", "net/ipv4/ip_local_port_range": "40000\t41000",
			"kernel.shm_rmid_forced": "1", "kernel/msgmax": "4096", "fs.mqueue.msg_max": "100", "kernel.domainname": "a+b",
		}
	})
	n.wantSh(t, id, "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start net/ipv4/ip_local_port_range kernel/shm_rmid_forced kernel/msgmax fs/mqueue/msg_max kernel/domainname",
		"1000\n40000\t41000\n1\n4096\n100\na+b")
}

// T-SPEC. CVE-2022-0532 and GHSA-w2j5-3rcx-vx7x: with a namespace of the host
// a sysctl would be the host's. CVE-2022-0811: what separates settings for
// some tool must not make a second one here.
func TestSysctlsNeverReachTheHost(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	watched := []string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/kernel/msgmax", "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/kernel/domainname"}
	before := readAll(t, watched)
	host := func(change func(*spec.Namespaces)) spec.Namespaces {
		ns := podConfig("").Namespaces
		change(&ns)
		return ns
	}
	own := host(func(*spec.Namespaces) {})
	noNet := host(func(ns *spec.Namespaces) { ns.Network = spec.ModeNode })
	noIPC := host(func(ns *spec.Namespaces) { ns.IPC = spec.ModeNode })
	for _, tc := range []struct {
		ns          spec.Namespaces
		name, value string
	}{
		{noNet, "net.ipv4.ip_local_port_range", "40000 41000"},
		{noNet, "kernel.domainname", "evil"},
		{noIPC, "kernel.shm_rmid_forced", "1"},
		{noIPC, "kernel/msgmax", "1"},
		{noIPC, "fs.mqueue.msg_max", "1"},
		{own, "kernel.core_pattern", "|/evil"},
		{own, "net.ipv4.../../../kernel/core_pattern", "|/evil"},
		{own, "kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"},
		{own, "kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/evil"},
		{own, "kernel.shm_rmid_forced+kernel.core_pattern", "|/evil"},
		{own, "kernel.shm_rmid_forced=1\nkernel.core_pattern", "|/evil"},
		{own, "kernel.shm_rmid_forced", "1\x00"},
	} {
		p := podConfig("sysctl")
		p.Namespaces, p.Sysctls = tc.ns, map[string]string{tc.name: tc.value}
		_, err := n.Run(t.Context(), pod.ViewAll, p)
		first, _, _ := strings.Cut(tc.name, "=")
		if !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), first) {
			t.Errorf("%q = %q: %v, want InvalidArgument that names it", tc.name, tc.value, err)
		}
	}
	if after := readAll(t, watched); after != before {
		t.Errorf("the host's settings were %q and are %q", before, after)
	}
}

func readAll(t *testing.T, paths []string) string {
	t.Helper()
	var out strings.Builder
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	return out.String()
}
