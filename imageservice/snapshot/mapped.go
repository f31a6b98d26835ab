package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/mount"
	"github.com/berth-runtime/berth/runtime/sys/thread"
)

// overlayMapped mounts an overlay of layers whose owners are mapped. The
// merged mount itself cannot be mapped (overlayfs lacks FS_ALLOW_IDMAP), its
// layers can (Linux 5.19): each is a mount of its own that no place shows.
func overlayMapped(opts []option, lowers []string, target string, in *idmap.Pinned) error {
	trees, err := mappedTrees(lowers, in)
	defer closeAll(trees)
	if err == nil {
		err = mountTrees(opts, trees, target)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBADF) {
		// Before Linux 6.13 overlayfs takes layers by path only.
		err = mountTreesAttached(opts, trees, target)
	}
	if err != nil {
		return fmt.Errorf("cannot mount overlay of %d layers in a user namespace at %s: %w", len(lowers), target, err)
	}
	return nil
}

// mappedTrees gives for each directory a detached mount with mapped owners.
// The caller closes what is returned, also with an error.
func mappedTrees(dirs []string, in *idmap.Pinned) ([]*os.File, error) {
	ns, err := in.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	var trees []*os.File
	for _, dir := range dirs {
		tree, err := idmap.Tree(dir, ns)
		if err != nil {
			return trees, err
		}
		trees = append(trees, tree)
	}
	return trees, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// mountTrees mounts an overlay of detached mounts.
func mountTrees(opts []option, trees []*os.File, target string) error {
	return mountConfigured(opts, target, func(conf int) error {
		for _, t := range trees {
			if err := unix.FsconfigSetFd(conf, "lowerdir+", int(t.Fd())); err != nil {
				return fmt.Errorf("layer %s: %w%s", t.Name(), err, said(conf))
			}
		}
		return nil
	})
}

// mountTreesAttached gives the layers places in a mount namespace that ends
// with the call, and takes the overlay out of it: nothing can stay behind,
// wherever we are killed.
func mountTreesAttached(opts []option, trees []*os.File, target string) error {
	made := -1
	err := thread.Throwaway(func() (err error) {
		made, err = assemble(opts, trees, target)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(made) }()
	return attach(made, target)
}

// assemble makes the overlay on the calling thread, which it spoils, and
// returns it detached. target serves as a place for what only this thread sees.
func assemble(opts []option, trees []*os.File, target string) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return -1, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, err
	}
	if err := unix.Mount("layers", target, "tmpfs", 0, "mode=0700"); err != nil {
		return -1, err
	}
	if err := unix.Chdir(target); err != nil {
		return -1, err
	}
	var names []string
	for i, t := range trees {
		name := strconv.Itoa(i)
		if err := unix.Mkdir(name, 0o700); err != nil {
			return -1, err
		}
		if err := attach(int(t.Fd()), name); err != nil {
			return -1, fmt.Errorf("layer %s: %w", t.Name(), err)
		}
		names = append(names, name)
	}
	if err := unix.Mkdir("m", 0o700); err != nil {
		return -1, err
	}
	if err := unix.Mount("overlay", "m", "overlay", 0, joined(opts, names)); err != nil {
		return -1, err
	}
	return unix.OpenTree(unix.AT_FDCWD, "m", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
}

// bindMapped mounts one directory read-only with mapped owners.
func bindMapped(dir, target string, in *idmap.Pinned) error {
	trees, err := mappedTrees([]string{dir}, in)
	defer closeAll(trees)
	if err != nil {
		return err
	}
	tree := int(trees[0].Fd())
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("cannot make the mount of %s read-only: %w", dir, err)
	}
	if err := attach(tree, target); err != nil {
		return fmt.Errorf("cannot mount %s at %s: %w", dir, target, err)
	}
	return nil
}

// ProbeMapped tells, by doing, whether overlays with mapped owners can be
// mounted of layers on the file system of dir; nil: yes.
func ProbeMapped(dir string) error {
	tmp, err := os.MkdirTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	lowers := []string{filepath.Join(tmp, "a"), filepath.Join(tmp, "b")}
	for _, l := range lowers {
		if err := os.Mkdir(l, 0o700); err != nil {
			return err
		}
	}
	target := filepath.Join(tmp, "m")
	ids := idmap.Range{Host: 1 << 16, Length: 1 << 16}
	in := idmap.Pinned{Map: idmap.Map{UID: ids, GID: ids}}
	return idmap.With(in.Map, 0, func(path func(string) string) error {
		in.Path = path("user")
		if err := At(tmp).Create(lowers[0], &in); err != nil {
			return err
		}
		if err := Mount(At(tmp), lowers, target, &in, ""); err != nil {
			return err
		}
		return mount.Unmount(target)
	})
}
