package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/pelletier/go-toml/v2"

	"github.com/berth-runtime/berth/runtime/spec"
)

// write puts files below a directory of the test and returns the path of its
// config.toml.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.toml")
}

func TestLaterFilesAndFlagsChangeOnlyWhatTheyName(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{
		"config.toml":       "root = '/a'\nlog_level = 3\n[network]\nsubnets = ['10.1.0.0/16', 'fd00::/64']\nbridge = 'b0'\n",
		"conf.d/20-b.toml":  "root = '/c'\n[network]\nsubnets = ['10.2.0.0/16']\n",
		"conf.d/10-a.toml":  "root = '/b'\n[shim]\ngroup = 'pod'\n",
		"conf.d/ignored.md": "not toml",
	})
	got, err := parseArgs([]string{"--config", path, "--state=/s", "--cgroup-driver", "cgroupfs"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.origins = got.origins
	want.Root, want.State, want.LogLevel = "/c", "/s", 3
	want.Network.Bridge, want.Network.Subnets = "b0", []string{"10.2.0.0/16"}
	want.Shim.Group, want.Cgroup.Driver = "pod", "cgroupfs"
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got  %+v\nwant %+v", *got, want)
	}
}

func TestConfigErrorsNameThePlace(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files map[string]string
		says  []string
	}{
		"unknown key":           {map[string]string{"config.toml": "root = '/a'\n\n[network]\nbridg = 'x'\n"}, []string{"config.toml:4:", "network.bridg"}},
		"two of them":           {map[string]string{"config.toml": "x = 1\n[shim]\ny = 2\n"}, []string{"config.toml:1:", "config.toml:3:", "shim.y"}},
		"unknown in a drop-in":  {map[string]string{"config.toml": "", "conf.d/10-a.toml": "\nroof = ''\n"}, []string{"conf.d/10-a.toml:2:", "roof"}},
		"broken syntax":         {map[string]string{"config.toml": "root = '/a'\nstate =\n"}, []string{"config.toml:2:"}},
		"wrong type":            {map[string]string{"config.toml": "log_level = 'high'\n"}, []string{"config.toml:1:"}},
		"bad driver":            {map[string]string{"config.toml": "[cgroup]\ndriver = 'v2'\n"}, []string{"cgroup.driver", "v2"}},
		"bad group":             {map[string]string{"config.toml": "[shim]\ngroup = 'none'\n"}, []string{"shim.group"}},
		"bad subnet":            {map[string]string{"config.toml": "[network]\nsubnets = ['10.0.0.0']\n"}, []string{"network.subnets", "10.0.0.0"}},
		"two of a family":       {map[string]string{"config.toml": "[network]\nsubnets = ['10.0.0.0/16', '10.1.0.0/16']\n"}, []string{"network.subnets", "at most one of IPv6"}},
		"long bridge":           {map[string]string{"config.toml": "[network]\nbridge = 'a-very-long-name'\n"}, []string{"network.bridge"}},
		"relative root":         {map[string]string{"config.toml": "root = 'x'\n"}, []string{"root"}},
		"bad name of a handler": {map[string]string{"config.toml": "[handlers.Big]\n"}, []string{"handlers", "Big"}},
		"unknown default":       {map[string]string{"config.toml": "default_handler = 'kata'\n"}, []string{"default_handler", "kata"}},
		"bad limit":             {map[string]string{"config.toml": "[handlers.x]\ndefault_ulimits = ['files=1']\n"}, []string{"config.toml:2:", "files=1", "nofile"}},
		"soft above hard":       {map[string]string{"config.toml": "[handlers.x]\ndefault_ulimits = ['nofile=2:1']\n"}, []string{"config.toml:2:", "nofile=2:1"}},
		"limit twice":           {map[string]string{"config.toml": "[handlers.x]\ndefault_ulimits = ['nofile=1', 'nofile=2']\n"}, []string{"handlers.x.default_ulimits", "twice"}},
		"bad pattern":           {map[string]string{"config.toml": "[handlers.x]\npod_annotations = ['a[']\n"}, []string{"handlers.x.pod_annotations", "a["}},
		"relative profile":      {map[string]string{"config.toml": "[handlers.x]\nseccomp_profile = 'p.json'\n"}, []string{"handlers.x.seccomp_profile"}},
		"open without withheld": {map[string]string{"config.toml": "[handlers.x]\nprivileged_without_host_devices_all_devices_allowed = true\n"}, []string{"needs privileged_without_host_devices"}},
		"relative NRI socket":   {map[string]string{"config.toml": "[nri]\nsocket_path = 'x'\n"}, []string{"nri.socket_path"}},
		"no time for a plugin":  {map[string]string{"config.toml": "[nri]\nplugin_request_timeout = '0s'\n"}, []string{"nri.plugin_request_timeout"}},
		"bad time":              {map[string]string{"config.toml": "[nri]\nplugin_request_timeout = '2'\n"}, []string{"config.toml:2:", "such as 2s"}},
		"state inside of root":  {map[string]string{"config.toml": "state = '/var/lib/berth/run'\n"}, []string{"state"}},
		"no connection":         {map[string]string{"config.toml": "[image]\nparallel_ranges = 0\n"}, []string{"image.parallel_ranges", "between 1 and 64"}},
		"no collector":          {map[string]string{"config.toml": "[tracing]\nendpoint = 'localhost'\n"}, []string{"tracing.endpoint", "host and a port"}},
		"oversampled":           {map[string]string{"config.toml": "[tracing]\nsampling_rate_per_million = 1000001\n"}, []string{"tracing.sampling_rate_per_million"}},
		"open to the world":     {map[string]string{"config.toml": "[stream]\naddress = '0.0.0.0:0'\n"}, []string{"stream.address", "tls_cert"}},
		"no host for URLs":      {map[string]string{"config.toml": "[stream]\naddress = '0.0.0.0:0'\ntls_cert = '/c'\ntls_key = '/k'\n"}, []string{"stream.address", "0.0.0.0"}},
		"cert without a key":    {map[string]string{"config.toml": "[stream]\ntls_cert = '/c'\n"}, []string{"stream.tls_key", "together"}},
		"no session":            {map[string]string{"config.toml": "[stream]\nmax_sessions = 0\n"}, []string{"stream.max_sessions"}},
		"no idle time":          {map[string]string{"config.toml": "[stream]\nidle_timeout = '0s'\n"}, []string{"stream.idle_timeout"}},
		"no address":            {map[string]string{"config.toml": "[metrics]\naddress = 'localhost'\n"}, []string{"metrics.address", "localhost"}},
		"the file is not there": {nil, []string{"config.toml", "no such file"}},
	} {
		_, err := parseArgs([]string{"--config", write(t, tc.files)}, io.Discard)
		for _, s := range tc.says {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%s: got %v, want a text with %q", name, err, s)
			}
		}
	}
}

