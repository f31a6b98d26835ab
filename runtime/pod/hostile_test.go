package pod_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// rounds is how often each race is tried. The windows are wide: an attacker
// swaps some hundred times while one container is made.
const rounds = 12

// canary is a directory of the host that nobody may touch. It tells of opens,
// too, which change nothing.
type canary struct {
	dir    string
	events int // an inotify descriptor
}

func newCanary(t *testing.T) *canary {
	t.Helper()
	c := &canary{dir: t.TempDir()}
	for name, text := range map[string]string{"secret": "secret", "hosts": "secret", "passwd": "evil:x:4242:4242::/:/bin/sh\n", "group": "evil:x:4242:\n", "sub/secret": "secret"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(c.dir, name)), 0o755), os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if c.events, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(c.events) })
	for _, dir := range []string{c.dir, filepath.Join(c.dir, "sub")} {
		if _, err := unix.InotifyAddWatch(c.events, dir, unix.IN_ALL_EVENTS&^unix.IN_CLOSE); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// touched says what happened to the canary since the last call.
func (c *canary) touched() (what []string) {
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(c.events, buf)
		if err != nil || n <= 0 {
			break
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			// struct inotify_event: wd, mask, cookie, len, name
			mask, length := le32(buf[at+4:]), int(le32(buf[at+12:]))
			at += unix.SizeofInotifyEvent
			what = append(what, fmt.Sprintf("%#x %s", mask, strings.TrimRight(string(buf[at:at+length]), "\x00")))
			at += length
		}
	}
	table, err := mount.Table()
	if err != nil {
		return append(what, err.Error())
	}
	for _, m := range table {
		if strings.HasPrefix(m.Target, c.dir) {
			what = append(what, "mounted over: "+m.Target)
		}
	}
	return what
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// links lays two links to the canary below dir, one absolute and one that
// climbs, and gives their names.
func (c *canary) links(dir string) ([]string, error) {
	evil := []string{filepath.Join(dir, ".evil-absolute"), filepath.Join(dir, ".evil-relative")}
	return evil, errors.Join(os.Symlink(c.dir, evil[0]), os.Symlink(strings.Repeat("../", 40)+c.dir, evil[1]))
}

// swap exchanges path, again and again, for each of the others in turn. The
// function that it returns ends that and puts path back.
func swap(path string, others []string) (stop func()) {
	var end atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; !end.Load(); i++ {
			other := others[i/2%len(others)] // twice: there and back
			_ = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
			time.Sleep(time.Microsecond) // some tens, in truth: the victim needs the processor too
		}
	}()
	return func() { end.Store(true); <-done }
}

// attack is what is done to containers while they are made.
type attack struct {
	change func(*spec.Pod, *spec.Container)
	// fill lays out a container's tree and starts the attacker.
	fill func(dir string) (stop func(), err error)
	// look, if set, looks at each container that was made all the same.
	look func(t *testing.T, id string)
	once bool // nothing is swapped
}

func (n *node) attack(t *testing.T, c *canary, a attack) {
	t.Helper()
	cfg, p := containerConfig("main", "/bin/sleep", "600"), podConfig("attacked")
	if a.change != nil {
		a.change(&p, &cfg)
	}
	podID, err := n.Run(t.Context(), pod.ViewAll, p)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		stop := func() {}
		n.images.fill = func(dir string) (err error) {
			stop, err = a.fill(dir)
			return err
		}
		cfg.Metadata.Attempt = uint32(i)
		id, err := n.Create(t.Context(), pod.ViewAll, podID, cfg)
		stop()
		if err == nil {
			if a.look != nil {
				a.look(t, id)
			}
			err = n.RemoveContainer(t.Context(), pod.ViewAll, id)
		}
		if what := c.touched(); len(what) > 0 {
			t.Fatalf("round %d touched the host's files: %q (%v)", i, what, err)
		}
		if a.once {
			break
		}
	}
	n.images.fill = nil
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
}

// swapped makes dir/name a directory that is swapped for links to the canary.
func (c *canary) swapped(name string, inside ...string) func(dir string) (func(), error) {
	return func(dir string) (func(), error) {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(path, 0o755)
		for _, f := range inside {
			err = errors.Join(err, os.WriteFile(filepath.Join(path, f), []byte("image"), 0o644))
		}
		evil, lerr := c.links(dir)
		return swap(path, evil), errors.Join(err, lerr)
	}
}

// linked makes dir/name a link to the canary for good.
func (c *canary) linked(name string) func(dir string) (func(), error) {
	return func(dir string) (func(), error) {
		path := filepath.Join(dir, name)
		return func() {}, errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(c.dir, path))
	}
}

