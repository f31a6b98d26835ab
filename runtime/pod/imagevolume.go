package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/inroot"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// An image volume is an image that a container sees read-only at a path. The
// container's mount number N has the snapshot ID-vN, whose row keeps the
// layers until the container is removed, whatever becomes of the image, and
// the mount point bundle/images/N, which goes when the container exits. Both
// names derive from the id and the config, so that undo needs no memory.

// imageVolumeError marks what the kubelet tells apart from other failures.
type imageVolumeError struct{ error }

func (e imageVolumeError) Unwrap() error { return e.error }

// forKubelet puts the word by which the kubelet knows the failure of an image
// volume (ErrImageVolumeMountFailed of cri-api) where it looks for it: in front.
func forKubelet(err error) error {
	if errors.As(err, new(imageVolumeError)) {
		return fmt.Errorf("ImageVolumeMountFailed: %w", err)
	}
	return err
}

func cannotMountImage(m spec.Mount, why error) error {
	return imageVolumeError{fmt.Errorf("cannot mount image %s at %s: %w", m.Image, m.ContainerPath, why)}
}

const imageVolumeInfix = "-v"

func imageSnapshot(id string, n int) string { return id + imageVolumeInfix + strconv.Itoa(n) }

func (t *Table) imageVolumeDir(id string, n int) string {
	return filepath.Join(t.bundle(id), "images", strconv.Itoa(n))
}

// asked is what was asked for.
func (c *container) asked() *spec.Container { rec := c.record(); return &rec.Config }

// imageVolumes lists which of a container's mounts are images.
func imageVolumes(cfg *spec.Container) []int {
	var out []int
	for n, m := range cfg.Mounts {
		if m.Image != "" {
			out = append(out, n)
		}
	}
	return out
}

// ownsSnapshot tells whether a container with a row wants the snapshot: as
// its writable layer, or for one of its image volumes.
func (t *Table) ownsSnapshot(name string) bool {
	id, number, volume := strings.Cut(name, imageVolumeInfix)
	t.mu.Lock()
	c := t.containers[id]
	t.mu.Unlock()
	if c == nil || !volume {
		return c != nil
	}
	for _, n := range imageVolumes(c.asked()) {
		if strconv.Itoa(n) == number {
			return true
		}
	}
	return false
}

// resolveVolumeImages gives the ids of the images that the container mounts,
// by the number of the mount; empty for a host path.
func (t *Table) resolveVolumeImages(ctx context.Context, cfg *spec.Container) ([]string, error) {
	volumes := imageVolumes(cfg)
	if volumes == nil {
		return nil, nil
	}
	ids := make([]string, len(cfg.Mounts))
	for _, n := range volumes {
		img, err := t.cfg.Images.Resolve(ctx, cfg.Mounts[n].Image)
		if err != nil {
			return nil, cannotMountImage(cfg.Mounts[n], err)
		}
		ids[n] = img.ID
	}
	return ids, nil
}

func (t *Table) mountImageVolumes(ctx context.Context, c *container) error {
	rec := c.record()
	for _, n := range imageVolumes(&rec.Config) {
		if err := t.mountImageVolume(ctx, c, n, rec.VolumeImages[n]); err != nil {
			return cannotMountImage(rec.Config.Mounts[n], err)
		}
	}
	return nil
}

func (t *Table) mountImageVolume(ctx context.Context, c *container, n int, image string) error {
	if err := t.cfg.Images.Prepare(ctx, imageSnapshot(c.id, n), image); err != nil {
		return err
	}
	dir := t.imageVolumeDir(c.id, n)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	l, err := t.containerLabels(c)
	if err != nil {
		return err
	}
	return t.cfg.Images.MountReadOnly(ctx, imageSnapshot(c.id, n), dir, t.userns(c.pod), l.file.String())
}

// undoImageVolumes undoes mountImageVolumes.
func (t *Table) undoImageVolumes(ctx context.Context, c *container) error {
	if err := t.unmountImageVolumes(c); err != nil {
		return err
	}
	return t.discardImageVolumes(ctx, c)
}

// unmountRoot unmounts all that berth has mounted for the container: its root
// file system and its image volumes.
func (t *Table) unmountRoot(c *container) error {
	return errors.Join(mount.Unmount(t.rootfs(c.id)), t.unmountImageVolumes(c))
}

func (t *Table) unmountImageVolumes(c *container) error {
	var errs []error
	for _, n := range imageVolumes(c.asked()) {
		errs = append(errs, mount.Unmount(t.imageVolumeDir(c.id, n)))
	}
	return errors.Join(errs...)
}

// discardSnapshots lets go of the container's writable layer and of the
// layers of its image volumes.
func (t *Table) discardSnapshots(ctx context.Context, c *container) error {
	return errors.Join(t.discardImageVolumes(ctx, c), t.cfg.Images.Discard(ctx, c.id))
}

func (t *Table) discardImageVolumes(ctx context.Context, c *container) error {
	var errs []error
	for _, n := range imageVolumes(c.asked()) {
		errs = append(errs, t.cfg.Images.Discard(ctx, imageSnapshot(c.id, n)))
	}
	return errors.Join(errs...)
}

// askedMounts resolves the mounts that were asked for, in their order.
func (t *Table) askedMounts(ctx context.Context, c *container) ([]specs.Mount, error) {
	var paths []spec.Mount
	mounts, ns := c.asked().Mounts, &c.pod.config.Namespaces
	for _, m := range mounts {
		if m.Image == "" {
			paths = append(paths, m)
		}
	}
	resolved, err := t.cfg.Volumes.Resolve(ctx, paths)
	if err != nil {
		return nil, err
	}
	out := make([]specs.Mount, 0, len(mounts))
	for n, m := range mounts {
		if m.Image == "" {
			if m.IDs != nil && ns.HasUserNamespace() && *m.IDs == ns.IDs {
				// The namespace at hand serves; another would be made for it.
				resolved[0].UIDMappings, resolved[0].GIDMappings = nil, nil
			}
			out, resolved = append(out, resolved[0]), resolved[1:]
			continue
		}
		if err := checkMapping(m, ns); err != nil {
			return nil, cannotMountImage(m, err)
		}
		source, err := imageVolumeSource(t.imageVolumeDir(c.id, n), m.ImageSubPath)
		if err != nil {
			return nil, cannotMountImage(m, err)
		}
		// Programs may be run from it (Kubernetes dropped noexec again), but
		// an image that somebody mounts for its data must not bring privileges.
		out = append(out, specs.Mount{Destination: filepath.Clean(m.ContainerPath), Type: "bind", Source: source,
			Options: append([]string{"bind", "ro", "nosuid", "nodev", "rprivate"}, m.Options...)})
	}
	return out, nil
}

// imageVolumeSource finds the path within the image mounted at root, whose
// links resolve inside. The answer has no links, and what it names stays:
// nobody can write to the image.
func imageVolumeSource(root, path string) (string, error) {
	if path == "" {
		return root, nil
	}
	f, err := inroot.Open(root, path, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "", errkind.New(errkind.NotFound, "the image has no %s", path)
	} else if err != nil {
		return "", errkind.New(errkind.FailedPrecondition, "cannot open %s in the image: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !st.IsDir() && !st.Mode().IsRegular() {
		return "", errkind.New(errkind.FailedPrecondition, "%s of the image is neither a directory nor a file", path)
	}
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
}
