package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// complete is what the shell's script asks for, and what it would offer.
func (n *node) complete(t *testing.T, words ...string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(n.must(t, append([]string{"__complete"}, words...)...)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		out = append(out, name)
	}
	return out
}

func TestCompletionOfNames(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "box", "sleep")
	n.must(t, "run", "-d", "--name", "db", "box", "sleep")
	n.kubeletsPod(t)
	const noFiles, files = ":4", ":0"
	for _, tc := range []struct {
		typed string
		want  []string
	}{
		{"stop ", []string{"db", "kube-system/dns", "kube-system/dns/server", "web", noFiles}},
		{"stop w", []string{"web", noFiles}},
		{"stop web d", []string{"db", noFiles}},
		{"logs ", []string{"db", "kube-system/dns/server", "web", noFiles}},
		{"logs web ", []string{noFiles}},
		{"exec ", []string{"db", "kube-system/dns/server", "web", noFiles}},
		{"exec web ", []string{files}},
		{"run b", []string{"box:latest", noFiles}},
		{"run box ", []string{files}},
		{"rmi ", []string{"box:latest", noFiles}},
		{"images ", []string{"box:latest", noFiles}},
		{"tag box ", []string{noFiles}},
		{"config check ", []string{files}},
	} {
		words := strings.Split(tc.typed, " ")
		if got := n.complete(t, words...); !slices.Equal(got, tc.want) {
			t.Errorf("%q: got %q, want %q", tc.typed, got, tc.want)
		}
	}
	n.server.Stop()
	if got := n.complete(t, "stop", ""); !slices.Equal(got, []string{noFiles}) {
		t.Errorf("without a daemon: %q", got)
	}
}

// The scripts are what a shell takes, and bash's offers what we say.
func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script := n.must(t, "completion", shell)
		if !strings.Contains(script, "__complete") {
			t.Errorf("%s: %.200q", shell, script)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("no %s here: its script is not read", shell)
			continue
		}
		file := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		cmd := exec.Command(path, "-n", file)
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Run(); err != nil || said.Len() > 0 {
			t.Errorf("%s: %v: %s", shell, err, said.String())
		}
	}
	if code, _, errs := n.berth("completion", "powershell"); code == 0 {
		t.Errorf("powershell: %q", errs)
	}
}
