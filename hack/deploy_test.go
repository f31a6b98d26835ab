package hack

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// systemd reads the unit as it is installed and finds nothing to say.
func TestUnitOfTheDaemon(t *testing.T) {
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze of systemd")
	}
	text, err := os.ReadFile("../deploy/berthd.service")
	if err != nil {
		t.Fatal(err)
	}
	prefix := t.TempDir()
	program := filepath.Join(prefix, "bin/berthd")
	unit := filepath.Join(prefix, "berthd.service")
	// Its page of the manual is not installed here.
	installed := strings.NewReplacer("@PREFIX@", prefix, "man:berth(1) ", "").Replace(string(text))
	if err := os.Mkdir(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{program: "#!/bin/sh\n", unit: installed} {
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(unit, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(verify, "verify", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	// What would give the daemon mounts of its own, or reach into containers.
	for line := range strings.Lines(installed) {
		for _, never := range []string{"PrivateTmp", "ProtectSystem", "ProtectHome", "PrivateDevices", "NoNewPrivileges", "SystemCallFilter", "CapabilityBoundingSet", "RestrictNamespaces"} {
			if strings.HasPrefix(line, never+"=") {
				t.Errorf("the unit says %s", line)
			}
		}
	}
}

// Whoever follows the samples points kubelet and kubeadm at the kubelet's
// socket, and crictl at the one that shows everything.
func TestSamplesNameTheirSockets(t *testing.T) {
	const kubelet, every = "unix:///run/berth/kubelet.sock", "unix:///run/berth/berth.sock"
	for file, want := range map[string]string{"kubelet-berth.conf": kubelet, "kubelet-config.yaml": kubelet, "kubeadm.yaml": kubelet, "crictl.yaml": every} {
		text, err := os.ReadFile("../deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "unix://"); n == 0 || n != strings.Count(string(text), want) {
			t.Errorf("deploy/%s names other sockets than %s", file, want)
		}
	}
}

// The shell takes the scripts of the package.
func TestScriptsOfThePackage(t *testing.T) {
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		path := "../deploy/package/" + script
		if out, err := exec.Command("sh", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
		if st, err := os.Stat(path); err != nil || st.Mode()&0o111 == 0 {
			t.Errorf("%s cannot be executed: %v", path, err)
		}
	}
}
