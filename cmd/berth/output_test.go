package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// shown is what a verb prints of rows in that form.
func shown(t *testing.T, output, format string, v any) string {
	t.Helper()
	f, err := readForm(output, format)
	if err != nil {
		t.Fatalf("%s %s: %v", output, format, err)
	}
	var out bytes.Buffer
	c := &cli{out: &out, form: f}
	if err := c.show(v); err != nil {
		t.Fatalf("%s %s: %v", output, format, err)
	}
	return out.String()
}

// The golden test of the forms of output.
func TestForms(t *testing.T) {
	t.Parallel()
	n := uint64(1 << 30)
	rows := []volumeRow{
		{Name: "data", Path: "/v/data", Created: time.Unix(1_700_000_000, 0).UTC(), Labels: map[string]string{"team": "blue"}, Bytes: &n, Users: []string{"web (0123456789ab)"}},
		{Name: "cache", Path: "/v/cache", Created: time.Unix(1_700_000_001, 0).UTC(), Users: []string{}},
	}
	for _, tc := range []struct{ output, format, want string }{
		{"json", "", `[
  {
    "name": "data",
    "path": "/v/data",
    "created": "2023-11-14T22:13:20Z",
    "labels": {
      "team": "blue"
    },
    "bytes": 1073741824,
    "users": [
      "web (0123456789ab)"
    ]
  },
  {
    "name": "cache",
    "path": "/v/cache",
    "created": "2023-11-14T22:13:21Z",
    "users": []
  }
]
`},
		{"yaml", "", `- bytes: 1073741824
  created: "2023-11-14T22:13:20Z"
  labels:
    team: blue
  name: data
  path: /v/data
  users:
    - web (0123456789ab)
- created: "2023-11-14T22:13:21Z"
  name: cache
  path: /v/cache
  users: []
`},
		{"table", "json", `{"name":"data","path":"/v/data","created":"2023-11-14T22:13:20Z","labels":{"team":"blue"},"bytes":1073741824,"users":["web (0123456789ab)"]}
{"name":"cache","path":"/v/cache","created":"2023-11-14T22:13:21Z","users":[]}
`},
		{"go-template={{.name}} {{len .users}}", "", "data 1\ncache 0\n"},
		{"table", "{{.Name}}: {{.Mountpoint}} {{.Driver}}", "data: /v/data local\ncache: /v/cache local\n"},
		{"table", "table {{.Name}}\t{{.Driver}}", "NAME\tDRIVER\ndata\tlocal\ncache\tlocal\n"},
		{"table", "{{json .Labels}}", "{\"team\":\"blue\"}\n"},
	} {
		list := rows
		if strings.Contains(tc.format, "Labels") {
			list = rows[:1]
		}
		if got := shown(t, tc.output, tc.format, list); got != tc.want {
			t.Errorf("%s %s: got\n%s\nwant\n%s", tc.output, tc.format, got, tc.want)
		}
	}
}

func TestFormsThatAreNone(t *testing.T) {
	t.Parallel()
	for why, flags := range map[string][2]string{
		"there is no such format":   {"xml", ""},
		"both --output and":         {"json", "{{.ID}}"},
		"unclosed action":           {"table", "{{.ID"},
		"function \"exec\" not def": {"go-template={{exec}}", ""},
	} {
		if _, err := readForm(flags[0], flags[1]); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %s", flags, err, why)
		}
	}
	f, err := readForm("table", "{{.Nonsense}}")
	if err != nil {
		t.Fatal(err)
	}
	c := &cli{out: &bytes.Buffer{}, form: f}
	if err := c.show([]volumeRow{{}}); err == nil || !strings.Contains(err.Error(), "Nonsense") {
		t.Errorf("a field that is not there: %v", err)
	}
}

func TestPsFilters(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addImage("docker.io/library/box:latest", "box")
	n.must(t, "run", "-d", "--name", "web-1", "--label", "team=blue", "-v", "data:/d", "box", "sleep")
	n.must(t, "run", "-d", "--name", "web-2", "--label", "team=red", "box", "sleep")
	n.must(t, "run", "-d", "--name", "job", "box", "exit", "3")
	for filters, want := range map[string]string{
		"name=web": "web-2 web-1", "label=team": "web-2 web-1", "label=team=blue": "web-1", "status=exited": "job", "exited=3": "job", "exited=0": "",
		"status=running": "web-2 web-1", "ancestor=box": "web-2 web-1", "volume=data": "web-1", "name=web label=team=red": "web-2", "name=web-1 name=web-2": "web-2 web-1",
		"before=web-2": "web-1", "since=web-1": "web-2", "health=none": "web-2 web-1", "pod=web-1": "web-1", "namespace=other": "",
	} {
		args := []string{"ps", "--format", "{{.Names}}"}
		for _, f := range strings.Fields(filters) {
			args = append(args, "--filter", f)
		}
		if got := strings.Join(strings.Fields(n.must(t, args...)), " "); got != want {
			t.Errorf("%s: %q, want %q", filters, got, want)
		}
	}
	if got := n.must(t, "ps", "-n", "1", "--format", "{{.Names}} {{.State}}"); got != "job exited\n" {
		t.Errorf("-n 1: %q", got)
	}
	if got := n.must(t, "ps", "-l", "-q"); len(got) != 13 {
		t.Errorf("-l: %q", got)
	}
	for _, f := range []string{"colour=red", "name", "name="} {
		if code, _, errs := n.berth("ps", "--filter", f); code != exitOwn || !strings.Contains(errs, "choose id=") {
			t.Errorf("%s: %d %q", f, code, errs)
		}
	}
}