func TestCommandsThatOnlyPrint(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{"version": version, "steps": "pod.run/", "--help": "Usage: berthd", "config default": "[network]"} {
		var out bytes.Buffer
		if err := run(t.Context(), strings.Fields(args), &out); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %q, %v", args, out.String(), err)
		}
	}
	if err := run(t.Context(), []string{"serve"}, io.Discard); err == nil || !strings.Contains(err.Error(), "serve") {
		t.Errorf("an unknown command gave %v", err)
	}
}

// The sample is generated; run `go run ./cmd/berthd config default` into it.
func TestTheShippedSampleIsTheDefault(t *testing.T) {
	t.Parallel()
	shipped, err := os.ReadFile("../../deploy/config.toml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(shipped, sampleConfig()) {
		t.Error("deploy/config.toml differs from `berthd config default`: write it anew")
	}
	// With each key switched on it says what the defaults are.
	var on bytes.Buffer
	for line := range strings.Lines(string(shipped)) {
		if key, ok := strings.CutPrefix(line, "# "); ok && strings.Contains(key, " = ") {
			line = key
		}
		on.WriteString(line)
	}
	var got config
	if err := mergeConfig(&got, "sample", on.Bytes()); err != nil {
		t.Fatal(err)
	}
	if want := defaultConfig(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if err := toml.Unmarshal(shipped, &struct{}{}); err != nil {
		t.Error(err)
	}
}

// A drop-in adds a handler and changes a key of another one; the default one
// answers to the empty name too.
func TestHandlers(t *testing.T) {
	t.Parallel()
	path := write(t, map[string]string{
		"config.toml":      "default_handler = 'trusted'\n[handlers.trusted]\ncgroup_writable = true\ndefault_ulimits = ['nofile=1024:2048', 'core=-1']\n",
		"conf.d/10-a.toml": "[handlers.trusted]\npod_annotations = ['example.org/*']\n[handlers.plain]\n",
	})
	cfg, err := parseArgs([]string{"--config", path}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	got := cfg.handlers()
	trusted := spec.Handler{CgroupWritable: true, PodAnnotations: []string{"example.org/*"}, Rlimits: []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 2048}, {Type: "RLIMIT_CORE", Soft: 1<<64 - 1, Hard: 1<<64 - 1}}}
	builtin := spec.Handler{PodAnnotations: []string{}, ContainerAnnotations: []string{}}
	want := map[string]spec.Handler{"": trusted, "trusted": trusted, "runc": builtin, "plain": {}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
