package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hosts are the two versions that a test can have on this machine: a hybrid
// host's v2 hierarchy serves as a v2 host.
func hosts(t *testing.T) map[string]host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := local()
	if h.unified() {
		return map[string]host{"v2": h}
	}
	out := map[string]host{"v1": h}
	if v2 := (host{root: filepath.Join(h.root, "unified")}); v2.unified() {
		out["v2"] = v2
	}
	return out
}

// fresh is the path of a group of this test's own, removed at its end. Its top
// is the test's own too: the two hosts share the v2 hierarchy, and tests run
// side by side.
func fresh(t *testing.T, h host) string {
	t.Helper()
	top := fmt.Sprintf("/berth-test-%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
	path := filepath.Join(top, "group")
	t.Cleanup(func() {
		if err := errors.Join(h.kill(top, unix.SIGKILL), h.remove(top)); err != nil {
			t.Error(err)
		}
	})
	return path
}

// put starts a process in every directory of the group.
func put(t *testing.T, h host, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for _, dir := range h.paths(path) {
		if err := writeFile(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	return cmd
}

func TestLife(t *testing.T) {
	for name, h := range hosts(t) {
		t.Run(name, func(t *testing.T) {
			path := fresh(t, h)
			if h.exists(path) {
				t.Fatal("the group exists before it was made")
			}
			for range 2 {
				if err := h.create(path + "/a"); err != nil {
					t.Fatal(err)
				}
			}
			for _, dir := range h.paths(path + "/a") {
				if !isDir(dir) {
					t.Errorf("%s was not made", dir)
				}
			}
			if err := h.create(path + "/b/c"); err != nil {
				t.Fatal(err)
			}
			if got, err := h.list(path); err != nil || !slices.Equal(got, []string{"a", "b"}) {
				t.Errorf("list: %v, %v", got, err)
			}
			cmd, deep := put(t, h, path+"/a"), put(t, h, path+"/b/c")
			want := []int{cmd.Process.Pid, deep.Process.Pid}
			slices.Sort(want)
			if got, err := h.procs(path); err != nil || !slices.Equal(got, want) {
				t.Errorf("procs: %v, %v, want %v", got, err, want)
			}
			if err := h.kill(path+"/a", unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != unix.SIGTERM {
				t.Errorf("the process ended with %v, not by SIGTERM", err)
			}
			if err := h.kill(path, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if got, err := h.procs(path); err != nil || len(got) != 0 {
				t.Errorf("after kill: %v, %v", got, err)
			}
			for range 2 {
				if err := h.remove(path); err != nil {
					t.Fatal(err)
				}
			}
			if h.exists(path) {
				t.Error("the group exists after removal")
			}
		})
	}
}

func TestKillFrozen(t *testing.T) {
	for name, h := range hosts(t) {
		t.Run(name, func(t *testing.T) {
			path := fresh(t, h)
			if err := h.create(path); err != nil {
				t.Fatal(err)
			}
			put(t, h, path)
			if h.frozen(path) {
				t.Error("it is frozen from the start")
			}
			for _, dir := range h.paths(path) {
				_ = writeFile(filepath.Join(dir, "freezer.state"), "FROZEN")
				_ = writeFile(filepath.Join(dir, "cgroup.freeze"), "1")
			}
			for end := time.Now().Add(10 * time.Second); !h.frozen(path); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("it does not count as frozen")
				}
			}
			if !h.frozen(path+"/below") || h.frozen(filepath.Dir(path)) {
				t.Error("it is not the group and those below that count as frozen")
			}
			if err := h.kill(path, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestOOMKills(t *testing.T) {
	withController(t, "memory", func(t *testing.T, h host, path string) {
		if _, err := h.oomKills(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("absent group: %v, want %v", err, os.ErrNotExist)
		}
		if err := h.create(path + "/below"); err != nil {
			t.Fatal(err)
		}
		if n, err := h.oomKills(path); err != nil || n != 0 {
			t.Fatalf("before: %d, %v", n, err)
		}
		eatTooMuch(t, h, path+"/below")
		if n, err := h.oomKills(path); err != nil || n == 0 {
			t.Errorf("after: %d, %v", n, err)
		}
	})
}

func TestHeldBack(t *testing.T) {
	withController(t, "cpu", func(t *testing.T, h host, path string) {
		if err := h.create(path + "/below"); err != nil {
			t.Fatal(err)
		}
		dir, limit, little := filepath.Join(h.root, path), "cpu.max", "1000 100000"
		if !h.unified() {
			dir, limit, little = filepath.Join(h.root, "cpu", path), "cpu.cfs_quota_us", "1000"
		}
		cmd := exec.Command("sh", "-c", fmt.Sprintf("echo $$ > %s/below/cgroup.procs; while :; do :; done", dir))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		if n := h.heldBack(path + "/below"); n != 0 {
			t.Errorf("without a limit: %d", n)
		}
		if err := writeFile(filepath.Join(dir, limit), little); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); h.heldBack(path+"/below") == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a loop below a group that may have little CPU time is not held back")
			}
		}
		if n := h.heldBack(filepath.Dir(path)); n != 0 {
			t.Errorf("the group above: %d", n)
		}
	})
}

// withController runs a test, for a group that is not there yet, in each
// hierarchy that has the controller.
func withController(t *testing.T, controller string, test func(t *testing.T, h host, path string)) {
	t.Helper()
	for name, h := range hosts(t) {
		t.Run(name, func(t *testing.T) {
			if !h.controls(controller) {
				t.Skipf("this hierarchy has no %s controller: make test-vm has", controller)
			}
			test(t, h, fresh(t, h))
		})
	}
}

// eatTooMuch lets a process be killed for its memory in the group.
func eatTooMuch(t *testing.T, h host, path string) {
	t.Helper()
	dir, limit, swap := filepath.Join(h.root, path), "memory.max", "memory.swap.max"
	if !h.unified() {
		dir, limit, swap = filepath.Join(h.root, "memory", path), "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	}
	if err := writeFile(filepath.Join(dir, limit), "8388608"); err != nil {
		t.Fatal(err)
	}
	_ = writeFile(filepath.Join(dir, swap), "8388608") // absent where swap is not counted
	script := fmt.Sprintf("echo $$ > %s/cgroup.procs && exec tail /dev/zero", dir)
	if err := exec.Command("sh", "-c", script).Run(); err == nil {
		t.Fatal("a process ate more memory than its group may have")
	}
}

func TestOf(t *testing.T) {
	for name, h := range hosts(t) {
		if name != "v2" {
			continue
		}
		path := fresh(t, h)
		if err := h.create(path); err != nil {
			t.Fatal(err)
		}
		if got, err := Of(put(t, h, path).Process.Pid); err != nil || got != path {
			t.Errorf("got %q, %v, want %q", got, err, path)
		}
	}
	if got, err := Of(-1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no process: %q, %v", got, err)
	}
}

func TestOOMKillsV2(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "memory.events")
	if err := os.WriteFile(file, []byte("low 0\nhigh 3\nmax 9\noom 2\noom_kill 7\noom_group_kill 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := counter(file, "oom_kill"); err != nil || n != 7 {
		t.Errorf("got %d, %v", n, err)
	}
}

func TestRootIsRefused(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"", "/", "..", "/../..", "a/.."} {
		if Make(path) == nil || Remove(path) == nil || Kill(path, unix.SIGKILL) == nil {
			t.Errorf("%q was not refused", path)
		}
	}
}

func TestPathsStayInside(t *testing.T) {
	t.Parallel()
	for _, p := range Paths("/../../etc") {
		if ok, _ := filepath.Match("/sys/fs/cgroup/*/etc", p); !ok && p != "/sys/fs/cgroup/etc" {
			t.Errorf("%s is outside of the hierarchy", p)
		}
	}
}
