package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/checkpoint"
	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/steps"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// restoration is a pod being made from a checkpoint. Its methods do nothing for
// a pod that is not, which has none.
type restoration struct {
	dir     string           // of the checkpoint; the client's
	index   checkpoint.Pod   // what it says of itself, sealed
	configs []spec.Container // in the client's order
	made    []*container     // of configs, as far as they have been begun; of the goroutine that makes the pod
}

// Restored is a container of RestorePod.
type Restored struct {
	Name string // of its metadata
	ID   string
}

// RestorePod makes a pod and all containers of the checkpoint in the directory
// dir, which CheckpointPod of a node with the same key has written; anything else
// is errkind.InvalidArgument, and CRIU never sees it. The containers are created,
// and each Start brings one's processes back. They are matched by name with
// configs, which must ask for what the processes had: see spec.CheckRestorable.
// Of what they changed, the root file systems come back, volumes and shared memory
// do not, and TCP connections are found closed.
//
// A caller that goes away undoes it, as does every failure; a pod of that name
// and attempt is errkind.AlreadyExists.
func (t *Table) RestorePod(ctx context.Context, v View, dir string, cfg spec.Pod, configs []spec.Container, options map[string]string) (id string, made []Restored, err error) {
	name := cfg.Metadata.Namespace + "/" + cfg.Metadata.Name
	r, err := t.openCheckpoint(ctx, dir, configs, options)
	if err != nil {
		return "", nil, fmt.Errorf("cannot restore pod %s: %w", name, err)
	}
	p, joined, _, err := t.beginPod(ctx, v, cfg, r, func(own context.Context, p *Pod) {
		own, cancel := context.WithCancelCause(own)
		defer cancel(nil)
		defer context.AfterFunc(ctx, func() { cancel(ctx.Err()) })()
		t.run(own, p)
	})
	if err != nil {
		return "", nil, err
	}
	if joined {
		return "", nil, errkind.New(errkind.AlreadyExists, "cannot restore pod %s (attempt %d): it exists: %s", name, cfg.Metadata.Attempt, p.id)
	}
	<-p.told
	if p.err != nil && ctx.Err() != nil {
		return "", nil, errkind.New(errkind.Of(ctx.Err()), "its time is over, or the caller has gone: %w", p.err)
	}
	if p.err != nil {
		return "", nil, p.err
	}
	for _, c := range r.made {
		made = append(made, Restored{Name: c.record().Config.Metadata.Name, ID: c.id})
	}
	return p.id, made, nil
}

// openCheckpoint checks all of a restore that needs no effect.
func (t *Table) openCheckpoint(ctx context.Context, dir string, configs []spec.Container, options map[string]string) (*restoration, error) {
	if len(options) > 0 {
		return nil, errkind.New(errkind.InvalidArgument, "option %q is not known, there are none", slices.Sorted(maps.Keys(options))[0])
	}
	if !filepath.IsAbs(dir) {
		return nil, errkind.New(errkind.InvalidArgument, "the checkpoint's %q is not an absolute path", dir)
	}
	for _, cfg := range configs {
		if err := checkResources(cfg.Resources); err != nil {
			return nil, fmt.Errorf("container %s: %w", cfg.Metadata.Name, err)
		}
	}
	if _, err := t.criu(ctx); err != nil {
		return nil, err
	}
	key, err := t.checkpointKey()
	if err != nil {
		return nil, err
	}
	index, err := checkpoint.Open(dir, key)
	if err != nil {
		return nil, fmt.Errorf("the checkpoint %s: %w", dir, err)
	}
	r := &restoration{dir: dir, index: index, configs: configs}
	names := map[string]bool{}
	for _, cfg := range configs {
		name := cfg.Metadata.Name
		if r.saved(name) == nil || names[name] {
			return nil, errkind.New(errkind.InvalidArgument, "container %q is not in the checkpoint, or is asked for twice", name)
		}
		names[name] = true
	}
	for _, c := range index.Containers {
		if !names[c.Name] {
			return nil, errkind.New(errkind.InvalidArgument, "container %q is in the checkpoint and is not asked for", c.Name)
		}
	}
	return r, nil
}

