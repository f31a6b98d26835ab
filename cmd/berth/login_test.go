package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// at runs berth with docker's file at config.
func (n *node) at(config, stdin string, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	c := &cli{in: strings.NewReader(stdin), out: &o, err: &e, now: time.Now, dockerConfig: config, atPrompt: time.Minute}
	root := newRoot(c)
	root.SetArgs(append([]string{"--socket", n.socket}, args...))
	code = report(&e, root.Execute())
	return code, o.String(), e.String()
}

func TestLoginAndLogout(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	config := filepath.Join(t.TempDir(), "new", "config.json")
	code, out, errs := n.at(config, "secret\n", "login", "-u", "joe", "--password-stdin", "registry.example.com")
	if code != 0 || !strings.Contains(out, "Logged in to registry.example.com as joe") || strings.Contains(out+errs, "secret") {
		t.Fatalf("%d %q %q", code, out, errs)
	}
	if st, err := os.Stat(config); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	found := func(host string) api.Credentials {
		d, err := readDockerConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		creds, err := d.lookup(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		return creds
	}
	if c := found("registry.example.com"); c.Username != "joe" || c.Password != "secret" {
		t.Errorf("%+v", c)
	}

	// What else is in the file stays; refused credentials are not kept.
	text, _ := os.ReadFile(config)
	var whole map[string]any
	if err := json.Unmarshal(text, &whole); err != nil {
		t.Fatal(err)
	}
	whole["HttpHeaders"] = map[string]string{"A": "b"}
	text, _ = json.Marshal(whole)
	if err := os.WriteFile(config, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := n.at(config, "wrong", "login", "-u", "joe", "--password-stdin"); code != exitOwn || !strings.Contains(errs, "refuses the credentials") {
		t.Errorf("wrong password: %d %q", code, errs)
	}
	if code, _, errs := n.at(config, "secret", "login", "-u", "joe", "--password-stdin", "https://index.docker.io/v1/"); code != 0 {
		t.Errorf("%d %q", code, errs)
	}
	if c := found("docker.io"); c.Password != "secret" {
		t.Errorf("docker.io: %+v", c)
	}
	if code, _, errs := n.at(config, "", "logout", "registry.example.com"); code != 0 {
		t.Errorf("%d %q", code, errs)
	}
	if c := found("registry.example.com"); c != (api.Credentials{}) {
		t.Errorf("after logout: %+v", c)
	}
	if text, _ := os.ReadFile(config); !bytes.Contains(text, []byte(`"HttpHeaders"`)) || !bytes.Contains(text, []byte("index.docker.io")) {
		t.Errorf("the rest is gone: %s", text)
	}
	for why, args := range map[string][]string{
		"stdin is no terminal": {"login"},
		"are both given":       {"login", "-p", "x", "--password-stdin"},
		"has a colon":          {"login", "-u", "a:b", "-p", "x"},
	} {
		if code, _, errs := n.at(config, "", args...); code != exitOwn || !strings.Contains(errs, why) {
			t.Errorf("%v: %d %q", args, code, errs)
		}
	}
}

// Not parallel: PATH is the process's.
func TestLoginByAHelper(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, []byte(`{"credsStore":"test"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\ncat >" + dir + "/$1\n"
	if err := os.WriteFile(dir+"/docker-credential-test", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if code, out, errs := n.at(config, "secret", "login", "-u", "joe", "--password-stdin", "r.example.com:5000"); code != 0 || !strings.Contains(out, "docker-credential-test") {
		t.Fatalf("%d %q %q", code, out, errs)
	}
	if got, err := os.ReadFile(dir + "/store"); err != nil || !strings.Contains(string(got), `"Secret":"secret"`) || !strings.Contains(string(got), `"ServerURL":"r.example.com:5000"`) {
		t.Errorf("%s, %v", got, err)
	}
	if text, _ := os.ReadFile(config); strings.Contains(string(text), "auths") {
		t.Errorf("the file has them too: %s", text)
	}
	if code, _, errs := n.at(config, "", "logout", "r.example.com:5000"); code != 0 {
		t.Errorf("%d %q", code, errs)
	}
	if got, err := os.ReadFile(dir + "/erase"); err != nil || string(got) == "" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPortRows(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web", "-p", "8080:80", "-p", "127.0.0.1:53:53/udp", "box", "sleep")
	if got, want := n.must(t, "port", "web"), "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n53/udp -> 127.0.0.1:53\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := n.must(t, "container", "port", "web", "53/udp"); got != "127.0.0.1:53\n" {
		t.Errorf("%q", got)
	}
	if code, _, errs := n.berth("port", "web", "53"); code != exitOwn || !strings.Contains(errs, "it is not published") {
		t.Errorf("%d %q", code, errs)
	}
}

// docker's longer names lead to the same verbs.
func TestGroups(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	id := strings.TrimSpace(n.must(t, "container", "run", "-d", "--name", "web", "box", "sleep"))
	for _, args := range [][]string{{"container", "ls", "-q"}, {"container", "ps", "-q"}, {"ps", "-q"}, {"ls", "-q"}} {
		if got := n.must(t, args...); got != id[:12]+"\n" {
			t.Errorf("%v: %q", args, got)
		}
	}
	if a, b := n.must(t, "image", "ls"), n.must(t, "images"); a != b {
		t.Errorf("%q and %q", a, b)
	}
	n.must(t, "run", "-d", "--name", "over", "box", "exit", "3")
	if code, _, errs := n.berth("container", "prune"); code != exitOwn || !strings.Contains(errs, "say so with --force") {
		t.Errorf("prune without a person: %d %q", code, errs)
	}
	if got := n.must(t, "system", "prune", "-f"); !strings.Contains(got, "Deleted container over") || !strings.Contains(got, "came free") {
		t.Errorf("%q", got)
	}
	if got := n.must(t, "ps", "-aq"); got != id[:12]+"\n" {
		t.Errorf("left %q", got)
	}
	if code, _, errs := n.berth("container", "frobnicate"); code != exitOwn || !strings.Contains(errs, "  try: ") {
		t.Errorf("%d %q", code, errs)
	}
	for _, cmd := range dockerGroups(&cli{out: io.Discard}) {
		if !cmd.Hidden {
			t.Errorf("%s is in the help, which has each verb once", cmd.Name())
		}
	}
}
