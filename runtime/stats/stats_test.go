package stats

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
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
		"c/cpu.pressure":            "some avg10=12.34 avg60=5.00 avg300=0.50 total=7000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3000000\n",
		"c/memory.pressure":         "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
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
		full.Pressure = Pressure{} // v1 has none
		if h.v2 {
			cpu, one = 123456000, 1000
			full.Pressure = Pressure{
				CPU:    &Stall{Some: Waited{Total: 7 * time.Second, Avg10: 12.34, Avg60: 5, Avg300: 0.5}, Full: Waited{Total: 3 * time.Second}},
				Memory: &Stall{Some: Waited{Total: time.Microsecond, Avg10: 1.5}},
			}
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

// sampled is a Sampler of a tree of files, at a time of the test's.
func sampled(t *testing.T, root string, v2 bool) (*Sampler, *time.Time) {
	t.Helper()
	s, now := NewSampler(), time.Unix(1000, 0)
	s.hierarchy, s.now = hierarchy{root: root, v2: v2}, func() time.Time { return now }
	return s, &now
}

// set changes a file under whoever has it open.
func set(t *testing.T, root, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSampler(t *testing.T) {
	t.Parallel()
	root := tree(t, v2())
	s, now := sampled(t, root, true)
	sample := func() Sample {
		t.Helper()
		got, err := s.Sample("id", "/c")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := sample(); got.NanoCores != nil || got.CPUNanos != 123456000 {
		t.Errorf("the first sample has the rate %v of %d", got.NanoCores, got.CPUNanos)
	}
	*now = now.Add(fresh - 1)
	set(t, root, "c/cpu.stat", "usage_usec 1123456\n")
	if got := sample(); got.CPUNanos != 123456000 {
		t.Errorf("a fresh sample was read again: %+v", got)
	}
	*now = now.Add(time.Second + 1)
	if got := sample(); got.NanoCores == nil || *got.NanoCores != 500_000_000 || got.CPUNanos != 1123456000 || !got.At.Equal(*now) {
		t.Errorf("got %+v, want the rate of half a core", got)
	}
	*now = now.Add(time.Second)
	set(t, root, "c/cpu.stat", "usage_usec 5\n")
	if got := sample(); got.NanoCores != nil {
		t.Errorf("a counter that began anew gave the rate %d", *got.NanoCores)
	}
	*now = now.Add(-time.Hour) // the clock was set
	if got := sample(); !got.At.Equal(*now) {
		t.Errorf("the sample is of %v, it is %v", got.At, *now)
	}
	*now = now.Add(time.Hour)
	s.Forget("id")
	if got := sample(); got.NanoCores != nil {
		t.Errorf("a forgotten container was remembered")
	}
}

// heldIn counts the descriptors of this process that are open below dir.
func heldIn(t *testing.T, dir string) int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, dir+"/") {
			n++
		}
	}
	return n
}

// The descriptors of a cgroup stay open from its first sample until it is
// forgotten or gone, and never are more than what was set aside for them.
func TestSamplerHoldsCgroupsOpen(t *testing.T) {
	t.Parallel()
	for version, files := range map[string]map[string]string{"v1": v1(), "v2": v2()} {
		root := tree(t, files)
		s, now := sampled(t, root, version == "v2")
		s.left = 2
		sample := func(id, path string) error {
			*now = now.Add(time.Second)
			_, err := s.Sample(id, path)
			return err
		}
		hold := func(what string, want int) {
			t.Helper()
			if got := heldIn(t, root); got != want {
				t.Errorf("%s, %s: %d descriptors are held, want %d", version, what, got, want)
			}
		}
		one := 9 // of a cgroup with everything but the pressure on disks
		if version == "v1" {
			one = 6
		}
		for range 3 {
			for id, path := range map[string]string{"a": "/c", "b": "/c", "c": "/c"} {
				if err := sample(id, path); err != nil {
					t.Fatal(err)
				}
			}
			hold("three, of which two may be held", 2*one)
		}
		for _, id := range []string{"a", "b", "c", "never"} {
			s.Forget(id)
		}
		hold("all forgotten", 0)
		if err := sample("absent", "/absent"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: absent: %v", version, err)
		}
		if len(s.last) != 0 || s.left != 2 {
			t.Errorf("%s: %d containers are remembered and %d groups may be opened", version, len(s.last), s.left)
		}
	}
}

// Those who ask at once get one reading.
func TestSamplerReadsOnceForAll(t *testing.T) {
	t.Parallel()
	root := tree(t, v2())
	s, now := sampled(t, root, true)
	if _, err := s.Sample("id", "/c"); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(time.Second)
	set(t, root, "c/cpu.stat", "usage_usec 200000\n")
	var asking sync.WaitGroup
	for range 50 {
		asking.Go(func() {
			// Of a second reading the rate would be that since the first.
			if got, err := s.Sample("id", "/c"); err != nil || got.NanoCores == nil || *got.NanoCores != 76544000 {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	asking.Wait()
}

// A cgroup that the kernel has removed under open descriptors is absent, and
// one that was made again is read.
func TestSamplerFollowsACgroupThatIsMadeAgain(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	path := fmt.Sprintf("/berth-stats-%d-again", os.Getpid())
	s := NewSampler()
	now := time.Now()
	s.now = func() time.Time { return now }
	t.Cleanup(func() {
		if err := cgroup.Remove(path); err != nil {
			t.Error(err)
		}
	})
	for round := range 3 {
		if err := cgroup.Make(path); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			now = now.Add(time.Second)
			if _, err := s.Sample("id", path); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if err := cgroup.Remove(path); err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			continue // the next finds another cgroup under the name it knows
		}
		now = now.Add(time.Second)
		if _, err := s.Sample("id", path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("round %d: the sample of a removed cgroup is %v", round, err)
		}
	}
	if len(s.last) != 0 {
		t.Errorf("%d cgroups that are gone are remembered", len(s.last))
	}
}

// Interfaces are read for those pods only whose reading is old, and once for
// all who ask.
func TestSamplerOfInterfaces(t *testing.T) {
	t.Parallel()
	s, now := sampled(t, t.TempDir(), true)
	var reads [][]string
	carried := uint64(0)
	ask := func(pods ...string) map[string][]Interface {
		return s.Interfaces(pods, func(old []string) map[string][]Interface {
			reads, carried = append(reads, old), carried+1
			out := map[string][]Interface{}
			for _, id := range old {
				if id != "ended" {
					out[id] = []Interface{{Name: id, RxBytes: carried}}
				}
			}
			return out
		})
	}
	if got := ask("a", "ended"); len(got) != 1 || got["a"][0].RxBytes != 1 {
		t.Errorf("got %v", got)
	}
	*now = now.Add(fresh / 2)
	if got := ask("a", "b"); got["a"][0].RxBytes != 1 || got["b"][0].RxBytes != 2 {
		t.Errorf("got %v", got)
	}
	*now = now.Add(fresh / 2)
	s.Forget("b")
	if got := ask("a", "b"); got["a"][0].RxBytes != 3 || got["b"][0].RxBytes != 3 {
		t.Errorf("got %v", got)
	}
	if want := [][]string{{"a", "ended"}, {"b"}, {"a", "b"}}; !reflect.DeepEqual(reads, want) {
		t.Errorf("read %v, want %v", reads, want)
	}
	*now = now.Add(fresh)
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			if got := ask("a"); got["a"][0].RxBytes != 4 {
				t.Errorf("got %v, want one reading for all", got)
			}
		})
	}
	asking.Wait()
}
