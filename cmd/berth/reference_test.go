package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "write deploy/cli.md and deploy/man anew")

// reference is the command as it is documented: with nothing of the machine
// that it is documented on.
func reference(t *testing.T) *cobra.Command {
	t.Helper()
	t.Setenv(socketEnv, "")
	root := newRoot(&cli{in: strings.NewReader(""), out: io.Discard, err: io.Discard, now: time.Now})
	root.DisableAutoGenTag = true
	return root
}

// verbs are root and all below it that people see, in the order of help.
func verbs(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, sub := range root.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			all = append(all, verbs(sub)...)
		}
	}
	return all
}

// cliReference is one page of the help of every verb.
func cliReference(root *cobra.Command) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# The command line of berth\n\nMade from the commands themselves by `make reference`: what `berth VERB --help` says.\n\n")
	for _, cmd := range verbs(root) {
		anchor := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
		fmt.Fprintf(&b, "- [`%s`](#%s): %s\n", cmd.CommandPath(), anchor, cmd.Short)
	}
	for _, cmd := range verbs(root) {
		var help bytes.Buffer
		cmd.SetOut(&help)
		cmd.InitDefaultHelpFlag()
		if err := cmd.Help(); err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "\n## %s\n\n```\n%s\n```\n", cmd.CommandPath(), strings.TrimSpace(help.String()))
	}
	return b.Bytes(), nil
}

// manPages are the pages of section 1 by their files below deploy.
func manPages(root *cobra.Command) (map[string][]byte, error) {
	pages := map[string][]byte{}
	for _, cmd := range verbs(root) {
		var b bytes.Buffer
		// The date of a page would be that of the last change of any verb.
		header := &doc.GenManHeader{Section: "1", Source: "berth", Manual: "berth", Date: &time.Time{}}
		if err := doc.GenMan(cmd, header, &b); err != nil {
			return nil, err
		}
		pages["man/"+strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".1"] = b.Bytes()
	}
	return pages, nil
}

// TestReferenceIsUpToDate holds deploy to the commands, and so is the golden
// test of every verb's help.
func TestReferenceIsUpToDate(t *testing.T) {
	root := reference(t)
	want, err := manPages(root)
	if err != nil {
		t.Fatal(err)
	}
	if want["cli.md"], err = cliReference(root); err != nil {
		t.Fatal(err)
	}
	const deploy = "../../deploy"
	have, err := filepath.Glob(deploy + "/man/berth*.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range have {
		if name := "man/" + filepath.Base(path); want[name] != nil {
			continue
		} else if !*update {
			t.Errorf("deploy/%s is of no verb: run make reference", name)
		} else if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range want {
		path := filepath.Join(deploy, name)
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
			continue
		}
		if !*update {
			t.Errorf("deploy/%s differs from what berth --help says: run make reference", name)
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// No flag is without words, and none takes more than one line of help for them.
func TestEveryFlagIsExplained(t *testing.T) {
	for _, cmd := range verbs(reference(t)) {
		for _, line := range strings.Split(cmd.LocalFlags().FlagUsages(), "\n") {
			if fields := strings.Fields(line); len(fields) > 0 && slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, "--") }) == len(fields)-1 {
				t.Errorf("%s: a flag without words: %s", cmd.CommandPath(), line)
			}
		}
	}
}
