//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/hack/lab"
)

// doctor is what berth doctor finds, by check; the worst of each. Its exit code
// is this machine's affair.
func (n *node) doctor(args ...string) map[string]api.Finding {
	n.t.Helper()
	out, err := n.Berth(n.t.Context(), append([]string{"doctor", "--output", "json"}, args...)...)
	var r api.DoctorResult
	if jerr := json.Unmarshal([]byte(out), &r); jerr != nil {
		n.t.Fatalf("%v, %v: %s", jerr, err, out)
	}
	worse := map[string]int{"": 0, "ok": 1, "warn": 2, "fail": 3}
	found := map[string]api.Finding{}
	for _, f := range r.Findings {
		if worse[f.Verdict] == 0 || f.Reason == "" || f.Verdict != "ok" && f.Fix == "" {
			n.t.Errorf("a finding without verdict, reason or fix: %+v", f)
		}
		if worse[f.Verdict] > worse[found[f.Check].Verdict] {
			found[f.Check] = f
		}
	}
	return found
}

func TestDoctorWithAndWithoutADaemon(t *testing.T) {
	n := newNode(t, lab.Options{Config: "log_level = 3\n"})
	file := filepath.Join(n.Dir, "config.toml")
	want := func(found map[string]api.Finding, check, verdict, says string) {
		t.Helper()
		if f := found[check]; f.Verdict != verdict || !strings.Contains(f.Reason, says) {
			t.Errorf("%s: got %+v, want %s with %q", check, f, verdict, says)
		}
	}
	found := n.doctor("--registry", n.Registry)
	want(found, "daemon", "ok", n.Socket)
	want(found, "config", "ok", file)
	want(found, "storage.overlay", "ok", n.Root)
	want(found, "programs", "ok", "")
	want(found, "registry."+n.Registry, "ok", "answers")
	want(found, "network.nftables", "ok", "")

	out, err := n.Berth(t.Context(), "config", "show", "--origin")
	if err != nil || !strings.Contains(out, "log_level = 4") || !strings.Contains(out, "# --log-level") || !strings.Contains(out, "# "+file+":") {
		t.Errorf("config show: %v\n%s", err, out)
	}

	n.Stop()
	if err := os.WriteFile(file, []byte("root = '"+n.Root+"'\nstate = '"+n.State+"'\nrooot = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	found = n.doctor("--config", file)
	want(found, "daemon", "warn", "not running")
	want(found, "config", "fail", file+":3: unknown key rooot")
	want(found, "storage.overlay", "ok", n.Root)
	want(found, "programs", "ok", "")
	if out, err := n.Berth(t.Context(), "config", "check", file); err == nil || !strings.Contains(err.Error(), file+":3") {
		t.Errorf("config check: %v\n%s", err, out)
	}
}
