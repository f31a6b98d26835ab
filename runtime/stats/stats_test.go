package stats

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// tree writes files into a directory of the test's own.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, data := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func ptr(n uint64) *uint64 { return &n }

func v1() map[string]string {
	return map[string]string{
		"cpuacct/c/cpuacct.usage":                  "123456789\n",
		"memory/c/memory.usage_in_bytes":           "50000\n",
		"memory/c/memory.limit_in_bytes":           "100000\n",
		"memory/c/memory.memsw.limit_in_bytes":     "160000\n",
		"memory/c/memory.stat":                     "cache 1\nrss 2\ninactive_file 3\ntotal_cache 4\ntotal_rss 30000\ntotal_swap 700\ntotal_pgfault 11\ntotal_pgmajfault 5\ntotal_inactive_file 10000\n",
		"pids/c/pids.current":                      "3\n",
		"memory/bare/memory.usage_in_bytes":        "5\n",
		"memory/bare/memory.limit_in_bytes":        "9223372036854771712\n",
		"memory/bare/memory.stat":                  "total_inactive_file 10\n",
		"cpuacct/bare/cpuacct.usage":               "1\n",
		"memory/nolim/memory.usage_in_bytes":       "5\n",
		"memory/nolim/memory.limit_in_bytes":       "9223372036854771712\n",
		"memory/nolim/memory.memsw.limit_in_bytes": "9223372036854771712\n",
		"memory/nolim/memory.stat":                 "total_swap 1\n",
		"cpuacct/nolim/cpuacct.usage":              "1\n",
	}
}

func v2() map[string]string {
	return map[string]string{
		"c/cpu.stat":                "usage_usec 123456\nuser_usec 100000\nsystem_usec 23456\nnr_periods 0\n",
		"c/memory.current":          "50000\n",
		"c/memory.max":              "100000\n",
		"c/memory.swap.current":     "700\n",
		"c/memory.swap.max":         "60000\n",
		"c/memory.stat":             "anon 30000\nfile 15000\ninactive_file 10000\npgfault 11\npgmajfault 5\n",
		"c/pids.current":            "3\n",
		"bare/cpu.stat":             "usage_usec 1\n",
		"bare/memory.current":       "5\n",
		"bare/memory.max":           "max\n",
		"bare/memory.stat":          "inactive_file 10\n",
		"nolim/cpu.stat":            "usage_usec 1\n",
		"nolim/memory.current":      "5\n",
		"nolim/memory.max":          "max\n",
		"nolim/memory.swap.current": "1\n",
		"nolim/memory.swap.max":     "max\n",
		"nolim/memory.stat":         "anon 0\n",
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	full := Sample{Usage: 50000, WorkingSet: 40000, RSS: 30000, PageFaults: 11, MajorPageFaults: 5,
		Limit: ptr(100000), SwapUsage: ptr(700), SwapLimit: ptr(60000), Pids: 3}
	for name, h := range map[string]hierarchy{
		"v1": {root: tree(t, v1())},
		"v2": {root: tree(t, v2()), v2: true},
	} {
		cpu, one := uint64(123456789), uint64(1)
		if h.v2 {
			cpu, one = 123456000, 1000
		}
		full.CPUNanos = cpu
		for path, want := range map[string]Sample{
			"/c":     full,
			"/bare":  {CPUNanos: one, Usage: 5},
			"/nolim": {CPUNanos: one, Usage: 5, WorkingSet: 5, SwapUsage: ptr(1)},
		} {
			got, err := h.read(path)
			if err != nil || got.At.IsZero() {
				t.Errorf("%s %s: %v, at %v", name, path, err, got.At)
			}
			got.At = time.Time{}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s %s: %+v, want %+v", name, path, got, want)
			}
		}
		if _, err := h.read("/absent"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: absent group: %v, want %v", name, err, os.ErrNotExist)
		}
	}
}

func TestReadRefusesRubbish(t *testing.T) {
	t.Parallel()
	for version, files := range map[string]func() map[string]string{"v1": v1, "v2": v2} {
		for name := range files() {
			if !strings.Contains(name, "/c/") && !strings.HasPrefix(name, "c/") {
				continue
			}
			broken := files()
			broken[name] = "usage many\n"
			h := hierarchy{root: tree(t, broken), v2: version == "v2"}
			if _, err := h.read("/c"); err == nil || !strings.Contains(err.Error(), filepath.Base(name)) {
				t.Errorf("%s: %v, which does not name the file", name, err)
			}
		}
	}
}

// TestReadKernel reads the cgroup of a process that eats memory and time.
func TestReadKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	path := fmt.Sprintf("/berth-stats-%d", os.Getpid())
	if err := cgroup.Make(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(cgroup.Kill(path, unix.SIGKILL), cgroup.Remove(path)); err != nil {
			t.Error(err)
		}
	})
	script := ""
	for _, dir := range cgroup.Paths(path) {
		script += "echo $$ > " + dir + "/cgroup.procs\n"
	}
	script += "x=$(head -c 4000000 /dev/zero | tr '\\0' a); echo ready; read y"
	cmd := exec.Command("sh", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	s, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if s.CPUNanos == 0 || s.RSS < 4000000 || s.WorkingSet < s.RSS/2 || s.Usage < s.WorkingSet || s.PageFaults == 0 || s.Pids != 1 || s.Limit != nil {
		t.Errorf("got %+v", s)
	}
}

func TestSampler(t *testing.T) {
	t.Parallel()
	at, cpu, reads := time.Now().Add(-time.Hour), uint64(1000), 0
	var failure error
	s := NewSampler()
	s.read = func(string) (Sample, error) {
		reads++
		return Sample{At: at, CPUNanos: cpu}, failure
	}
	sample := func() Sample {
		t.Helper()
		got, err := s.Sample("id", "/c")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := sample(); got.NanoCores != nil {
		t.Errorf("the first sample has the rate %d", *got.NanoCores)
	}
	at, cpu = at.Add(2*time.Second), cpu+1_000_000_000
	if got := sample(); got.NanoCores == nil || *got.NanoCores != 500_000_000 {
		t.Errorf("rate %v, want half a core", got.NanoCores)
	}
	at, cpu = at.Add(time.Second), 5
	if got := sample(); got.NanoCores != nil {
		t.Errorf("a counter that began anew gave the rate %d", *got.NanoCores)
	}
	failure = errors.New("no cgroup")
	if _, err := s.Sample("id", "/c"); !errors.Is(err, failure) {
		t.Errorf("got %v, want %v", err, failure)
	}
	failure, at, cpu = nil, time.Now().Add(time.Hour), 10
	sample()
	before := reads
	if got := sample(); reads != before || got.CPUNanos != 10 {
		t.Errorf("a fresh sample was read again")
	}
	s.Forget("id")
	if got := sample(); reads != before+1 || got.NanoCores != nil {
		t.Errorf("a forgotten container was remembered")
	}
}
