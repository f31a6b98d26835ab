package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func TestEverySettingHasItsOrigin(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{
		"config.toml":      "root = '/a'\nnetwork.mtu = 1400\n\n[network]\nbridge = 'b0'\n",
		"conf.d/10-a.toml": "log_level = 3\n[image.proxies]\n'quay.io' = 'http://user:secret@proxy.example:1'\n[handlers.big]\ncgroup_writable = true\n",
		"conf.d/20-b.toml": "\n\nroot = '/b'\nhandlers.small = { cgroup_writable = true }\n",
	})
	var out bytes.Buffer
	if err := run(t.Context(), []string{"config", "show", "--config", path, "--state", "/s"}, &out); err == nil {
		t.Fatal("network.mtu beside [network] was taken") // TOML refuses it
	}
	path = write(t, map[string]string{
		"config.toml":      "root = '/a'\n\n[network]\nbridge = 'b0'\n",
		"conf.d/10-a.toml": "network.mtu = 1400\nlog_level = 3\n[image.proxies]\n'quay.io' = 'http://user:secret@proxy.example:1'\n[handlers.big]\ncgroup_writable = true\n",
		"conf.d/20-b.toml": "\n\nroot = '/b'\nhandlers.small = { cgroup_writable = true }\n",
	})
	out.Reset()
	if err := run(t.Context(), []string{"config", "show", "--config", path, "--state", "/s"}, &out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "secret") {
		t.Errorf("a password is shown: %s", out.String())
	}
	var r api.ConfigResult
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	got := map[string]api.Setting{}
	for _, s := range r.Settings {
		s.Origin = strings.TrimPrefix(s.Origin, filepath.Dir(path)+"/")
		got[s.Key] = s
	}
	for _, want := range []api.Setting{
		{Key: "root", Value: "'/b'", Origin: "conf.d/20-b.toml:3"},
		{Key: "state", Value: "'/s'", Origin: "--state"},
		{Key: "log_level", Value: "3", Origin: "conf.d/10-a.toml:2"},
		{Key: "network.bridge", Value: "'b0'", Origin: "config.toml:4"},
		{Key: "network.mtu", Value: "1400", Origin: "conf.d/10-a.toml:1"},
		{Key: "network.masquerade", Value: "true", Origin: "default"},
		{Key: "image.proxies", Value: "{'quay.io' = 'http://***@proxy.example:1'}", Origin: "conf.d/10-a.toml:4"},
		{Key: "handlers.big.cgroup_writable", Value: "true", Origin: "conf.d/10-a.toml:6"},
		{Key: "handlers.small.cgroup_writable", Value: "true", Origin: "conf.d/20-b.toml:4"},
		{Key: "handlers.runc.cgroup_writable", Value: "false", Origin: "default"},
	} {
		if got[want.Key] != want {
			t.Errorf("got %+v, want %+v", got[want.Key], want)
		}
	}
	// Together they are the whole configuration.
	var again strings.Builder
	for _, s := range values(defaultConfig()) {
		fmt.Fprintf(&again, "%s = %s\n", s.Key, s.Value)
	}
	var cfg config
	if err := mergeConfig(&cfg, "settings", []byte(again.String())); err != nil {
		t.Fatal(err)
	}
	if want := defaultConfig(); !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}
}

func TestConfigCheck(t *testing.T) {
	t.Parallel()
	good := write(t, map[string]string{"config.toml": "root = '/a'\n", "conf.d/10-a.toml": "[shim]\ngroup = 'pod'\n"})
	bad := write(t, map[string]string{"config.toml": "\nrot = '/a'\n", "conf.d/10-a.toml": "state = 1\n"})
	var out bytes.Buffer
	if err := run(t.Context(), []string{"config", "check", "--config", good}, &out); err != nil || strings.Count(out.String(), "can be used") != 2 {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := run(t.Context(), []string{"config", "check", good}, &out); err != nil {
		t.Error(err)
	}
	err := run(t.Context(), []string{"config", "check", "--config", bad}, &out)
	if err == nil || !strings.Contains(err.Error(), "config.toml:2: unknown key rot") || !strings.Contains(err.Error(), "10-a.toml:1") {
		t.Errorf("not both mistakes: %v", err)
	}
	if err := run(t.Context(), []string{"config", "check", "/nowhere.toml"}, &out); err == nil {
		t.Error("a file that is not there can be used")
	}
}

func TestDoctorTellsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for text, verdict := range map[string]string{"root = '" + root + "'\n": "ok", "rot = 1\n": "fail"} {
		var out bytes.Buffer
		path := write(t, map[string]string{"config.toml": text})
		if err := run(t.Context(), []string{"doctor", "--config", path, "--root", root, "--registry", "127.0.0.1:1"}, &out); err != nil {
			t.Fatal(err)
		}
		var r api.DoctorResult
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if f := r.Findings[0]; f.Check != "config" || f.Verdict != verdict || verdict == "fail" && !strings.Contains(f.Reason, "config.toml:1") {
			t.Errorf("%q: %+v", text, f)
		}
		last := r.Findings[len(r.Findings)-1]
		if last.Check != "registry.127.0.0.1:1" || last.Verdict != "warn" || !strings.Contains(last.Reason, "cannot reach http://127.0.0.1:1/v2") {
			t.Errorf("%+v", last)
		}
	}
}
