package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/steps"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/inroot"
	"github.com/berth-runtime/berth/runtime/sys/mount"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// Create makes a container in a pod that is ready, and returns its id. The
// image must be on the node. A second call with the same metadata in the same
// pod joins the first; one for a container that is no longer merely created
// is errkind.AlreadyExists.
func (t *Table) Create(ctx context.Context, v View, podID string, cfg spec.Container) (string, error) {
	return t.createFrom(ctx, v, podID, cfg, nil, false)
}

// createFrom is Create, of a new attempt of from if that is not nil.
func (t *Table) createFrom(ctx context.Context, v View, podID string, cfg spec.Container, from *container, keep bool) (string, error) {
	if err := checkResources(cfg.Resources); err != nil {
		return "", fmt.Errorf("cannot create container %s: %w", cfg.Metadata.Name, err)
	}
	p, err := t.findPod(v, podID)
	if err != nil {
		return "", err
	}
	p.mu.Lock()
	c, joined := p.byName[cfg.Metadata]
	late := joined && c.finished()
	if !joined {
		if p.rec.Phase != phaseReady {
			p.mu.Unlock()
			return "", fmt.Errorf("cannot create container %s: %w", cfg.Metadata.Name, notReady(p))
		}
		id := newID()
		c = &container{id: id, pod: p, made: make(chan struct{}), told: make(chan struct{}), exited: make(chan struct{}),
			rec: t.newRecord(p, id, cfg)}
		if from != nil {
			c.rec.From, c.rec.Keep = from.id, keep
		}
		p.containers[id], p.byName[cfg.Metadata] = c, c
	}
	p.mu.Unlock()
	if !joined {
		t.mu.Lock()
		t.containers[c.id] = c
		t.mu.Unlock()
		if !t.goBackground(ctx, func(ctx context.Context) { t.create(ctx, c) }) {
			c.err = ending()
			t.forgetContainer(c)
			close(c.made)
			close(c.told)
		}
	}

	select {
	case <-c.told:
	case <-ctx.Done():
		return "", errkind.New(errkind.Of(ctx.Err()), "container %s is still being made; the next call with the same name and attempt joins it: %w", cfg.Metadata.Name, ctx.Err())
	}
	if c.err != nil && !late { // later callers find what was kept of it
		return "", c.err
	}
	if rec := c.record(); joined && rec.Phase != phaseCreated {
		return "", errkind.New(errkind.AlreadyExists, "container %s (attempt %d) exists in pod %s and is %s: %s", cfg.Metadata.Name, cfg.Metadata.Attempt, p.id, rec.Phase, c.id)
	}
	return c.id, nil
}

// newRecord is the row of a container that is about to be made.
func (t *Table) newRecord(p *Pod, id string, cfg spec.Container) containerRecord {
	cfg.Security.Namespaces = cfg.Security.Namespaces.Within(p.config.Namespaces)
	return containerRecord{ID: id, PodID: p.id, BootID: t.cfg.BootID, Config: cfg, Phase: phaseCreating, CreatedAt: time.Now(), Resources: cfg.Resources}
}

// create makes the container under the daemon's own context.
func (t *Table) create(ctx context.Context, c *container) {
	c.pod.verbs.RLock()
	defer c.pod.verbs.RUnlock()
	if from := t.predecessor(c); from != nil {
		from.op.Lock() // what it leaves must be whole, and must not be removed meanwhile
		defer from.op.Unlock()
	}
	c.op.Lock()
	defer c.op.Unlock()
	undone, err := t.createPlan(c).Run(ctx)
	if err != nil {
		err = forKubelet(fmt.Errorf("cannot create container %s in pod %s: %w", c.record().Config.Metadata.Name, c.pod.id, err))
		c.err = err
		if undone {
			t.forgetContainer(c)
		} else {
			klog.FromContext(ctx).Error(err, "Container could not be undone and is kept as exited", "container", c.id)
			exit := &spec.Exit{Code: 128, At: time.Now(), Reason: "StartError", Message: err.Error()}
			t.setExited(ctx, c, exit)
		}
	}
	if err == nil {
		t.tellContainer(ctx, TurnCreated, c)
	}
	close(c.made)
	t.publish()
	c.quiet.drop()
	close(c.told)
	t.armRepairs()
	if err == nil {
		t.emit(EventCreated, c.id, c.pod)
	}
}

func (c *container) markExited() { c.exitOnce.Do(func() { close(c.exited) }) }

