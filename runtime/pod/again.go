package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// CreateAgain makes a container in a pod like Create, as a new attempt of the
// container from, which has ended: of the same image, whether or not that is
// here still, with the volumes that from had of its own and, with keep, its
// writable layer. from keeps its row and has nothing more; it is to be removed.
// After an error from has all that it had.
func (t *Table) CreateAgain(ctx context.Context, v View, podID string, cfg spec.Container, from string, keep bool) (string, error) {
	old, err := t.findContainer(v, from)
	if err != nil {
		return "", err
	}
	if rec := old.record(); rec.Phase != phaseExited {
		return "", errkind.New(errkind.FailedPrecondition, "cannot make a new attempt of container %s: it is %s, not exited", old.id, rec.Phase)
	}
	return t.createFrom(ctx, v, podID, cfg, old, keep)
}

// predecessor is the container of which c is a new attempt; nil: none.
func (t *Table) predecessor(c *container) *container {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.containers[c.record().From]
}

// imageOf is what the image of a container says: for a new attempt what it said
// to the earlier one.
func (t *Table) imageOf(ctx context.Context, c *container) (*spec.ImageConfig, error) {
	rec := c.record()
	if rec.From == "" {
		return t.cfg.Images.Resolve(ctx, rec.Config.Image)
	}
	old := t.predecessor(c)
	if old == nil {
		return nil, errkind.New(errkind.FailedPrecondition, "container %s, of which it is a new attempt, was removed", rec.From)
	}
	img := old.record().Image
	return &img, nil
}

// prepareLayer makes the writable layer.
func (t *Table) prepareLayer(ctx context.Context, c *container) error {
	rec := c.record()
	if rec.From == "" {
		return t.cfg.Images.Prepare(ctx, c.id, rec.Image.ID)
	}
	return t.cfg.Images.Inherit(ctx, c.id, rec.From, rec.Keep)
}

func (t *Table) undoLayer(ctx context.Context, c *container) error {
	rec := c.record()
	if rec.From != "" && rec.Keep {
		return t.cfg.Images.GiveBack(ctx, c.id, rec.From)
	}
	return t.cfg.Images.Discard(ctx, c.id)
}

// takeVolumes moves what an earlier attempt has in the volumes of its image. The
// fresh ones of another container are made where they are mounted.
func (t *Table) takeVolumes(c *container) error {
	rec := c.record()
	if rec.From == "" {
		return nil
	}
	return moveDir(t.volumeDir(rec.From), t.volumeDir(c.id))
}

func (t *Table) undoVolumes(c *container) error {
	if rec := c.record(); rec.From != "" && t.predecessor(c) != nil {
		return moveDir(t.volumeDir(c.id), t.volumeDir(rec.From))
	}
	return os.RemoveAll(t.volumeDir(c.id))
}

// moveDir gives a directory another name, durably; one that is absent is
// success, so that it may be called again.
func moveDir(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot move volumes: %w", err)
	}
	return atomicfile.SyncDir(filepath.Dir(to))
}

// askStop remembers that somebody wants local containers to end. It comes
// before the effect, and is no reason not to have it.
func (t *Table) askStop(ctx context.Context, cs ...*container) {
	for _, c := range cs {
		if c.pod.origin() != OriginLocal || !c.finished() || c.record().StopAsked {
			continue
		}
		if err := t.setContainer(c, func(r *containerRecord) { r.StopAsked = true }); err != nil {
			logged(ctx, "Cannot record that a container is to stay ended", err)
		}
	}
}

// prepareVolumes makes the named volumes that the container mounts ready.
func (t *Table) prepareVolumes(ctx context.Context, c *container) error {
	rec := c.record()
	for _, m := range rec.Config.Mounts {
		if m.HostPath == "" {
			continue
		}
		copyUp := rec.From == "" && !slices.Contains(rec.Config.Extra.NoCopy, filepath.Clean(m.ContainerPath))
		shared := func() bool { return len(t.mounters(m.HostPath)) > 1 } // c is one
		if err := t.cfg.Volumes.Prepare(ctx, m.HostPath, t.rootfs(c.id), m.ContainerPath, copyUp, shared); err != nil {
			return err
		}
	}
	return nil
}

// MountersOf names the containers that mount a host path, by name and id. Those
// that are being made are among them.
func (t *Table) MountersOf(hostPath string) []string {
	var out []string
	for _, c := range t.mounters(hostPath) {
		name := c.record().Config.Metadata.Name
		if label := c.record().Config.Labels[NameLabel]; label != "" {
			name = label
		}
		out = append(out, name+" ("+c.id[:12]+")")
	}
	slices.Sort(out)
	return out
}

func (t *Table) mounters(hostPath string) []*container {
	var out []*container
	for _, c := range t.all() {
		if slices.ContainsFunc(c.record().Config.Mounts, func(m spec.Mount) bool { return m.HostPath == hostPath }) {
			out = append(out, c)
		}
	}
	return out
}
