package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// told checks that err is a problem in three parts whose reason has why.
func told(t *testing.T, name string, err error, why string) {
	t.Helper()
	var p *problem
	if !errors.As(err, &p) || p.what == "" || p.do == "" || !strings.Contains(p.why, why) {
		t.Errorf("%s: %#v does not say %q", name, err, why)
	}
}

func TestParsePorts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in   string
		want []string
		why  string
	}{
		{in: "8080:80", want: []string{"*:8080->80/tcp"}},
		{in: "8080:80/tcp", want: []string{"*:8080->80/tcp"}},
		{in: "5353:53/udp", want: []string{"*:5353->53/udp"}},
		{in: "9:9/sctp", want: []string{"*:9->9/sctp"}},
		{in: "127.0.0.1:8080:80", want: []string{"127.0.0.1:8080->80/tcp"}},
		{in: "[::1]:8080:80", want: []string{"[::1]:8080->80/tcp"}},
		{in: "8000-8002:9000-9002/udp", want: []string{"*:8000->9000/udp", "*:8001->9001/udp", "*:8002->9002/udp"}},
		{in: "65535:65535", want: []string{"*:65535->65535/tcp"}},
		{in: "8080:80/icmp", why: "no protocol"},
		{in: "8080:80/", why: `no protocol ""`},
		{in: "65536:80", why: "not a port number"},
		{in: "http:80", why: "not a port number"},
		{in: "8002-8000:9002-9000", why: "runs backwards"},
		{in: "::1:8080:80", why: "must be in brackets"},
		{in: "localhost:8080:80", why: "not an IP address"},
		{in: "[fe80::1%eth0]:1:1", why: "not an IP address"},
		{in: "", why: "not a port number"},
		{in: "0", why: "not a port number"},
		{in: "8080:0", why: "not a port number"},
		{in: "8000-8001:9000-9002", why: "differ in length"},
		{in: "1-65535:1-65535", why: "that makes 65535 ports, and a container can have 1024"},
		{in: "1-65535", why: "a container can have 1024"},
	} {
		got, err := parsePorts([]string{tc.in})
		if tc.why != "" {
			told(t, tc.in, err, tc.why)
			continue
		}
		var shown []string
		for _, m := range mappings(got) {
			shown = append(shown, portText(m))
		}
		if err != nil || !slices.Equal(shown, tc.want) {
			t.Errorf("%s: %v, %v", tc.in, shown, err)
		}
	}
	_, err := parsePorts([]string{"80:80", "79-81:1-3"})
	told(t, "twice", err, `host port 80 is already published by "80:80"`)
	if _, err := parsePorts([]string{"53:53/tcp", "53:53/udp", "127.0.0.1:80:80", "127.0.0.2:80:80"}); err != nil {
		t.Error(err)
	}
}

// A port of the host that is not named, or one of several, is the first that
// nobody has.
func TestPortsThatAreChosen(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"80": "*:N->80/tcp", ":80": "*:N->80/tcp", "0:80": "*:N->80/tcp", "127.0.0.1::53/udp": "127.0.0.1:N->53/udp",
		"[::1]::80": "[::1]:N->80/tcp", "80-81": "*:N->80/tcp, *:N->81/tcp",
	} {
		all, err := parsePorts([]string{in})
		if err != nil {
			t.Fatal(err)
		}
		first := mappings(all)
		got := portsText(first)
		for _, m := range first {
			if m.HostPort < firstRandom || m.HostPort > lastRandom {
				t.Errorf("%s: port %d is none of those", in, m.HostPort)
			}
			got = strings.ReplaceAll(got, fmt.Sprint(":", m.HostPort), ":N")
		}
		if got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
		taken := fmt.Errorf("cannot run pod: host port %s 0.0.0.0:%d is held by pod default/other (1234)", strings.ToLower(first[0].Protocol.String()), first[0].HostPort)
		if !another(all, taken) || mappings(all)[0].HostPort == first[0].HostPort && all[0].tries == randomTries-1 {
			t.Errorf("%s: no other port is chosen", in)
		}
	}
	all, err := parsePorts([]string{"8000-8002:80", "9000:90"})
	if err != nil {
		t.Fatal(err)
	}
	taken := func(port int) error {
		return fmt.Errorf("host port tcp [::]:%d is taken: process 1 of the host (x) listens on [::1]:%d", port, port)
	}
	if !another(all, taken(8000)) || !another(all, taken(8001)) || another(all, taken(8002)) || portsText(mappings(all)) != "*:8002->80/tcp, *:9000->90/tcp" {
		t.Errorf("of a range: %s", portsText(mappings(all)))
	}
	if another(all, taken(9000)) || another(all, errors.New("no such image")) {
		t.Error("a port that was named is exchanged for another")
	}
}