// forgetContainer frees the container's id and name.
func (t *Table) forgetContainer(c *container) {
	p, name := c.pod, c.record().Config.Metadata
	p.mu.Lock()
	delete(p.containers, c.id)
	if p.byName[name] == c {
		delete(p.byName, name)
	}
	p.mu.Unlock()
	t.mu.Lock()
	delete(t.containers, c.id)
	t.mu.Unlock()
	t.sampler.Forget(c.id)
	c.release()
}

// createPlan is the table of CreateContainer, and with more steps of a container
// of RestorePod.
func (t *Table) createPlan(c *container) steps.Plan {
	return t.withSaved(c, steps.Plan{Verb: "container.create", Observe: t.cfg.Observe, Board: &t.board, Object: c.id, Steps: []steps.Step{
		{Name: "pod", Do: func(context.Context) error {
			if c.saved == nil && c.pod.phase() != phaseReady {
				return notReady(c.pod)
			}
			return nil
		}},
		{Name: "image", Do: func(ctx context.Context) error { return t.resolveImage(ctx, c) }},
		{Name: "record", Do: func(context.Context) error { return t.containerRows.Put(c.id, c.record()) }, Undo: func(context.Context) error { return t.containerRows.Delete(c.id) }},
		{Name: "snapshot", Do: func(ctx context.Context) error { return t.prepareLayer(ctx, c) }, Undo: func(ctx context.Context) error { return t.undoLayer(ctx, c) }},
		{Name: "volumes", Do: func(context.Context) error { return t.takeVolumes(c) }, Undo: func(context.Context) error { return t.undoVolumes(c) }},
		{Name: "bundle", Do: func(context.Context) error { return t.makeBundle(c) }, Undo: func(context.Context) error { return t.removeBundle(c) }},
		{Name: "rootfs", Do: func(ctx context.Context) error { return t.mountRoot(ctx, c) }, Undo: func(context.Context) error { return mount.Unmount(t.rootfs(c.id)) }},
		{Name: "images", Do: func(ctx context.Context) error { return t.mountImageVolumes(ctx, c) }, Undo: func(ctx context.Context) error { return t.undoImageVolumes(ctx, c) }},
		{Name: "spec", Do: func(ctx context.Context) error { return t.writeSpec(ctx, c) }},
		{Name: "hook", Do: func(ctx context.Context) error { return t.adjustSpec(ctx, c) }, Undo: func(ctx context.Context) error { t.tellContainer(ctx, TurnRemove, c); return nil }},
		{Name: "shim", Do: func(ctx context.Context) error { return t.createInShim(ctx, c) }, Undo: func(ctx context.Context) error { return t.deleteFromShim(ctx, c.pod, c.id) }},
		{Name: "commit", Do: func(context.Context) error {
			return t.setContainer(c, func(r *containerRecord) { r.Phase = phaseCreated })
		}},
	}})
}

func (t *Table) makeBundle(c *container) error {
	if err := makePrivate(t.bundle(c.id), t.userns(c.pod)); err != nil {
		return err
	}
	return os.MkdirAll(t.rootfs(c.id), 0o711)
}

// removeBundle removes the bundle after what is mounted in it.
func (t *Table) removeBundle(c *container) error {
	if err := t.unmountRoot(c); err != nil {
		return err
	}
	return removeTree(t.bundle(c.id))
}

func (t *Table) resolveImage(ctx context.Context, c *container) error {
	cfg := &c.rec.Config
	img, err := t.imageOf(ctx, c)
	if err != nil {
		return err
	}
	if img.Artifact != "" {
		return errkind.New(errkind.InvalidArgument, "image %s is an artifact (%s) and has no program to run; mount it as an image volume", cfg.Image, img.Artifact)
	}
	volumes, err := t.resolveVolumeImages(ctx, cfg)
	if err != nil {
		return err
	}
	log, err := logPath(c.pod.config.LogDirectory, cfg.LogPath)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rec.Image, c.rec.VolumeImages, c.rec.LogPath, c.rec.StopSignal = *img, volumes, log, "SIGTERM"
	for _, s := range []string{img.StopSignal, cfg.StopSignal} {
		if s == "" {
			continue
		}
		name, err := signalName(s)
		if err != nil {
			return err
		}
		c.rec.StopSignal = name
	}
	return nil
}

// logPath joins the pod's log directory and the container's path, which must
// stay inside (a log path that climbed out was CVE-2025-0750).
func logPath(dir, path string) (string, error) {
	if dir == "" || path == "" {
		return "", nil
	}
	if !filepath.IsLocal(path) {
		return "", errkind.New(errkind.InvalidArgument, "log path %q leaves the pod's log directory", path)
	}
	return filepath.Join(dir, path), nil
}

// resolveUser decides the identity of the container's first process.
func (t *Table) resolveUser(c *container) (spec.User, error) {
	return t.lookUpUser(c, &c.rec.Config.Security, c.record().Image.User)
}

