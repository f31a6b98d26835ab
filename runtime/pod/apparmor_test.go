package pod_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/apparmor"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func confinedBy(profile string) func(*spec.Pod, *spec.Container) {
	return func(_ *spec.Pod, c *spec.Container) { c.Security.AppArmor = profile }
}

// A profile that was asked for by name and cannot be had is an error, whether
// the host has AppArmor or not; no name, or unconfined, is fine everywhere.
func TestAppArmorProfilesThatAreNotThere(t *testing.T) {
	n := newNode(t, pod.GroupNode)
	podID, _ := n.start(t, "unconfined", confinedBy("unconfined"))
	c := containerConfig("missing", "/bin/sleep", "1")
	c.Security.AppArmor = "no-such-profile"
	why := "it is not loaded"
	if !apparmor.Enabled() {
		why = "AppArmor is off on this host"
	}
	_, err := n.Create(t.Context(), pod.ViewAll, podID, c)
	if !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "no-such-profile") || !strings.Contains(err.Error(), why) {
		t.Errorf("got %v, want FailedPrecondition because %s", err, why)
	}
	p := podConfig("privileged")
	p.Privileged, c.Security.Privileged = true, true
	privilegedID, err := n.Run(t.Context(), pod.ViewAll, p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Create(t.Context(), pod.ViewAll, privilegedID, c); err != nil {
		t.Errorf("privileged: %v; no profile is for such a container", err)
	}
}

// T-SPEC. CVE-2019-16884: the label is on the processes themselves, the first
// and those that are executed.
func TestAppArmorConfines(t *testing.T) {
	if !apparmor.Enabled() {
		t.Skip("AppArmor is off on this host")
	}
	n := newNode(t, pod.GroupNode)
	if err := apparmor.LoadDefault(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.with(t, func(c *pod.Config) { c.AppArmor = apparmor.DefaultProfile })
	const own = "berth-test-deny-write"
	text := "profile " + own + " flags=(attach_disconnected) { file, capability, network, signal, ptrace, deny /denied w, }"
	parser := func(args ...string) {
		cmd := exec.Command("apparmor_parser", append(args, "--skip-cache")...)
		cmd.Stdin = bytes.NewReader([]byte(text))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v: %s", cmd.Args, err, out)
		}
	}
	parser("--replace")
	t.Cleanup(func() { parser("--remove") })

	const label = "cat /proc/1/attr/current; cat /proc/self/attr/current"
	for name, tc := range map[string]struct {
		change        func(*spec.Pod, *spec.Container)
		label, denied string
	}{
		"default":    {confinedBy(""), apparmor.DefaultProfile + " (enforce)", "echo 1 >/proc/sys/kernel/msgmax"},
		"named":      {confinedBy(own), own + " (enforce)", ": >/denied"},
		"unconfined": {confinedBy("unconfined"), "unconfined", ""},
		"privileged": {func(p *spec.Pod, c *spec.Container) { confinedBy(own)(p, c); privileged(p, c) }, "unconfined", ""},
	} {
		_, id := n.start(t, name, tc.change)
		t.Run(name, func(t *testing.T) {
			n.wantSh(t, id, label, tc.label+"\n"+tc.label)
			n.wantSh(t, id, ": >/allowed && echo written", "written")
			if tc.denied != "" {
				n.wantRefused(t, id, tc.denied, "Permission denied")
				return
			}
			n.wantSh(t, id, ": >/denied && echo written", "written")
		})
	}
}