func TestExposedPorts(t *testing.T) {
	t.Parallel()
	all, err := parsePorts([]string{"8080:80"})
	if err != nil {
		t.Fatal(err)
	}
	all, err = exposed(all, []byte(`{"ExposedPorts": {"80/tcp": {}, "443/tcp": {}, "53/udp": {}}}`), []string{"5000-5001"})
	var got []string
	for _, p := range all {
		got = append(got, fmt.Sprintf("%d/%v", p.port, p.protocol))
	}
	if err != nil || strings.Join(got, " ") != "80/TCP 443/TCP 53/UDP 5000/TCP 5001/TCP" {
		t.Errorf("%v, %v", got, err)
	}
	_, err = exposed(nil, []byte(`{"ExposedPorts": {"http": {}}}`), nil)
	told(t, "image", err, "not a port of a container")
	_, err = exposed(nil, nil, []string{"80:80"})
	told(t, "host", err, "not a port of a container")
}

func TestParseVolumes(t *testing.T) {
	t.Parallel()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	const (
		private = criv1.MountPropagation_PROPAGATION_PRIVATE
		slave   = criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		shared  = criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL
	)
	for _, tc := range []struct {
		in, host, inside string
		ro               bool
		propagation      criv1.MountPropagation
		why              string
	}{
		{in: "/a:/b", host: "/a", inside: "/b"},
		{in: "/a/:/b/", host: "/a", inside: "/b"},
		{in: "/a:/b:ro", host: "/a", inside: "/b", ro: true},
		{in: "/a:/b:rw", host: "/a", inside: "/b"},
		{in: "/a:/b:ro,rslave", host: "/a", inside: "/b", ro: true, propagation: slave},
		{in: "/a:/b:rshared", host: "/a", inside: "/b", propagation: shared},
		{in: "/a:/b:rprivate", host: "/a", inside: "/b", propagation: private},
		{in: "./a:/b", host: filepath.Join(wd, "a"), inside: "/b"},
		{in: ".:/b", host: wd, inside: "/b"},
		{in: "/a:/b/../c", host: "/a", inside: "/c"},
		{in: "da ta:/b", why: "no name of a volume"},
		{in: ":/b", why: "does not name one path"},
		{in: "/a:", why: "does not name one path"},
		{in: "/a:/b:ro:x", why: "does not name one path"},
		{in: "/a:b", why: "not an absolute path"},
		{in: "/a:/", why: "not an absolute path below /"},
		{in: "/a:/b:fast", why: `no option "fast"`},
		{in: "/a:/b:", why: `no option ""`},
	} {
		got, err := parseMounts([]string{tc.in}, nil, nil)
		if tc.why != "" {
			told(t, tc.in, err, tc.why)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.in, err)
			continue
		}
		if m := got.mounts[0]; m.HostPath != tc.host || m.ContainerPath != tc.inside || m.Readonly != tc.ro || m.Propagation != tc.propagation {
			t.Errorf("%s: %v", tc.in, m)
		}
	}
	_, err = parseMounts([]string{"/a:/x", "/b:/x/"}, nil, nil)
	told(t, "twice", err, "mounted at /x already")
}

func TestParseEnv(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("# comment\n\nA=file\n  B=\"quoted\"\nHOME\nNONE\nD=a=b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	own := func(name string) (string, bool) { return "/home/me", name == "HOME" }
	got, err := parseEnv([]string{file}, []string{"C=", "A=flag"}, own)
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, kv := range got {
		shown = append(shown, kv.Key+"="+string(kv.Value))
	}
	if want := []string{"A=flag", `B="quoted"`, "HOME=/home/me", "D=a=b", "C="}; !slices.Equal(shown, want) {
		t.Errorf("got %q, want %q", shown, want)
	}
	_, err = parseEnv(nil, []string{"=x"}, own)
	told(t, "=x", err, "no name")
	_, err = parseEnv([]string{file + "x"}, nil, own)
	told(t, "no file", err, "no such file")
}

func TestParseLabels(t *testing.T) {
	t.Parallel()
	got, err := parseLabels([]string{"a=1", "b", "c=x=y"})
	if err != nil || got["a"] != "1" || got["b"] != "" || got["c"] != "x=y" || len(got) != 3 {
		t.Errorf("%v, %v", got, err)
	}
	for _, in := range []string{"=x", "io.berth.run=false", "io.kubernetes.container.name=x"} {
		_, err := parseLabels([]string{in})
		told(t, in, err, "")
	}
}

func TestParseLimits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		cpus, memory  string
		pids          int64
		quota, bytes  int64
		pidsMax, what string
	}{
		{},
		{cpus: "1.5", quota: 150_000},
		{cpus: "0.01", quota: 1_000},
		{cpus: "2", memory: "256m", pids: 10, quota: 200_000, bytes: 256 << 20, pidsMax: "10"},
		{memory: "1g", bytes: 1 << 30},
		{memory: "1.5GiB", bytes: 3 << 29},
		{memory: "8388608", bytes: 8 << 20},
		{memory: "8192k", bytes: 8 << 20},
		{pids: -1, pidsMax: "max"},
		{cpus: "0", what: "CPUs"},
		{cpus: "0.001", what: "CPUs"},
		{cpus: "-1", what: "CPUs"},
		{cpus: "NaN", what: "CPUs"},
		{cpus: "Inf", what: "CPUs"},
		{cpus: "many", what: "CPUs"},
		{memory: "5m", what: "memory"},
		{memory: "-1g", what: "memory"},
		{memory: "much", what: "memory"},
		{pids: -2, what: "processes"},
	} {
		r, err := parseLimits(tc.cpus, tc.memory, tc.pids)
		if tc.what != "" {
			var p *problem
			if !errors.As(err, &p) || !strings.Contains(p.what, tc.what) {
				t.Errorf("%+v: %v", tc, err)
			}
			continue
		}
		if err != nil || r.CpuQuota != tc.quota || r.MemoryLimitInBytes != tc.bytes || r.Unified["pids.max"] != tc.pidsMax {
			t.Errorf("%+v: %v, %v", tc, r, err)
		}
	}
}