// lookUpUser reads the image's accounts through a handle on its root.
func (t *Table) lookUpUser(c *container, sec *spec.Security, imageUser string) (spec.User, error) {
	var files [2]*os.File
	for i, path := range []string{"/etc/passwd", "/etc/group"} {
		f, err := inroot.Open(t.rootfs(c.id), path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		} else if err != nil {
			return spec.User{}, err
		}
		defer func() { _ = f.Close() }()
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
			return spec.User{}, errkind.New(errkind.InvalidArgument, "%s of image %s is not a regular file", path, c.rec.Image.Name)
		}
		files[i] = f
	}
	return spec.ResolveUser(sec, imageUser, reader(files[0]), reader(files[1]))
}

// writeSpec resolves everything that needs the root file system and writes
// the OCI spec into the bundle.
func (t *Table) writeSpec(ctx context.Context, c *container) error {
	user, err := t.resolveUser(c)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.rec.User = user
	c.mu.Unlock()
	in, err := t.specInput(ctx, c)
	if err != nil {
		return err
	}
	oci, err := spec.Build(*in)
	if err != nil {
		return err
	}
	if err := t.cfg.CDI.Inject(oci, c.record().Config.CDIDevices); err != nil {
		return err
	}
	return putSpec(t.bundle(c.id), oci)
}

func (t *Table) createInShim(ctx context.Context, c *container) error {
	shim, err := t.shims.client(ctx, c.pod)
	if err != nil {
		return err
	}
	created, err := shim.Create(ctx, t.shimCreate(c))
	if err != nil {
		return err
	}
	// The PID namespace was named by a process, which may have ended since, and
	// its number may be another's by now: then what was joined is not known.
	if _, err := t.containerNamespaces(c); err != nil {
		return err
	}
	c.mu.Lock()
	c.rec.StartError = created.Unstartable
	c.rec.Process = pidfd.Process{Pid: created.Pid, StartTime: created.StartTime}
	c.console = created.Console
	c.mu.Unlock()
	c.hold(t.bundle(c.id))
	return nil
}

// shimCreate describes the container to a shim.
func (t *Table) shimCreate(c *container) shimrpc.Create {
	rec := c.record()
	uid, gid := t.hostIDs(c.pod, rec.User.UID, rec.User.GID)
	return shimrpc.Create{ID: c.id, PodID: c.pod.id, Bundle: t.bundle(c.id), Root: t.libcontainerRoot(), LogPath: rec.LogPath,
		TTY: rec.Config.TTY, Stdin: rec.Config.Stdin, StdinOnce: rec.Config.StdinOnce, SystemdCgroup: t.cfg.SystemdCgroup,
		UID: uid, GID: gid}
}

// hold opens the container's FIFOs and its pidfd a second time, so that neither
// unread bytes nor the exit status go with a shim that dies, and stdin does not
// end with it. A pty has no name to open again: its master comes with the shim's answer to create, or
// from a shim that outlived the former daemon, and is lost if both die together.
func (c *container) hold(bundle string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range []string{"stdout", "stderr"} {
		fd, err := unix.Open(filepath.Join(bundle, name), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil { // a terminal has no FIFOs
			c.held = append(c.held, os.NewFile(uintptr(fd), name))
		}
	}
	// Not for reading: whoever attaches wants to know whether somebody does.
	fd, err := unix.Open(filepath.Join(bundle, shimrpc.StdinFile), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil { // it may have ended
		c.stdin = os.NewFile(uintptr(fd), shimrpc.StdinFile)
	}
	if f, err := c.rec.Process.Open(); err == nil {
		c.pidfd = f
	}
}

// holdConsole gets the pty's master from the shim, for a daemon that did not
// make the container itself.
func (t *Table) holdConsole(ctx context.Context, shim *shimrpc.Client, id string) error {
	c, err := t.findContainer(ViewAll, id)
	if err != nil {
		return err
	}
	f, err := shim.Console(ctx, id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.console != nil {
		return f.Close()
	}
	c.console = f
	return nil
}

// endStdin lets the container read the end of its stdin, once nobody who is
// attached writes to it.
func (c *container) endStdin(ctx context.Context, shim *shimrpc.Client) error {
	c.mu.Lock()
	_ = c.stdin.Close() // nil where there is none
	c.stdin = nil
	c.mu.Unlock()
	return shim.EndStdin(ctx, c.id)
}

// release closes what hold opened.
func (c *container) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range append(c.held, c.stdin, c.pidfd, c.console) {
		_ = f.Close() // nil where there is none
	}
	c.held, c.stdin, c.pidfd, c.console = nil, nil, nil, nil
}
