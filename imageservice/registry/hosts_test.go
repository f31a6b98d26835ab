package registry

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func bases(hosts []host) []string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.base.String())
	}
	return all
}

func TestParseHosts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"docker.io", ``, []string{"https://registry-1.docker.io/v2"}},
		{"docker.io", `server = "https://docker.io"`, []string{"https://registry-1.docker.io/v2"}},
		{"localhost:5000", ``, []string{"http://localhost:5000/v2"}},
		{"localhost:5000", `skip_verify = true`, []string{"https://localhost:5000/v2"}},
		{"quay.io", `server = "quay.io/"`, []string{"https://quay.io/v2"}},
		{"quay.io", "[host.\"z.example\"]\n[host.'https://a.example/v2/']\n[host.m.header]\nx = 'y'\n[host.m]\n",
			[]string{"https://z.example/v2", "https://a.example/v2", "https://m/v2", "https://quay.io/v2"}},
		{"quay.io", "[host.\"https://h.example/v2/hub\"]\noverride_path = true\n[host.\"https://h.example/hub\"]\n",
			[]string{"https://h.example/v2/hub", "https://h.example/hub/v2", "https://quay.io/v2"}},
		{"quay.io", "capabilities = []\n[host.a]\ncapabilities = ['PULL']\n", []string{"https://a/v2", "https://quay.io/v2"}},
		{"quay.io", "host = {\"http://b\" = {}, \"http://a\" = {}}\n", []string{"http://a/v2", "http://b/v2", "https://quay.io/v2"}},
	} {
		hosts, err := parseHosts("hosts.toml", []byte(tt.text), tt.name, false)
		if err != nil || !slices.Equal(bases(hosts), tt.want) {
			t.Errorf("%s: %s: got %v, %v, want %v", tt.name, tt.text, bases(hosts), err, tt.want)
		}
	}
}

func TestParseHostsSettings(t *testing.T) {
	t.Parallel()
	hosts, err := parseHosts("/etc/x/hosts.toml", []byte(`
[host."https://a"]
  capabilities = ["pull", "push"]
  ca = "a.pem"
  client = [["c.cert", "c.key"], ["both.pem", ""]]
  dial_timeout = "5s"
  [host."https://a".header]
    x-one = "1"
    x-two = ["2", "3"]
[host."https://b"]
  ca = ["/abs.pem", "rel.pem"]
  client = "one.pem"
`), "quay.io", false)
	if err != nil {
		t.Fatal(err)
	}
	a, b := hosts[0], hosts[1]
	switch {
	case a.can != canPull|canPush || b.can != canAll:
		t.Errorf("capabilities %d and %d", a.can, b.can)
	case !slices.Equal(a.ca, []string{"/etc/x/a.pem"}) || !slices.Equal(b.ca, []string{"/abs.pem", "/etc/x/rel.pem"}):
		t.Errorf("ca %v and %v", a.ca, b.ca)
	case !slices.Equal(a.client, [][2]string{{"/etc/x/c.cert", "/etc/x/c.key"}, {"/etc/x/both.pem", "/etc/x/both.pem"}}):
		t.Errorf("client %v", a.client)
	case !slices.Equal(b.client, [][2]string{{"/etc/x/one.pem", "/etc/x/one.pem"}}):
		t.Errorf("client %v", b.client)
	case a.header.Get("X-One") != "1" || len(a.header.Values("X-Two")) != 2:
		t.Errorf("header %v", a.header)
	case a.dialTimeout.Seconds() != 5:
		t.Errorf("dial_timeout %v", a.dialTimeout)
	}
}

func TestParseHostsRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"server = \"https://a\"\n\n[host.\"https://b\"]\ncapabilites = [\"pull\"]\n": "hosts.toml:4: unknown key",
		"\nserverr = 1\n": "hosts.toml:2: unknown key \"serverr\"",
		"server = \"https://a\"\nskip_verify = 3\n": "hosts.toml:2: ",
		"server = \"https://a\"\n[host\n":           "hosts.toml:2: ",
		"capabilities = [\"fetch\"]":                "unknown capability \"fetch\"",
		"server = \"ftp://a\"":                      "scheme",
		"server = \"https://u:hunter2@a\"":          "no user",
		"[host.\"https://a/?x=y\"]":                 "no user, query",
		"ca = 3":                                    "ca must be a string or a list",
		"ca = [3]":                                  "ca must hold strings",
		"client = [[\"a\", \"b\", \"c\"]]":          "client must be a file or pairs",
		"dial_timeout = \"soon\"":                   "not a duration",
		"dial_timeout = \"-1s\"":                    "not a duration above zero",
		"[host.\"https://a\"]\n[host.\"https://a\".host.\"https://b\"]\n": "hosts.toml:2: unknown key",
	} {
		_, err := parseHosts("hosts.toml", []byte(text), "quay.io", false)
		if !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestHostDirectories(t *testing.T) {
	t.Parallel()
	one, two := t.TempDir(), t.TempDir()
	write := func(server string, elem ...string) {
		dir := filepath.Join(elem...)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte("server = \"https://"+server+"\""), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	find := func(name string) string {
		t.Helper()
		hosts, err := loadHosts([]string{one, two}, name)
		if err != nil {
			t.Fatal(err)
		}
		return hosts[len(hosts)-1].base.Host
	}
	if got := find("quay.io:443"); got != "quay.io:443" {
		t.Errorf("with no file: %s", got)
	}
	for _, step := range []struct {
		server string
		elem   []string
	}{
		{"default", []string{one, "_default"}},
		{"second", []string{two, "quay.io:443"}},
		{"first", []string{one, "quay.io:443"}},
		{"underscores", []string{one, "quay.io_443_"}},
	} {
		write(step.server, step.elem...)
		if got := find("quay.io:443"); got != step.server {
			t.Errorf("got %s, want %s", got, step.server)
		}
	}
	if got := find("ghcr.io"); got != "default" {
		t.Errorf("another host: %s, want the default", got)
	}
}

// A directory that is there decides, also when nothing in it is of use; and a
// file under nearly the right name is not passed over in silence.
func TestHostDirectoryThatIsThereDecides(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for dir, server := range map[string]string{"_default": "http://default.invalid", "quay.io": ""} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if server == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(root, dir, "hosts.toml"), []byte("server = \""+server+"\""), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hosts, err := loadHosts([]string{root}, "quay.io")
	if err != nil || !slices.Equal(bases(hosts), []string{"https://quay.io/v2"}) || hosts[0].source != "" {
		t.Errorf("got %v of %q, %v", bases(hosts), hosts[0].source, err)
	}
	if err := os.WriteFile(filepath.Join(root, "quay.io", "host.toml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadHosts([]string{root}, "quay.io"); !errkind.Is(err, errkind.FailedPrecondition) || !strings.Contains(err.Error(), "host.toml would not be read") {
		t.Errorf("got %v", err)
	}
}

func TestCREDRealms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		endpoint, realm string
		ok              bool
	}{
		{"https://reg.example", "https://auth.example/token", true},
		{"https://reg.example", "https://reg.example/token", true},
		{"https://reg.example", "http://reg.example/token", false},
		{"https://reg.example", "http://auth.example/token", false},
		{"https://reg.example", "http://127.0.0.1:8080/token", false},
		{"https://reg.example", "https://localhost:6443/api", false},
		{"https://reg.example", "https://u:p@auth.example/token", false},
		{"https://reg.example", "file:///etc/passwd", false},
		{"https://reg.example", "/token", false},
		{"https://reg.example", "", false},
		{"http://reg.example:5000", "http://reg.example:5000/token", true},
		{"http://reg.example:5000", "http://reg.example:5001/token", false},
		{"http://localhost:5000", "http://127.0.0.1:5001/token", true},
	} {
		base, err := url.Parse(tt.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		_, err = (&authorizer{base: base}).checkRealm(tt.realm)
		if (err == nil) != tt.ok {
			t.Errorf("realm %q of %s: %v", tt.realm, tt.endpoint, err)
		}
	}
}

func TestCREDStaysOutOfTheClear(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		endpoint, refHost, server string
		ok                        bool
	}{
		{"https://registry-1.docker.io", "docker.io", "", true},
		{"https://registry-1.docker.io", "docker.io", "https://index.docker.io/v1/", true},
		{"https://mirror.example", "docker.io", "", true},
		{"https://mirror.example", "docker.io", "docker.io", false},
		{"https://mirror.example", "docker.io", "mirror.example", true},
		{"http://mirror.example", "docker.io", "", false},
		{"http://reg.example:5000", "reg.example:5000", "", true},
		{"http://127.0.0.1:5000", "docker.io", "", true},
	} {
		base, err := url.Parse(tt.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		creds, err := newCredentials(&Auth{Username: "joe", Password: "x", ServerAddress: tt.server})
		if err != nil {
			t.Fatal(err)
		}
		if got := creds.mayGoTo(base, tt.refHost); got != tt.ok {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
}