func TestParseSignal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]criv1.Signal{
		"": criv1.Signal_SIGNAL_RUNTIME_DEFAULT, "TERM": criv1.Signal_SIGNAL_SIGTERM, "sigquit": criv1.Signal_SIGNAL_SIGQUIT,
		"9": criv1.Signal_SIGNAL_SIGKILL, "RTMIN+3": criv1.Signal_SIGNAL_SIGRTMINPLUS3, "SIGRTMAX-1": criv1.Signal_SIGNAL_SIGRTMAXMINUS1,
	} {
		if got, err := parseSignal(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"NOPE", "0", "99", "SIG"} {
		_, err := parseSignal(in)
		told(t, in, err, "no such signal")
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"0": "0//-", "1000:1001": "1000//1001", "www": "-/www/-", "www:33": "-/www/33",
	} {
		sc := &criv1.LinuxContainerSecurityContext{}
		if err := (&runFlags{user: in}).identity(sc); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		number := func(v *criv1.Int64Value) string {
			if v == nil {
				return "-"
			}
			text, _ := json.Marshal(v.Value)
			return string(text)
		}
		if got := number(sc.RunAsUser) + "/" + sc.RunAsUsername + "/" + number(sc.RunAsGroup); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	for in, why := range map[string]string{":5": "the user is missing", "5:wheel": "not a number"} {
		told(t, in, (&runFlags{user: in}).identity(&criv1.LinuxContainerSecurityContext{}), why)
	}
}

func TestArgv(t *testing.T) {
	t.Parallel()
	image := json.RawMessage(`{"Entrypoint":["/entry"],"Cmd":["serve"]}`)
	for _, tc := range []struct {
		r    runFlags
		want string
	}{
		{runFlags{}, "/entry serve"},
		{runFlags{args: []string{"a"}}, "/entry a"},
		{runFlags{entrypoint: "sh", entrypointSet: true}, "sh"},
		{runFlags{entrypoint: "sh", entrypointSet: true, args: []string{"-c"}}, "sh -c"},
		{runFlags{entrypointSet: true, args: []string{"ls"}}, "ls"},
	} {
		if got := strings.Join(tc.r.argv(image), " "); got != tc.want {
			t.Errorf("%+v: %q", tc.r, got)
		}
	}
}

func TestParseTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"":                          {},
		"10m":                       now.Add(-10 * time.Minute),
		"2026-07-01T09:00:00Z":      now.Add(-3 * time.Hour),
		"2026-07-01T09:00:00.5Z":    now.Add(-3*time.Hour + time.Second/2),
		"2026-07-01T11:00:00+02:00": now.Add(-3 * time.Hour),
		"2026-07-01T09:00:00":       now.Add(-3 * time.Hour),
		"2026-07-01T09:00":          now.Add(-3 * time.Hour),
		"2026-07-01":                now.Add(-12 * time.Hour),
		"0":                         time.Unix(0, 0),
		"1782896400":                now.Add(-3 * time.Hour),
		"1782896400.000000001":      now.Add(-3*time.Hour + 1),
		"1h30m":                     now.Add(-90 * time.Minute),
	} {
		if got, err := parseMoment("since", in, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"yesterday", "-5m", "1.1234567890", "1.x", "99999999999999999999", "2026-13-01"} {
		_, err := parseMoment("until", in, now)
		told(t, in, err, "neither a time nor a length of time")
	}
	for in, want := range map[string]int{"all": -1, "": -1, "0": 0, "20": 20} {
		if got, err := parseTail(in); err != nil || (got == nil) != (want < 0) || got != nil && *got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	_, err := parseTail("-1")
	told(t, "-1", err, "not a number of lines")
}
