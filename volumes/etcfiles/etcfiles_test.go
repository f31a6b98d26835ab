package etcfiles

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestResolvConf(t *testing.T) {
	t.Parallel()
	if got, err := ResolvConf(DNS{}); err != nil || len(got) > 0 {
		t.Errorf("nothing: %q, %v", got, err)
	}
	got, err := ResolvConf(DNS{
		Servers:  []string{"10.0.0.10", "fd00::a", "fe80::1%eth0"},
		Searches: []string{"default.svc.cluster.local", "cluster.local", "."},
		Options:  []string{"ndots:5", "edns0"},
	})
	want := "search default.svc.cluster.local cluster.local .\n" +
		"nameserver 10.0.0.10\nnameserver fd00::a\nnameserver fe80::1%eth0\noptions ndots:5 edns0\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, bad := range []DNS{
		{Servers: []string{"dns.example"}},
		{Servers: []string{"1.1.1.1\nnameserver 6.6.6.6"}},
		{Servers: []string{"fe80::1%a\nnameserver 6.6.6.6"}},
		{Servers: []string{""}},
		{Searches: []string{"a\nnameserver 6.6.6.6"}},
		{Searches: []string{"a b"}},
		{Options: []string{"ndots:5\r"}},
		{Options: []string{""}},
		{Searches: []string{strings.Repeat("a", 10_000*maxResolvConf/1000)}},
	} {
		if _, err := ResolvConf(bad); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%.60v: %v, want InvalidArgument", bad, err)
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	got, err := Hosts("web", []netip.Addr{netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd00::2"), {}}, nil)
	if err != nil || !strings.HasPrefix(string(got), "127.0.0.1\tlocalhost\n::1\t") || !strings.HasSuffix(string(got), "\n10.88.0.2\tweb\nfd00::2\tweb\n") {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := Hosts("", []netip.Addr{netip.MustParseAddr("10.88.0.2")}, nil); err != nil || strings.Contains(string(got), "10.88") {
		t.Errorf("without a name: %q, %v", got, err)
	}
	for _, bad := range []string{"a b", "a\n6.6.6.6 bank.example", "ä", strings.Repeat("a", 65), "a/b"} {
		if _, err := Hosts(bad, nil, nil); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%q: %v, want InvalidArgument", bad, err)
		}
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := Write(dir, Files{Hostname: name, ResolvConf: []byte("r"), Hosts: []byte("h")}); err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]string{"hostname": name + "\n", "resolv.conf": "r", "hosts": "h"} {
			path := filepath.Join(dir, file)
			if got, err := os.ReadFile(path); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v, want %q", file, got, err, want)
			}
			if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o644 {
				t.Errorf("%s: mode %v, %v", file, fi.Mode(), err)
			}
		}
	}
	if err := Write(dir, Files{Hostname: "a\nb"}); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}

func TestHostsOfOthers(t *testing.T) {
	t.Parallel()
	one := netip.MustParseAddr("10.88.0.3")
	got, err := Hosts("web", nil, []Host{{one, []string{"db", "db_1.example"}}, {netip.MustParseAddr("fe80::1%eth0"), []string{"far"}}})
	if err != nil || !strings.HasSuffix(string(got), "\n10.88.0.3\tdb db_1.example\nfe80::1\tfar\n") {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range [][]Host{
		{{netip.Addr{}, []string{"db"}}},
		{{one, nil}},
		{{one, []string{""}}},
		{{one, []string{"db\n6.6.6.6 bank.example"}}},
		{{one, []string{"a b"}}},
		{{one, []string{strings.Repeat("a", 254*10_000)}}},
		slices.Repeat([]Host{{one, []string{strings.Repeat("a", 253)}}}, 10_000),
	} {
		if _, err := Hosts("", nil, bad); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%.80v: %v, want InvalidArgument", bad, err)
		}
	}
}

// A container has the file itself: what is written is seen there.
func TestRewriteHostsKeepsTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := Write(dir, Files{Hosts: []byte("a long first content\n")}); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(filepath.Join(dir, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	for _, content := range []string{"short\n", "and a longer one again\n", ""} {
		if err := RewriteHosts(dir, []byte(content)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 100)
		n, _ := open.ReadAt(got, 0)
		if string(got[:n]) != content {
			t.Errorf("whoever has it open reads %q, want %q", got[:n], content)
		}
	}
	if err := RewriteHosts(t.TempDir(), nil); err == nil {
		t.Error("a pod without files has been told")
	}
}

func TestHostDNSIsUsableInAPod(t *testing.T) {
	t.Parallel()
	const stub, real = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"
	for name, c := range map[string]struct {
		files   map[string]string
		want    DNS
		trouble string
	}{
		"as it is":       {map[string]string{stub: "search a.example b.example\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions ndots:2 edns0\n"}, DNS{Servers: []string{"192.0.2.1", "2001:db8::1"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:2", "edns0"}}, ""},
		"resolved":       {map[string]string{stub: "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n", real: "nameserver 192.0.2.1\nsearch corp.example\n"}, DNS{Servers: []string{"192.0.2.1"}, Searches: []string{"corp.example"}}, ""},
		"some of it":     {map[string]string{stub: "nameserver ::1\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n"}, DNS{Servers: []string{"192.0.2.1"}}, ""},
		"dnsmasq":        {map[string]string{stub: "domain x.example\nnameserver 127.0.0.1\n"}, DNS{Searches: []string{"x.example"}}, "name servers (127.0.0.1 in /etc/resolv.conf) answer on the host only"},
		"resolved alone": {map[string]string{stub: "nameserver 127.0.0.53\n", real: "# none\n"}, DNS{}, "127.0.0.53"},
		"none":           {map[string]string{}, DNS{}, ""},
		"empty":          {map[string]string{stub: "", real: "nameserver 192.0.2.1\n"}, DNS{}, ""},
		"rubbish":        {map[string]string{stub: "nameserver\nnameserver dns.example\nsearch \x00 a\x01 ok.example\n;nameserver 6.6.6.6\n# x\nnameserver 192.0.2.9\n"}, DNS{Servers: []string{"192.0.2.9"}, Searches: []string{"ok.example"}}, ""},
	} {
		got, trouble := hostDNS(func(path string) ([]byte, error) {
			if text, ok := c.files[path]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		})
		if fmt.Sprint(got) != fmt.Sprint(c.want) || !strings.Contains(trouble, c.trouble) || (trouble == "") != (c.trouble == "") {
			t.Errorf("%s: %+v, %q; want %+v, %q", name, got, trouble, c.want, c.trouble)
		}
		if _, err := ResolvConf(got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
