package pod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
	"github.com/berth-runtime/berth/runtime/sys/mount"
	"github.com/berth-runtime/berth/runtime/sys/tartree"
)

// StatPath describes what a container has at a path; errkind.NotFound if there
// is nothing.
func (t *Table) StatPath(ctx context.Context, v View, id, p string) (out tartree.Info, err error) {
	err = t.withRoot(ctx, v, id, p, func(root *os.File, p string, _ *idmap.Map) error {
		out, err = tartree.Stat(root, p)
		return err
	})
	return out, err
}

// CopyOut writes what a container has at a path as a tar, under the name as or,
// if that is empty, the path's last component. With follow a symbolic link stands for what it leads to.
func (t *Table) CopyOut(ctx context.Context, v View, id, p, as string, follow bool, w io.Writer) error {
	as = cmp.Or(as, path.Base(path.Clean("/"+p)))
	return t.withRoot(ctx, v, id, p, func(root *os.File, inside string, ids *idmap.Map) error {
		return tartree.Pack(ctx, root, inside, as, follow, fromHost(ids), w)
	})
}

// CopyIn makes what the tar has in a directory of a container, which must be
// there. With keep files have the owners that the tar says, otherwise they are
// root's. What it has made stays after an error.
func (t *Table) CopyIn(ctx context.Context, v View, id, dir string, keep bool, r io.Reader) error {
	return t.withRoot(ctx, v, id, dir, func(root *os.File, inside string, ids *idmap.Map) error {
		return tartree.Unpack(ctx, root, inside, toHost(ids, keep), r)
	})
}

// toHost gives the owners on the host of files that come in.
func toHost(ids *idmap.Map, keep bool) tartree.Owner {
	return func(uid, gid int) (int, int) {
		if !keep {
			uid, gid = 0, 0
		}
		if ids != nil {
			return ids.Owner(uint32(uid), uint32(gid))
		}
		return uid, gid
	}
}

// fromHost gives the owners as the container sees them of files that go out.
func fromHost(ids *idmap.Map) tartree.Owner {
	const nobody = 65534
	inside := func(id int, r idmap.Range) int {
		if n := id - int(r.Host); n >= 0 && n < int(r.Length) {
			return n
		}
		return nobody
	}
	if ids == nil {
		return nil
	}
	return func(uid, gid int) (int, int) { return inside(uid, ids.UID), inside(gid, ids.GID) }
}

// withRoot calls f with a handle on the root of what a container sees and the
// path below it. One that has ended is mounted for that time; a path on one of
// its volumes leads into the volume then, as in a container that lives.
func (t *Table) withRoot(ctx context.Context, v View, id, p string, f func(root *os.File, p string, ids *idmap.Map) error) error {
	err := t.onRoot(ctx, v, id, p, f)
	for kind, is := range map[errkind.Kind]error{errkind.NotFound: fs.ErrNotExist, errkind.InvalidArgument: unix.ENOTDIR, errkind.FailedPrecondition: unix.EROFS} {
		if errors.Is(err, is) && errkind.Of(err) == errkind.Unknown {
			return errkind.New(kind, "container %s: %w", id, err)
		}
	}
	return err
}

func (t *Table) onRoot(ctx context.Context, v View, id, p string, f func(root *os.File, p string, ids *idmap.Map) error) error {
	c, err := t.findContainer(v, id)
	if err != nil {
		return err
	}
	var ids *idmap.Map
	if ns := t.userns(c.pod); ns != nil {
		ids = &ns.Map
	}
	rec := c.record()
	if rec.Phase != phaseExited {
		// What a container that is merely created has is mounted already.
		root, err := os.OpenFile("/proc/"+strconv.Itoa(rec.Process.Pid)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer func() { _ = root.Close() }()
		}
		if err != nil || !rec.Process.Alive() { // the number may be another's
			return errkind.New(errkind.FailedPrecondition, "container %s is just about to start or to end; try again", c.id)
		}
		return f(root, p, ids)
	}
	return t.detached(ctx, func(own context.Context) error {
		c.op.Lock() // it is not removed meanwhile
		defer c.op.Unlock()
		return t.withEndedRoot(own, c, p, ids, f)
	})
}

