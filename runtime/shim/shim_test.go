package shim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
	"github.com/berth-runtime/berth/runtime/sys/thread"
)

// The tests drive the real binary, as the daemon does.

// buildOnce makes berth-shim and a root file system of busybox.
var buildOnce = sync.OnceValues(func() (dir string, err error) {
	dir, err = os.MkdirTemp("", "berth-shim-test")
	if err != nil {
		return "", err
	}
	if err := makeRootfs(filepath.Join(dir, "rootfs")); err != nil {
		return dir, err
	}
	if built := os.Getenv("BERTH_BIN"); built != "" { // in the guest of hack/vm, which builds nothing
		return dir, os.Symlink(filepath.Join(built, "berth-shim"), filepath.Join(dir, "berth-shim"))
	}
	cmd := exec.Command("go", "build", "-tags", "seccomp runc_nocriu netgo osusergo static_build", "-trimpath",
		"-ldflags", "-s -w -extldflags '-static'", "-o", filepath.Join(dir, "berth-shim"), "../../cmd/berth-shim")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("cannot build berth-shim: %w\n%s", err, out)
	}
	return dir, nil
})

// makeRootfs puts busybox and links to it into dir.
func makeRootfs(dir string) error {
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755); err != nil {
		return err
	}
	for _, a := range []string{"sh", "echo", "cat", "sleep", "true", "false", "id", "tty", "seq", "mkdir", "unshare", "mknod", "dd"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil {
			return err
		}
	}
	return nil
}

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Geteuid() == 0 {
		if dir, _ := buildOnce(); dir != "" {
			_ = os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// lab is one shim with a state directory and a cgroup parent of its own.
type lab struct {
	*shimrpc.Client
	t      testing.TB
	dir    string // everything of this lab
	tools  string // of buildOnce
	parent string
	pid    int
	v2     bool // the shim sees the v2 hierarchy only, whatever the host has
}

func newLab(t testing.TB) *lab {
	t.Helper()
	return newLabOn(t, cgroup.Unified())
}

// onBoth runs f with a shim on cgroup v1 and with one on v2; on a host with v2
// with the latter only.
func onBoth(t *testing.T, f func(*testing.T, *lab)) {
	if !cgroup.Unified() {
		t.Run("v1", func(t *testing.T) { f(t, newLab(t)) })
	}
	t.Run("v2", func(t *testing.T) { f(t, newLabOn(t, true)) })
}

func newLabOn(t testing.TB, v2 bool) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	tools, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	// t.TempDir's names may be too long for a socket.
	dir, err := os.MkdirTemp("", "bst")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, dir: dir, tools: tools, v2: v2, parent: fmt.Sprintf("/berth-test-shim-%d-%s", os.Getpid(), filepath.Base(dir))}
	l.Client = shimrpc.Dial(filepath.Join(dir, "s/shim.sock"))
	t.Cleanup(l.close)
	l.launch()
	return l
}

func (l *lab) launch() {
	l.t.Helper()
	err := thread.Throwaway(func() (err error) {
		if l.v2 && !cgroup.Unified() {
			if err := seeUnified(); err != nil {
				return err
			}
		}
		l.pid, err = shimrpc.Launch(l.t.Context(), shimrpc.LaunchConfig{
			Binary:  filepath.Join(l.tools, "berth-shim"),
			Socket:  filepath.Join(l.dir, "s/shim.sock"),
			Dir:     filepath.Join(l.dir, "s"),
			Root:    l.root(),
			LogFile: filepath.Join(l.dir, "shim.log"),
		})
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// seeUnified gives this thread, and what it forks, a mount namespace in which
// the v2 hierarchy of a hybrid host is the only one.
func seeUnified() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make its mounts private: %w", err)
	}
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("cannot mount cgroup2: %w", err)
	}
	return nil
}

// group is the directory of a container's cgroup of v2.
func (l *lab) group(id string) string {
	root := "/sys/fs/cgroup"
	if !cgroup.Unified() {
		root += "/unified"
	}
	return filepath.Join(root, l.parent, id)
}

// forkers are the children of the shim that fork execs.
func (l *lab) forkers() (pids []int) {
	for _, kid := range children(l.pid) {
		if b, _ := os.ReadFile("/proc/" + kid + "/cmdline"); strings.Contains(string(b), "--forker") {
			pid, _ := strconv.Atoi(kid) // the kernel wrote it
			pids = append(pids, pid)
		}
	}
	return pids
}

func (l *lab) root() string { return filepath.Join(l.dir, "lc") }