// T-ROOT: everything that the node does inside a tree that somebody else owns,
// against an owner who swaps names while it is done. Nothing of the host
// outside the tree is opened, made or changed; a create that fails is no fault.
func TestHostileRootfs(t *testing.T) {
	n := newVolumeNode(t)
	c := newCanary(t)
	// both tries a name that is swapped meanwhile and one that was always a link.
	both := func(t *testing.T, name string, change func(*spec.Pod, *spec.Container), look func(*testing.T, string), inside ...string) {
		t.Helper()
		n.attack(t, c, attack{change: change, fill: c.swapped(name, inside...), look: look})
		n.attack(t, c, attack{change: change, fill: c.linked(name), look: look, once: true})
	}

	t.Run("the canary sings", func(t *testing.T) {
		dir := t.TempDir()
		stop, err := c.swapped("etc")(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		for range 100_000 { // what nobody does: join and open
			if f, err := os.Open(filepath.Join(dir, "etc", "secret")); err == nil {
				_ = f.Close()
				break
			}
		}
		if what := c.touched(); len(what) == 0 {
			t.Error("a file was opened, or never found, and the canary said nothing")
		}
	})
	t.Run("CVE-2015-3629 CVE-2021-30465 CVE-2024-45310 targets of the pod's files", func(t *testing.T) {
		both(t, "etc", nil, nil, "passwd", "hosts")
	})
	t.Run("CVE-2021-30465 CVE-2024-45310 target of a volume", func(t *testing.T) {
		data := hostDir(t, unix.MS_PRIVATE)
		both(t, "mnt", withMounts(hostMount("/mnt/a/b", data), hostMount("/mnt/sub/made", data)), nil)
		both(t, "mnt", withMounts(hostMount("/mnt/file", filepath.Join(data, "file"))), nil)
	})
	t.Run("CVE-2021-30465 CVE-2024-45310 target in a volume that another container has", func(t *testing.T) {
		shared, data := t.TempDir(), hostDir(t, unix.MS_PRIVATE)
		a := filepath.Join(shared, "a")
		evil, err := c.links(shared)
		if err := errors.Join(err, os.Mkdir(a, 0o755)); err != nil {
			t.Fatal(err)
		}
		n.attack(t, c, attack{change: withMounts(hostMount("/shared", shared), hostMount("/shared/a/b", data)),
			fill: func(string) (func(), error) { return swap(a, evil), nil }})
	})
	t.Run("CVE-2019-19921 CVE-2023-27561 CVE-2023-28642 proc is a link", func(t *testing.T) { both(t, "proc", nil, nil) })
	t.Run("CVE-2023-28642 sys is a link", func(t *testing.T) { both(t, "sys", nil, nil) })
	t.Run("CVE-2026-41579 dev is a link", func(t *testing.T) { both(t, "dev", nil, nil) })
	t.Run("CVE-2024-5154 links among the files that runtimes make", func(t *testing.T) {
		for _, name := range []string{"etc/mtab", "etc/hosts", "etc/resolv.conf", "etc/hostname", "run/secrets", "dev/console", "dev/shm"} {
			n.attack(t, c, attack{fill: c.linked(name), once: true})
		}
	})
	t.Run("CVE-2015-3630 CVE-2015-3631 CVE-2019-16884 CVE-2025-52881 volume over proc", n.testVolumesOverProc)
	t.Run("CVE-2022-23648 CVE-2018-10856 content of the image's volume", func(t *testing.T) { n.testVolumeContent(t, c) })
	t.Run("the host's accounts in place of the image's", func(t *testing.T) {
		evil := func(_ *spec.Pod, c *spec.Container) { c.Security.RunAsUsername = "evil" }
		never := func(t *testing.T, id string) { t.Errorf("container %s has a user of the host", id) }
		both(t, "etc", evil, never, "passwd", "group")
		n.attack(t, c, attack{change: evil, look: never, once: true, fill: func(dir string) (func(), error) {
			return func() {}, errors.Join(os.Mkdir(filepath.Join(dir, "etc"), 0o755), os.Symlink(filepath.Join(c.dir, "passwd"), filepath.Join(dir, "etc/passwd")))
		}})
	})
	t.Run("CVE-2024-21626 working directory", func(t *testing.T) {
		both(t, "work", func(_ *spec.Pod, c *spec.Container) { c.WorkingDir = "/work/not/yet" }, nil)
		n.testLeakedWorkingDirectories(t)
	})
	t.Run("CVE-2025-31133 CVE-2025-52565 what masks a path is swapped", func(t *testing.T) { n.testMasks(t, c) })
	t.Run("removal of what a container has made", func(t *testing.T) { n.testRemoval(t, c) })
}

func (n *node) testVolumesOverProc(t *testing.T) {
	data := hostDir(t, unix.MS_PRIVATE)
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("over-proc"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"/proc", "/proc/self", "/proc/1", "/proc/sys", "/proc/self/attr"} {
		cfg := containerConfig("main", "/bin/sleep", "600")
		cfg.Mounts = []spec.Mount{hostMount(at, data)}
		if _, err := n.Create(t.Context(), pod.ViewAll, podID, cfg); err == nil {
			t.Errorf("a volume was mounted over %s", at)
		}
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
}

// testVolumeContent swaps the image's volumes, and directories in them, while
// their content is copied.
func (n *node) testVolumeContent(t *testing.T, c *canary) {
	n.images.config.Volumes = []string{"/data", "/via/../data2", "/linked/x"}
	defer func() { n.images.config.Volumes = nil }()
	n.attack(t, c, attack{
		fill: func(dir string) (func(), error) {
			stopOuter, err := c.swapped("data", "file")(dir)
			inner := filepath.Join(dir, "data2", "sub")
			err = errors.Join(err, os.MkdirAll(inner, 0o755), os.Symlink(c.dir, filepath.Join(dir, "linked")))
			evil, lerr := c.links(filepath.Dir(inner))
			stopInner := swap(inner, evil)
			return func() { stopOuter(); stopInner() }, errors.Join(err, lerr)
		},
		look: func(t *testing.T, id string) { n.wantNoSecret(t, filepath.Join(n.cfg.Root, "volumes", id)) },
	})
}

// testMasks swaps the /dev/null that masked paths are covered with, in a /dev
// that is a volume.
func (n *node) testMasks(t *testing.T, c *canary) {
	dev := t.TempDir()
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := unix.Mknod(filepath.Join(dev, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
	}
	attacker := filepath.Join(dev, "attacker")
	if err := os.WriteFile(attacker, []byte("attacker"), 0o666); err != nil {
		t.Fatal(err)
	}
	masked := []string{"/proc/keys", "/proc/interrupts"}
	n.attack(t, c, attack{
		change: func(_ *spec.Pod, c *spec.Container) {
			c.Mounts, c.Security.MaskedPaths = []spec.Mount{hostMount("/dev", dev)}, masked
		},
		fill: func(string) (func(), error) { return swap(filepath.Join(dev, "null"), []string{attacker}), nil },
		look: func(t *testing.T, id string) {
			status, err := n.Container(pod.ViewAll, id)
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range masked {
				st, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", status.Pid, path))
				if err != nil || st.Mode()&os.ModeCharDevice == 0 {
					t.Errorf("%s is masked by %v, %v", path, st, err)
				}
			}
		},
	})
}

// testRemoval swaps directories in a container's volume while it is removed.
func (n *node) testRemoval(t *testing.T, c *canary) {
	n.images.config.Volumes = []string{"/data"}
	defer func() { n.images.config.Volumes = nil }()
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("removed"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		cfg := containerConfig("main", "/bin/sleep", "600")
		cfg.Metadata.Attempt = uint32(i)
		id, err := n.Create(t.Context(), pod.ViewAll, podID, cfg)
		if err != nil {
			t.Fatal(err)
		}
		stop, err := c.swapped("tree", "a", "b", "c")(filepath.Join(n.cfg.Root, "volumes", id, "0"))
		if err != nil {
			t.Fatal(err)
		}
		_ = n.RemoveContainer(t.Context(), pod.ViewAll, id) // a swapped name may be neither file nor directory when its turn comes
		stop()
		if what := c.touched(); len(what) > 0 {
			t.Fatalf("the removal touched the host's files: %q", what)
		}
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
}

// wantNoSecret fails the test if a tree has anything of the canary's.
func (n *node) wantNoSecret(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), "secret") || strings.Contains(string(b), "evil") {
			t.Errorf("%s came from the host", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// testLeakedWorkingDirectories starts containers in every descriptor that
// could have been left open for them: none may be a way to the host.
func (n *node) testLeakedWorkingDirectories(t *testing.T) {
	podID, err := n.Run(t.Context(), pod.ViewAll, podConfig("leaked"))
	if err != nil {
		t.Fatal(err)
	}
	for fd := range 16 {
		cfg := containerConfig("main", "/bin/sleep", "600")
		cfg.Metadata.Attempt = uint32(fd)
		cfg.WorkingDir = fmt.Sprintf("/proc/self/fd/%d", fd)
		id, err := n.Create(t.Context(), pod.ViewAll, podID, cfg)
		if err != nil {
			continue // as it should be
		}
		status, err := n.Container(pod.ViewAll, id)
		if err != nil {
			t.Fatal(err)
		}
		proc := fmt.Sprintf("/proc/%d/", status.Pid)
		names, err := os.ReadDir(proc + "cwd")
		if cwd := readlink(t, proc+"cwd"); err == nil && slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() == "cgroup.procs" || e.Name() == "containers" }) {
			t.Errorf("descriptor %d leads to %s, with %d names", fd, cwd, len(names))
		}
		if err := n.RemoveContainer(t.Context(), pod.ViewAll, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Fatal(err)
	}
}
