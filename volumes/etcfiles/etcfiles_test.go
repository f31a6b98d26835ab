package etcfiles

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestResolvConf(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]*DNS{"host": nil, "": {}} {
		if got, err := ResolvConf(d, []byte("host")); err != nil || string(got) != want {
			t.Errorf("%v: %q, %v, want %q", d, got, err, want)
		}
	}
	got, err := ResolvConf(&DNS{
		Servers:  []string{"10.0.0.10", "fd00::a", "fe80::1%eth0"},
		Searches: []string{"default.svc.cluster.local", "cluster.local", "."},
		Options:  []string{"ndots:5", "edns0"},
	}, nil)
	want := "search default.svc.cluster.local cluster.local .\n" +
		"nameserver 10.0.0.10\nnameserver fd00::a\nnameserver fe80::1%eth0\noptions ndots:5 edns0\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, bad := range []*DNS{
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
		if _, err := ResolvConf(bad, nil); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%.60v: %v, want InvalidArgument", bad, err)
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	got, err := Hosts("web", []netip.Addr{netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd00::2"), {}})
	if err != nil || !strings.HasPrefix(string(got), "127.0.0.1\tlocalhost\n::1\t") || !strings.HasSuffix(string(got), "\n10.88.0.2\tweb\nfd00::2\tweb\n") {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := Hosts("", []netip.Addr{netip.MustParseAddr("10.88.0.2")}); err != nil || strings.Contains(string(got), "10.88") {
		t.Errorf("without a name: %q, %v", got, err)
	}
	for _, bad := range []string{"a b", "a\n6.6.6.6 bank.example", "ä", strings.Repeat("a", 65), "a/b"} {
		if _, err := Hosts(bad, nil); !errkind.Is(err, errkind.InvalidArgument) {
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
