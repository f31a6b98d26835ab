package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// Limits that were changed, also to what only another change made possible,
// are what they were after Restore.
func TestLimitsAreRestored(t *testing.T) {
	t.Parallel()
	for name, h := range hosts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fresh(t, h)
			if err := h.create(path); err != nil {
				t.Fatal(err)
			}
			file := func(controller, name string) string {
				if h.unified() {
					controller = ""
				}
				return filepath.Join(h.root, controller, path, name)
			}
			changes := [][2]string{ // in an order that the kernel takes
				{file("memory", "memory.limit_in_bytes"), "67108864"},
				{file("memory", "memory.memsw.limit_in_bytes"), "67108864"},
				{file("memory", "memory.max"), "67108864"},
				{file("memory", "memory.swap.max"), "0"},
				{file("cpu", "cpu.cfs_quota_us"), "20000"},
				{file("cpu", "cpu.shares"), "77"},
				{file("cpu", "cpu.max"), "20000 100000"},
				{file("pids", "pids.max"), "17"},
				{file("cpuset", "cpuset.cpus"), "0"},
				{file("", "cgroup.max.depth"), "5"}, // named in the call
			}
			before := map[string]string{}
			for _, c := range changes {
				if b, err := os.ReadFile(c[0]); err == nil {
					before[c[0]] = string(b)
				}
			}
			l, err := h.readLimits(path, []string{"cgroup.max.depth"})
			if err != nil {
				t.Fatal(err)
			}
			changed := 0
			for _, c := range changes {
				if _, ok := before[c[0]]; !ok {
					continue
				}
				if err := writeFile(c[0], c[1]); err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(c[0]); err == nil && string(b) != before[c[0]] {
					changed++
				}
			}
			if changed == 0 {
				t.Fatal("nothing could be changed")
			}
			if err := l.Restore(); err != nil {
				t.Fatal(err)
			}
			for f, want := range before {
				if b, err := os.ReadFile(f); err != nil || string(b) != want {
					t.Errorf("%s: %q, %v; want %q", f, b, err, want)
				}
			}
		})
	}
}

func TestTheRootHasNoLimitsToRestore(t *testing.T) {
	t.Parallel()
	if _, err := ReadLimits("/"); err == nil {
		t.Error("the root was taken")
	}
	if Thaw("/") == nil {
		t.Error("the root was thawed")
	}
}

func TestControllers(t *testing.T) {
	t.Parallel()
	for name, h := range hosts(t) {
		if h.controls("no such controller") || h.controls("") {
			t.Errorf("%s: a controller that does not exist is there", name)
		}
		want := h.unified() && local().unified() || !h.unified()
		if got := h.controls("memory"); got != want {
			t.Errorf("%s: the memory controller: %v, want %v", name, got, want)
		}
	}
}
