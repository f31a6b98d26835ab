package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// Doctor finds what the test put there, and each registry that it was asked for.
func (n adminNode) Doctor(_ context.Context, r *api.DoctorRequest) (*api.DoctorResult, error) {
	found := slices.Clone(n.findings)
	for _, host := range r.Registries {
		found = append(found, api.Finding{Check: "registry." + host, Verdict: "ok", Reason: "a registry answers"})
	}
	return &api.DoctorResult{Findings: found}, nil
}

func (n adminNode) Config(context.Context, *api.Empty) (*api.ConfigResult, error) {
	return &api.ConfigResult{Settings: []api.Setting{
		{Key: "root", Value: "'/var/lib/berth'", Origin: "default"}, {Key: "network.mtu", Value: "1400", Origin: "/etc/berth/conf.d/10-net.toml:3"},
	}}, nil
}

func TestDoctorOfARunningDaemon(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	code, out, errs := n.berth("doctor", "--registry", "quay.io")
	if code != 0 || errs != "" || !strings.Contains(out, "registry.quay.io") || !strings.Contains(out, "2 ok, 0 to be warned of, 0 failed") {
		t.Errorf("all well: code %d, %q, %q", code, out, errs)
	}
	n.findings = []api.Finding{{Check: "clock", Verdict: "warn", Reason: "nothing keeps it", Fix: "timedatectl set-ntp true"}}
	code, out, _ = n.berth("doctor")
	if code != 1 || !strings.Contains(out, "warn  clock") || !strings.Contains(out, "fix: timedatectl set-ntp true") {
		t.Errorf("a warning: code %d, %q", code, out)
	}
	n.findings = append(n.findings, api.Finding{Check: "storage.overlay", Verdict: "fail", Reason: "no", Fix: "yes"})
	code, out, _ = n.berth("doctor", "--output", "json")
	var r api.DoctorResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 2 || len(r.Findings) != 3 {
		t.Errorf("a failure: code %d, %q, %v", code, out, err)
	}
}

// withBerthd puts a program of that name on PATH which prints answer and its
// arguments, or says what and fails.
func withBerthd(t *testing.T, answer, what string) (args func() string) {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s/args\n", dir)
	if what != "" {
		script += fmt.Sprintf("printf '%%s' '%s' >&2\nexit 1\n", what)
	} else {
		script += fmt.Sprintf("printf '%%s' '%s'\n", answer)
	}
	if err := os.WriteFile(filepath.Join(dir, "berthd"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "args"))
		return strings.TrimSpace(string(b))
	}
}

func lonely(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(append([]string{"--socket", "/nowhere/berth.sock"}, args...), strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

func TestDoctorWithoutADaemonHasItsProgramLook(t *testing.T) {
	args := withBerthd(t, `{"findings":[{"check":"clock","verdict":"ok","reason":"right"}]}`, "")
	code, out, errs := lonely("doctor", "--config", "/x.toml", "--registry", "a", "--registry", "b")
	if code != 1 || errs != "" || !strings.Contains(out, "berthd is not running") || !strings.Contains(out, "clock") {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
	if got := args(); got != "doctor --config /x.toml --registry a --registry b" {
		t.Errorf("berthd was called with %q", got)
	}
	withBerthd(t, "", "berthd: it is\nall wrong")
	if code, _, errs := lonely("doctor"); code != exitOwn || !strings.Contains(errs, "why: it is; all wrong") {
		t.Errorf("code %d, %q", code, errs)
	}
	withBerthd(t, "no JSON", "")
	if code, _, errs := lonely("doctor"); code != exitOwn || !strings.Contains(errs, "of one version") {
		t.Errorf("code %d, %q", code, errs)
	}
}

func TestConfigOfADaemonAndWithout(t *testing.T) {
	n := newNode(t)
	if out := n.must(t, "config", "show"); !strings.Contains(out, "network.mtu = 1400") || strings.Contains(out, "#") {
		t.Errorf("show: %q", out)
	}
	if out := n.must(t, "config", "show", "--origin"); !strings.Contains(out, "network.mtu = 1400       # /etc/berth/conf.d/10-net.toml:3") {
		t.Errorf("show --origin: %q", out)
	}
	args := withBerthd(t, `{"settings":[{"key":"root","value":"1","origin":"--root"}]}`, "")
	if code, out, errs := lonely("config", "show", "--config", "/x.toml", "--output", "json"); code != 0 || !strings.Contains(out, `"origin": "--root"`) {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
	if code, out, errs := lonely("config", "check", "/a", "/b"); code != 0 || !strings.Contains(out, "can be used") {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
	if got := args(); got != "config show --config /x.toml\nconfig check -- /a /b" {
		t.Errorf("berthd was called with %q", got)
	}
	withBerthd(t, "", "berthd: cannot read configuration: /a:3: unknown key x")
	if code, _, errs := lonely("config", "check", "/a"); code != exitOwn || !strings.Contains(errs, "/a:3: unknown key x") {
		t.Errorf("code %d, %q", code, errs)
	}
}