// close ends the shim, which must hold nothing and have left nothing.
func (l *lab) close() {
	ctx := context.Background()
	info, err := l.Info(ctx)
	if err == nil {
		for _, id := range info.Containers {
			if err := l.Delete(ctx, id); err != nil {
				l.t.Error(err)
			}
		}
		forkers := l.forkers()
		if kids := children(l.pid); len(kids) > len(forkers) || len(forkers) > 1 {
			l.t.Errorf("the shim has children left: %v, forkers among them: %v", kids, forkers)
		}
		if err := l.Shutdown(ctx); err != nil {
			l.t.Error(err)
		}
		l.eventually("the forker ends with the shim", func() bool { return !slices.ContainsFunc(forkers, alive) })
	}
	if left, err := cgroup.List(l.parent); err != nil || len(left) > 0 {
		l.t.Errorf("cgroups left: %v, %v", left, err)
	}
	if err := cgroup.Remove(l.parent); err != nil {
		l.t.Error(err)
	}
	for _, pattern := range []string{"lc/*", "b/*/stdin", "b/*/stdout", "b/*/stderr"} {
		if left, _ := filepath.Glob(filepath.Join(l.dir, pattern)); len(left) > 0 {
			l.t.Errorf("files left: %v", left)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(l.dir, "shim.log")); len(b) > 0 {
		l.t.Logf("shim's log:\n%s", b)
	}
	_ = os.RemoveAll(l.dir)
}

func children(pid int) (kids []string) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range lists {
		b, _ := os.ReadFile(f)
		kids = append(kids, strings.Fields(string(b))...)
	}
	return kids
}

// bundle writes a bundle and returns the request that creates it.
func (l *lab) bundle(id string, change func(*specs.Spec), args ...string) shimrpc.Create {
	l.t.Helper()
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"}
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		l.t.Fatal(err)
	}
	sp := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: filepath.Join(l.tools, "rootfs")},
		Process: &specs.Process{
			Args:         args,
			Cwd:          "/",
			Env:          []string{"PATH=/bin", "GREETING=hello"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: l.parent + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
			Seccomp: profile,
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
			},
		},
	}
	if change != nil {
		change(sp)
	}
	bundle := filepath.Join(l.dir, "b", id)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		l.t.Fatal(err)
	}
	b, err := json.Marshal(sp)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return shimrpc.Create{ID: id, Bundle: bundle, Root: l.root(), LogPath: filepath.Join(l.dir, "logs", id, "0.log")}
}

// run creates and starts.
func (l *lab) run(cr shimrpc.Create) shimrpc.Created {
	l.t.Helper()
	c, err := l.Create(l.t.Context(), cr)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.Start(l.t.Context(), cr.ID); err != nil {
		l.t.Fatal(err)
	}
	return c
}

// exit waits for the end of a container.
func (l *lab) exit(id string) shimrpc.Exited {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	var got *shimrpc.Exited
	err := l.Watch(ctx, func(e shimrpc.Exited) {
		if e.ID == id && got == nil {
			got = &e
			cancel()
		}
	})
	if got == nil {
		l.t.Fatalf("no exit of %s: %v", id, err)
	}
	return *got
}

// output is the log of a container without stamps: "stdout F hello".
func (l *lab) output(cr shimrpc.Create) string {
	l.t.Helper()
	b, err := os.ReadFile(cr.LogPath)
	if err != nil {
		l.t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		_, rest, _ := strings.Cut(line, " ")
		out.WriteString(rest)
	}
	return out.String()
}

// eventually waits for ok, which nobody tells us of.
func (l *lab) eventually(what string, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("never happened: %s", what)
		}
	}
}

// execOut runs a process in a container and returns what it printed.
func (l *lab) execOut(id string, args ...string) (string, shimrpc.Exited, error) {
	l.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	p, err := l.Exec(ctx, id, shimrpc.Exec{Args: args, Stdout: true, Stderr: true}, []*os.File{w, w})
	_ = w.Close()
	if err != nil {
		return "", shimrpc.Exited{}, err
	}
	defer func() { _ = p.Close() }()
	var out strings.Builder
	if _, err := r.WriteTo(&out); err != nil {
		l.t.Fatal(err)
	}
	e, err := p.Wait(ctx)
	return out.String(), e, err
}

func alive(pid int) bool {
	p, err := pidfd.Find(pid)
	return err == nil && p.Alive()
}

func kill(t testing.TB, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal("kill "+strconv.Itoa(pid), err)
	}
}
