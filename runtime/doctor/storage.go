package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// overlay mounts one on the file system of the root, in a mount namespace of
// its own, and does in it what layers and containers need.
func overlay(_ context.Context, c *Config) []Finding {
	const name = "storage.overlay"
	base := existing(c.Root)
	dir, err := os.MkdirTemp(base, ".berth-doctor-")
	if err != nil {
		return one(Finding{name, Fail, fmt.Sprintf("cannot write below %s: %v", base, err), "free or mount it: df -h " + base + "; mount | grep ' " + base + " '"})
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := overlayable(dir); err != nil {
		return one(Finding{name, Fail, fmt.Sprintf("the file system of %s cannot hold layers: %v", base, err),
			"move root in /etc/berth/config.toml to ext4, or to xfs made with ftype=1: findmnt -T " + base})
	}
	if err := inMountNamespace(func() error { return tryOverlay(dir, "volatile") }); err != nil {
		if inMountNamespace(func() error { return tryOverlay(dir, "") }) == nil {
			return one(Finding{name, Fail, fmt.Sprintf("overlay does not mount with the option volatile (%v), which Linux has since 5.10", err), newerKernel})
		}
		return one(Finding{name, Fail, fmt.Sprintf("overlay does not work on the file system of %s: %v", base, err),
			"modprobe overlay; if it is there, move root in /etc/berth/config.toml to ext4 or xfs: findmnt -T " + base})
	}
	return one(good(name, "overlay works on the file system of %s, with whiteouts, attributes and volatile", base))
}

// overlayable tries what a layer's directory must be able to hold.
func overlayable(dir string) error {
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	lower := filepath.Join(dir, "lower")
	for _, f := range []string{"hidden", "kept"} {
		if err := os.WriteFile(filepath.Join(lower, f), []byte("x"), 0o644); err != nil {
			return err
		}
	}
	if err := unix.Mknod(filepath.Join(dir, "upper/hidden"), unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("it has no whiteouts (a character device 0:0): %w", err)
	}
	if err := unix.Setxattr(lower, "trusted.berth", []byte("y"), 0); err != nil {
		return fmt.Errorf("it has no trusted attributes: %w", err)
	}
	return nil
}

// tryOverlay mounts it and looks through it.
func tryOverlay(dir, option string) error {
	_ = os.RemoveAll(filepath.Join(dir, "work")) // a volatile one is refused a second time
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o755); err != nil {
		return err
	}
	merged := filepath.Join(dir, "merged")
	options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work,index=off,redirect_dir=off,metacopy=off", dir, dir, dir)
	if option != "" {
		options += "," + option
	}
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return fmt.Errorf("it cannot be mounted: %w", err)
	}
	defer func() { _ = unix.Unmount(merged, unix.MNT_DETACH) }()
	if _, err := os.Stat(filepath.Join(merged, "hidden")); !errors.Is(err, os.ErrNotExist) {
		return errors.New("a whiteout hides nothing: the file system gives no types of entries (d_type)")
	}
	if err := os.Remove(filepath.Join(merged, "kept")); err != nil {
		return fmt.Errorf("a file of a layer cannot be removed: %w", err)
	}
	return os.WriteFile(filepath.Join(merged, "kept"), nil, 0o644)
}

// What should be free, below which it warns and fails: the kubelet evicts at
// a tenth of the disk and a twentieth of its inodes.
const (
	warnFree   = 0.10
	failFree   = 0.01
	warnInodes = 0.05
	failInodes = 0.01
)

// room is how full a file system is.
type room struct {
	free, size   uint64 // bytes
	ffree, files uint64 // inodes; files is 0 where they have no number
}

func roomOf(path string) (room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return room{}, err
	}
	unit := uint64(st.Bsize)
	return room{st.Bavail * unit, st.Blocks * unit, st.Ffree, st.Files}, nil
}

func space(_ context.Context, c *Config) []Finding {
	var all []Finding
	for _, dir := range []string{c.Root, c.State} {
		at := existing(dir)
		r, err := roomOf(at)
		if err != nil {
			all = append(all, Finding{"storage.space", Fail, fmt.Sprintf("cannot look at the file system of %s: %v", at, err), "findmnt -T " + at})
			continue
		}
		all = append(all, r.judge(at)...)
	}
	return all
}

// judge gives a finding for the bytes and one for the inodes.
func (r room) judge(at string) []Finding {
	const name = "storage.space"
	verdict := func(free, all uint64, warn, fail float64) Verdict {
		switch part := float64(free) / float64(all); {
		case part < fail:
			return Fail
		case part < warn:
			return Warn
		}
		return OK
	}
	var out []Finding
	if r.size > 0 {
		text := fmt.Sprintf("%s of %s are free on the file system of %s", units.BytesSize(float64(r.free)), units.BytesSize(float64(r.size)), at)
		f := Finding{name, verdict(r.free, r.size, warnFree, failFree), text, ""}
		if f.Verdict != OK {
			f.Fix = "berth prune --all; du -xh --max-depth=1 " + at + " | sort -h | tail"
		}
		out = append(out, f)
	}
	if r.files > 0 {
		text := fmt.Sprintf("%d of %d inodes are free on the file system of %s", r.ffree, r.files, at)
		f := Finding{"storage.inodes", verdict(r.ffree, r.files, warnInodes, failInodes), text, ""}
		if f.Verdict != OK {
			f.Fix = "berth prune --all; find " + at + " -xdev -printf '%h\\n' | sort | uniq -c | sort -n | tail"
		}
		out = append(out, f)
	}
	return out
}

// stateDir must not survive a reboot, and a socket's path must fit.
func stateDir(_ context.Context, c *Config) []Finding {
	const name = "storage.state"
	// The longest are those of shims per pod: DIR/shims/ID.sock.
	if longest := len(c.State) + len("/shims/.sock") + 20; longest > 107 {
		return one(Finding{name, Fail, fmt.Sprintf("the path of state, %s, is too long for sockets below it", c.State), "set state in /etc/berth/config.toml to a shorter path, such as /run/berth"})
	}
	at := existing(c.State)
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return one(Finding{name, Fail, fmt.Sprintf("cannot look at the file system of %s: %v", at, err), "findmnt -T " + at})
	}
	if st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
		return one(Finding{name, Warn, fmt.Sprintf("the state directory %s is not on a tmpfs: each container writes to the disk, and what a reboot ends is cleaned up after it", c.State),
			"set state in /etc/berth/config.toml to a directory on a tmpfs: findmnt -t tmpfs"})
	}
	return one(good(name, "the state directory %s is on a tmpfs", c.State))
}

func programs(_ context.Context, c *Config) []Finding {
	const name = "programs"
	var bad []Finding
	for _, p := range c.Programs {
		st, err := os.Stat(p)
		if err == nil && (!st.Mode().IsRegular() || st.Mode()&0o111 == 0) {
			err = fmt.Errorf("%s cannot be executed", p)
		}
		if err != nil {
			bad = append(bad, Finding{name, Fail, fmt.Sprintf("a program of berth's own is not in order: %v", err), "install it again (make install, or apt-get install --reinstall berth), or set its path in /etc/berth/config.toml"})
		}
	}
	if len(bad) > 0 {
		return bad
	}
	return one(good(name, "berth's programs are there"))
}