func (t *Table) withEndedRoot(ctx context.Context, c *container, p string, ids *idmap.Map, f func(*os.File, string, *idmap.Map) error) error {
	t.mu.Lock()
	gone := t.containers[c.id] != c
	t.mu.Unlock()
	switch {
	case gone:
		return errkind.New(errkind.NotFound, "container %s does not exist", c.id)
	case ids != nil:
		return errkind.New(errkind.FailedPrecondition, "container %s has ended, and its user namespace with it; start it again first", c.id)
	}
	if host, rest, ok := t.volumeAt(c, p); ok {
		root, err := os.OpenFile(host, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = root.Close() }()
		return f(root, rest, nil)
	}
	if err := t.makeBundle(c); err != nil {
		return err
	}
	// Recover unmounts it, should the daemon be killed meanwhile.
	defer func() { logged(ctx, "Cannot unmount what was copied from or to", mount.Unmount(t.rootfs(c.id))) }()
	if err := t.cfg.Images.Mount(ctx, c.id, t.rootfs(c.id), nil, ""); err != nil {
		return err
	}
	root, err := os.OpenFile(t.rootfs(c.id), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return f(root, p, nil)
}

// volumeAt tells which directory of the host a path of an ended container leads
// into, and what is left of the path there.
func (t *Table) volumeAt(c *container, p string) (host, rest string, ok bool) {
	rec, clean, best := c.record(), path.Clean("/"+p), ""
	consider := func(at, source string) {
		at = path.Clean(at)
		if (clean == at || strings.HasPrefix(clean, at+"/")) && len(at) > len(best) {
			best, host = at, source
		}
	}
	if volumes, err := spec.VolumePaths(&rec.Image, rec.Config.Extra.Volumes...); err == nil {
		for i, at := range volumes {
			consider(at, filepath.Join(t.volumeDir(c.id), strconv.Itoa(i)))
		}
	}
	for _, m := range rec.Config.Mounts {
		if m.HostPath != "" {
			consider(m.ContainerPath, m.HostPath)
		}
	}
	if best == "" {
		return "", "", false
	}
	rest = "/" + strings.TrimPrefix(strings.TrimPrefix(clean, best), "/")
	if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") {
		rest += "/."
	}
	if st, err := os.Stat(host); err == nil && !st.IsDir() { // a file that is mounted
		host, rest = filepath.Dir(host), "/"+filepath.Base(host)
	}
	return host, rest, true
}

// ImageOf names the image of a container and what of its configuration an image
// that is made of it takes over.
func (t *Table) ImageOf(v View, id string) (containerID string, image spec.ImageConfig, cfg spec.Container, err error) {
	c, err := t.findContainer(v, id)
	if err != nil {
		return "", spec.ImageConfig{}, spec.Container{}, err
	}
	rec := c.record()
	return c.id, rec.Image, rec.Config, nil
}

// Still runs f while the processes of a container stand still, if it runs and
// pause says so. Its record says so too, so that it goes on after a crash.
func (t *Table) Still(ctx context.Context, v View, id string, pause bool, f func(context.Context) error) error {
	c, err := t.findContainer(v, id)
	if err != nil {
		return err
	}
	return t.attended(ctx, func(ctx context.Context) (err error) {
		c.op.Lock()
		defer c.op.Unlock()
		if rec := c.record(); rec.Phase != phaseRunning || rec.Paused || !pause {
			return f(ctx)
		}
		if err := t.markCheckpoint(c, t.checkpointDir(c.id)); err != nil {
			return err
		}
		defer func() {
			if thawErr := t.thaw(c); err == nil {
				err = thawErr
			}
		}()
		if err := t.freeze(ctx, c); err != nil {
			return err
		}
		return f(ctx)
	})
}

// thaw ends what Still began.
func (t *Table) thaw(c *container) error {
	if err := t.unfreeze(c); err != nil {
		return fmt.Errorf("cannot let container %s go on: %w", c.id, err)
	}
	return t.markCheckpoint(c)
}