// saved finds what the checkpoint has of the container name, or nil.
func (r *restoration) saved(name string) *checkpoint.PodContainer {
	i := slices.IndexFunc(r.index.Containers, func(c checkpoint.PodContainer) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &r.index.Containers[i]
}

// containers are those that have been made with the pod.
func (r *restoration) containers() []*container {
	if r == nil {
		return nil
	}
	return r.made
}

// finish makes the pod show, and its containers with it.
func (r *restoration) finish(p *Pod) {
	close(p.made)
	for _, c := range r.containers() {
		close(c.made)
	}
}

// told lets those hear who wait for the containers.
func (r *restoration) told() {
	for _, c := range r.containers() {
		close(c.told)
	}
}

// tellRestored tells hooks of the containers that have been made with the pod.
func (t *Table) tellRestored(ctx context.Context, p *Pod) {
	for _, c := range p.restore.containers() {
		c.op.Lock()
		t.tellContainer(ctx, TurnCreated, c)
		c.op.Unlock()
	}
}

// withRestore adds to the plan of a pod what RestorePod does besides.
func (t *Table) withRestore(p *Pod, plan steps.Plan) steps.Plan {
	if p.restore == nil {
		return plan
	}
	plan.Verb = "pod.restore"
	remove := func(context.Context) error { return os.RemoveAll(t.checkpointDir(p.id)) }
	plan.Steps = insertAfter(plan.Steps, "record", steps.Step{Name: "archives", Do: func(ctx context.Context) error { return t.unpackArchives(ctx, p) }, Undo: remove})
	plan.Steps = insertAfter(plan.Steps, "hook",
		steps.Step{Name: "containers", Do: func(ctx context.Context) error { return t.restoreContainers(ctx, p) }, Undo: func(ctx context.Context) error { return t.undoContainers(ctx, p) }},
		steps.Step{Name: "clean", Do: remove})
	return plan
}

// withSaved adds to the plan of a container what one of a checkpoint needs.
func (t *Table) withSaved(c *container, plan steps.Plan) steps.Plan {
	if c.saved == nil {
		return plan
	}
	plan.Verb = "container.restore"
	plan.Steps = insertAfter(plan.Steps, "snapshot", steps.Step{Name: "changes", Do: func(ctx context.Context) error { return t.applyChanges(ctx, c) }})
	plan.Steps = insertAfter(plan.Steps, "hook", steps.Step{Name: "compare", Do: func(context.Context) error { return t.takeSaved(c) }})
	return plan
}

// insertAfter puts more steps after the one with that name.
func insertAfter(all []steps.Step, name string, more ...steps.Step) []steps.Step {
	at := slices.IndexFunc(all, func(s steps.Step) bool { return s.Name == name })
	return slices.Insert(all, at+1, more...)
}

// unpackArchives unpacks the checkpoints of the containers, each into the
// directory of its name in the archive's place in the index.
func (t *Table) unpackArchives(ctx context.Context, p *Pod) error {
	if err := os.MkdirAll(t.checkpointDir(p.id), 0o700); err != nil {
		return err
	}
	for i := range p.restore.index.Containers {
		c := &p.restore.index.Containers[i]
		if err := c.Unpack(ctx, p.restore.dir, t.unpacked(p, c)); err != nil {
			return err
		}
	}
	return nil
}

// unpacked is where the checkpoint of a container is unpacked, until it is the
// container's own.
func (t *Table) unpacked(p *Pod, c *checkpoint.PodContainer) string {
	return filepath.Join(t.checkpointDir(p.id), strings.TrimSuffix(c.Archive, ".tar"))
}

// restoreContainers makes the containers of a pod that is not shown yet.
func (t *Table) restoreContainers(ctx context.Context, p *Pod) error {
	for _, cfg := range p.restore.configs {
		id := newID()
		c := &container{id: id, pod: p, saved: p.restore.saved(cfg.Metadata.Name), made: make(chan struct{}), told: make(chan struct{}), exited: make(chan struct{}),
			rec: t.newRecord(p, id, cfg)}
		c.rec.Restore = true
		c.quiet.release = func() {} // the pod's hold is theirs too
		p.mu.Lock()
		p.containers[id], p.byName[cfg.Metadata] = c, c
		p.mu.Unlock()
		t.mu.Lock()
		t.containers[id] = c
		t.mu.Unlock()
		p.restore.made = append(p.restore.made, c)
		c.op.Lock()
		_, err := t.createPlan(c).Run(ctx) // what it could not undo is undone below
		c.op.Unlock()
		if err != nil {
			return fmt.Errorf("container %s: %w", cfg.Metadata.Name, err)
		}
	}
	return nil
}

// undoContainers undoes restoreContainers.
func (t *Table) undoContainers(ctx context.Context, p *Pod) error {
	var errs []error
	for _, c := range slices.Backward(slices.Clone(p.restore.made)) {
		if err := t.undoCreate(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", c.id, err))
			t.settleLost(ctx, c)
			continue
		}
		t.forgetContainer(c)
		p.restore.made = slices.DeleteFunc(p.restore.made, func(made *container) bool { return made == c })
	}
	return errors.Join(errs...)
}

// undoCreate undoes the making of a container, also of one that was made.
func (t *Table) undoCreate(ctx context.Context, c *container) error {
	c.op.Lock()
	defer c.op.Unlock()
	c.mu.Lock()
	c.rec.Phase = phaseCreating // so that the end of its process is nobody's exit
	c.mu.Unlock()
	return t.createPlan(c).Undo(ctx)
}

// applyChanges gives the container's writable layer what the one that was saved
// had changed.
func (t *Table) applyChanges(ctx context.Context, c *container) error {
	if is := c.record().Image.ID; is != c.saved.ImageID {
		return errkind.New(errkind.FailedPrecondition, "it was saved on image %s and is to be restored on %s", c.saved.ImageID, is)
	}
	f, err := os.OpenFile(filepath.Join(t.unpacked(c.pod, c.saved), checkpoint.RootfsDiffFile), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return errkind.New(errkind.InvalidArgument, "its checkpoint has no %s", checkpoint.RootfsDiffFile)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return t.cfg.Checkpoint.Diffs.ApplyDiff(ctx, c.id, f)
}

// takeSaved compares what was saved with what is asked for, and makes the
// checkpoint the container's own.
func (t *Table) takeSaved(c *container) error {
	dir, rec := t.unpacked(c.pod, c.saved), c.record()
	saved := &specs.Spec{}
	if err := checkpoint.Get(dir, checkpoint.SpecFile, saved); err != nil {
		return err
	}
	now, err := t.readSpec(c.id)
	if err != nil {
		return err
	}
	if err := spec.CheckRestorable(saved, now); err != nil {
		return err
	}
	fifos, err := readStdio(dir)
	if err != nil {
		return err
	}
	if _, stdin := fifos[shimrpc.StdinFile]; stdin && !rec.Config.Stdin {
		return errkind.New(errkind.FailedPrecondition, "what was saved reads its stdin, and it asks for none")
	}
	if err := os.MkdirAll(t.volumeDir(c.id), 0o700); err != nil {
		return err
	}
	return os.Rename(dir, t.savedDir(c.id))
}

// criuFile is how CRIU names an open file of another mount namespace.
var criuFile = regexp.MustCompile(`^file\[[0-9a-f]{1,16}:[0-9a-f]{1,16}\]$`)

// readStdio reads what an unpacked checkpoint says of its FIFOs.
func readStdio(dir string) (checkpoint.Stdio, error) {
	var fifos checkpoint.Stdio
	if err := checkpoint.Get(dir, checkpoint.StdioFile, &fifos); err != nil {
		return nil, err
	}
	for fifo, name := range fifos {
		if !slices.Contains(stdioFiles, fifo) || !criuFile.MatchString(name) {
			return nil, errkind.New(errkind.InvalidArgument, "%s: %.100q is no FIFO of stdio, or %.100q not one's name", checkpoint.StdioFile, fifo, name)
		}
	}
	return fifos, nil
}

// restoreLog is CRIU's log of a restore, in the container's savedDir.
const restoreLog = "restore.log"

// revive brings back the processes of a created container's checkpoint. It may
// be called again after a crash. The caller holds c.op.
func (t *Table) revive(ctx context.Context, c *container) error {
	program, err := t.criu(ctx)
	if err != nil {
		return err
	}
	shim, err := t.shims.client(ctx, c.pod)
	if err != nil {
		return err
	}
	args, files, err := t.restoreArgs(c, program)
	defer shimrpc.CloseAll(files)
	if err != nil {
		return err
	}
	pidFile := filepath.Join(t.savedDir(c.id), "pid")
	if err := removeFile(pidFile); err != nil {
		return err
	}
	started, err := shim.Restore(ctx, c.id, shimrpc.Restore{Args: append(args, "--pidfile", pidFile), PidFile: pidFile, Timeout: int(checkpointTime / time.Second)}, files)
	if err != nil {
		if why := reasonIn(filepath.Join(t.savedDir(c.id), restoreLog), nil); why != "" {
			err = fmt.Errorf("%w: %s", err, why)
		}
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := (pidfd.Process{Pid: started.Pid, StartTime: started.StartTime}); p != c.rec.Process {
		_ = c.pidfd.Close() // nil where there is none
		c.rec.Process, c.pidfd = p, nil
		if f, err := p.Open(); err == nil {
			c.pidfd = f
		} else {
			klog.FromContext(ctx).Error(err, "Cannot hold a restored process", "container", c.id)
		}
	}
	return nil
}

// restoreArgs is the command line that restores a container, and the files that
// its processes get from outside, from descriptor 3 on. What dump named to CRIU
// is named again, with what this node has for it.
func (t *Table) restoreArgs(c *container, program string) (args []string, files []*os.File, err error) {
	dir := t.savedDir(c.id)
	args = []string{program, "restore", "--no-default-config", "--restore-detached", "--restore-sibling",
		"--images-dir", filepath.Join(dir, checkpoint.ImagesDir), "--work-dir", dir, "--log-file", restoreLog, "-v4",
		"--root", t.rootfs(c.id), "--manage-cgroups=ignore", "--file-locks", "--tcp-close"}
	pass := func(path string, flags int, name string) error {
		f, err := openBlocking(path, flags)
		if err != nil {
			return err
		}
		args = append(args, "--inherit-fd", "fd["+strconv.Itoa(3+len(files))+"]:"+name)
		files = append(files, f)
		return nil
	}
	fifos, err := readStdio(dir)
	if err != nil {
		return nil, files, err
	}
	for _, fifo := range slices.Sorted(maps.Keys(fifos)) {
		flags := unix.O_RDWR // so that a write never meets a FIFO without a reader
		if fifo == shimrpc.StdinFile {
			flags = unix.O_RDONLY // so that it reads an end
		}
		if err := pass(filepath.Join(t.bundle(c.id), fifo), flags, fifos[fifo]); err != nil {
			return nil, files, err
		}
	}
	oci, err := t.readSpec(c.id)
	if err != nil {
		return nil, files, err
	}
	for _, ns := range oci.Linux.Namespaces {
		switch {
		case ns.Path == "":
		case ns.Type == specs.NetworkNamespace:
			if err := pass(ns.Path, unix.O_RDONLY, "extRootNetNS"); err != nil {
				return nil, files, err
			}
		default:
			args = append(args, "--join-ns", string(ns.Type)+":"+ns.Path)
		}
	}
	for _, m := range oci.Mounts {
		if isBind(m) {
			args = append(args, "--external", "mnt["+m.Destination+"]:"+m.Source)
		}
	}
	return args, files, nil
}

// openBlocking opens a file whose descriptor a container's process gets: its
// flags are the file's from then on. A FIFO's open does not wait for a writer.
func openBlocking(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
