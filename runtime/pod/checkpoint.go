package pod

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/checkpoint"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/steps"
	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// CheckpointConfig is what checkpoints need.
type CheckpointConfig struct {
	CRIU  string // the program, a path or a name on PATH; empty: there are none
	Key   string // file of the key that vouches for them; empty: one in Root, made when it is needed
	Diffs Diffs
}

// Diffs is what checkpoints need of the image store. cmd/berthd gives it.
type Diffs interface {
	// WriteDiff writes what a container, which stands still, has changed in
	// its root file system, as the tar of a layer.
	WriteDiff(ctx context.Context, containerID string, w io.Writer) error
	// ApplyDiff makes what WriteDiff wrote the changes of another container of
	// the same image, which has none and is not mounted yet.
	ApplyDiff(ctx context.Context, containerID string, r io.Reader) error
}

// checkpointTime bounds a checkpoint for which nobody named a time: as long as
// the kubelet waits at least.
const checkpointTime = 2 * time.Minute

// saved is one container of a checkpoint under way.
type saved struct {
	c     *container
	dir   string // of its checkpoint; ours
	file  string // of its archive, while it is written
	oci   *specs.Spec
	stdio checkpoint.Stdio
	size  int64  // of the archive, once it is written
	sum   string // its SHA-256, in hex
}

// CheckpointContainer writes an archive of a running container to the absolute
// path location, replacing what is there once the archive is whole. The container
// stands still meanwhile and then goes on, whatever became of the archive. It
// takes timeout at most, two minutes for zero. Where CRIU is off, absent or
// does not work, it is errkind.Unimplemented.
func (t *Table) CheckpointContainer(ctx context.Context, v View, id, location string, timeout time.Duration) error {
	if timeout < 0 {
		return errkind.New(errkind.InvalidArgument, "cannot checkpoint container %s: its time of %s is negative", id, timeout)
	}
	if !filepath.IsAbs(location) || filepath.Clean(location) != location {
		return errkind.New(errkind.InvalidArgument, "cannot checkpoint container %s to %q: not an absolute, plain path of a file", id, location)
	}
	c, err := t.findContainer(v, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(timeout, checkpointTime))
	defer cancel()
	program, err := t.criu(ctx)
	if err != nil {
		return fmt.Errorf("cannot checkpoint container %s: %w", c.id, err)
	}
	file := filepath.Join(filepath.Dir(location), "."+filepath.Base(location)+"."+c.id[:12])
	s := &saved{c: c, dir: t.checkpointDir(c.id), file: file}
	finish := steps.Step{Name: "publish", Do: func(context.Context) error {
		if err := os.Rename(file, location); err != nil {
			return err
		}
		return atomicfile.SyncDir(filepath.Dir(location))
	}}
	err = t.attended(ctx, func(ctx context.Context) error {
		c.op.Lock()
		defer c.op.Unlock()
		_, err := t.checkpointPlan("container.checkpoint", program, []*saved{s}, finish).Run(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot checkpoint container %s: %w", c.id, err)
	}
	return nil
}

// CheckpointPod writes the checkpoint of a pod into the empty directory dir:
// an archive of each of the containers ids, which must be exactly those that
// run, and a sealed description of the pod. All of them stand still before the first
// is saved and until the last one is. No options are known, and one that is
// not is refused. After an error the directory is empty again.
func (t *Table) CheckpointPod(ctx context.Context, v View, id, dir string, ids []string, options map[string]string) error {
	p, err := t.findPod(v, id)
	if err != nil {
		return err
	}
	if len(options) > 0 {
		return errkind.New(errkind.InvalidArgument, "cannot checkpoint pod %s: option %q is not known, there are none", p.id, slices.Sorted(maps.Keys(options))[0])
	}
	if err := emptyDirectory(dir); err != nil {
		return fmt.Errorf("cannot checkpoint pod %s: %w", p.id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, untilDeadline(ctx))
	defer cancel()
	program, err := t.criu(ctx)
	if err != nil {
		return fmt.Errorf("cannot checkpoint pod %s: %w", p.id, err)
	}
	key, err := t.checkpointKey()
	if err != nil {
		return fmt.Errorf("cannot checkpoint pod %s: %w", p.id, err)
	}
	err = t.attended(ctx, func(ctx context.Context) error {
		all, err := t.selected(p, dir, ids)
		if err != nil {
			return err
		}
		for _, s := range all { // by id, as everybody who takes several does
			s.c.op.Lock()
			defer s.c.op.Unlock()
		}
		if err := runsExactly(p, all); err != nil { // now that nothing starts any more
			return err
		}
		index, seal := filepath.Join(dir, checkpoint.PodFile), filepath.Join(dir, checkpoint.SealFile)
		finish := steps.Step{Name: "publish", Do: func(context.Context) error {
			if err := checkpoint.Seal(dir, podCheckpoint(p, all), key); err != nil {
				return err
			}
			return atomicfile.SyncDir(dir)
		}, Undo: func(context.Context) error { return errors.Join(removeFile(index), removeFile(seal)) }}
		_, err = t.checkpointPlan("pod.checkpoint", program, all, finish, index, seal).Run(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot checkpoint pod %s: %w", p.id, err)
	}
	return nil
}

// checkpointKey is the key that vouches for checkpoints of pods.
func (t *Table) checkpointKey() (checkpoint.Key, error) {
	if path := t.cfg.Checkpoint.Key; path != "" {
		return checkpoint.LoadKey(path, false)
	}
	t.criuMu.Lock() // or two would make it
	defer t.criuMu.Unlock()
	return checkpoint.LoadKey(filepath.Join(t.cfg.Root, "checkpoint.key"), true)
}

// untilDeadline is how long a caller waits, or else checkpointTime.
func untilDeadline(ctx context.Context) time.Duration {
	if at, ok := ctx.Deadline(); ok {
		return time.Until(at)
	}
	return checkpointTime
}

func emptyDirectory(dir string) error {
	if !filepath.IsAbs(dir) {
		return errkind.New(errkind.InvalidArgument, "%q is not an absolute path", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errkind.New(errkind.InvalidArgument, "%q cannot be read as a directory: %w", dir, err)
	}
	if len(entries) > 0 {
		return errkind.New(errkind.InvalidArgument, "the directory %s is not empty", dir)
	}
	return nil
}

// selected finds the containers of ids, by id, for a checkpoint in dir.
func (t *Table) selected(p *Pod, dir string, ids []string) ([]*saved, error) {
	if len(ids) == 0 {
		return nil, errkind.New(errkind.InvalidArgument, "no containers are named")
	}
	var all []*saved
	for _, id := range slices.Sorted(slices.Values(ids)) {
		c, err := t.findContainer(ViewAll, id)
		if err != nil {
			return nil, err
		}
		switch {
		case c.pod != p:
			return nil, errkind.New(errkind.InvalidArgument, "container %s is of another pod", id)
		case slices.ContainsFunc(all, func(s *saved) bool { return s.c == c }):
			return nil, errkind.New(errkind.InvalidArgument, "container %s is named twice", id)
		}
		all = append(all, &saved{c: c, dir: t.checkpointDir(c.id), file: filepath.Join(dir, c.id+".tar")})
	}
	return all, nil
}

// runsExactly tells whether all are the containers of the pod that run.
func runsExactly(p *Pod, all []*saved) error {
	for _, c := range p.members() {
		named := slices.ContainsFunc(all, func(s *saved) bool { return s.c == c })
		if runs := c.record().Phase == phaseRunning; runs && !named {
			return errkind.New(errkind.FailedPrecondition, "container %s runs and is not named", c.id)
		}
	}
	return nil
}

func podCheckpoint(p *Pod, all []*saved) checkpoint.Pod {
	meta := p.config.Metadata
	out := checkpoint.Pod{Version: checkpoint.Version, ID: p.id, Name: meta.Name, Namespace: meta.Namespace, UID: meta.UID, Handler: p.config.RuntimeHandler, At: time.Now()}
	for _, s := range all {
		rec := s.c.record()
		out.Containers = append(out.Containers, checkpoint.PodContainer{Name: rec.Config.Metadata.Name, ID: s.c.id, ImageID: rec.Image.ID,
			Archive: filepath.Base(s.file), Size: s.size, SHA256: s.sum})
	}
	slices.SortFunc(out.Containers, func(a, b checkpoint.PodContainer) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// attended runs f like detached does, but ends it when the caller has gone, and
// waits for its end: when a checkpoint has been answered nothing stands still.
func (t *Table) attended(ctx context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	ok := t.goBackground(ctx, func(own context.Context) {
		own, cancel := context.WithCancelCause(own)
		defer cancel(nil)
		defer context.AfterFunc(ctx, func() { cancel(ctx.Err()) })()
		done <- f(own)
	})
	if !ok {
		return ending()
	}
	err := <-done
	if err != nil && ctx.Err() != nil {
		return errkind.New(errkind.Of(ctx.Err()), "its time is over, or the caller has gone: %w", err)
	}
	return err
}

// checkpointPlan is the table of CheckpointContainer and CheckpointPod, which
// finish differently: by making the files more. The caller holds the op of
// every container.
func (t *Table) checkpointPlan(verb, program string, all []*saved, finish steps.Step, more ...string) steps.Plan {
	// Each record tells of all of it: what is not whole is to go altogether.
	made := more
	for _, s := range all {
		made = append(made, s.dir, s.file)
	}
	each := func(f func(context.Context, *saved) error) func(context.Context) error {
		return func(ctx context.Context) error {
			for _, s := range all {
				if err := f(ctx, s); err != nil {
					return err
				}
			}
			return nil
		}
	}
	undo := func(f func(*saved) error) func(context.Context) error {
		return func(context.Context) error {
			var errs []error
			for _, s := range all {
				errs = append(errs, f(s))
			}
			return errors.Join(errs...)
		}
	}
	thaw := undo(func(s *saved) error { return cgroup.Unfreeze(t.group(s.c)) })
	unmark := undo(func(s *saved) error { return t.markCheckpoint(s.c) })
	clean := undo(func(s *saved) error { return os.RemoveAll(s.dir) })
	return steps.Plan{Verb: verb, Observe: t.cfg.Observe, Steps: []steps.Step{
		{Name: "able", Do: each(func(_ context.Context, s *saved) error { return t.checkpointable(s) })},
		{Name: "record", Do: each(func(_ context.Context, s *saved) error { return t.markCheckpoint(s.c, made...) }), Undo: unmark},
		{Name: "directory", Do: each(func(_ context.Context, s *saved) error { return makeCheckpointDir(s.dir) }), Undo: clean},
		{Name: "freeze", Do: each(func(ctx context.Context, s *saved) error { return cgroup.Freeze(ctx, t.group(s.c)) }), Undo: thaw},
		{Name: "dump", Do: each(func(ctx context.Context, s *saved) error { return t.save(ctx, program, s) })},
		{Name: "thaw", Do: thaw},
		{Name: "archive", Do: each(writeArchive), Undo: undo(func(s *saved) error { return removeFile(s.file) })},
		finish,
		{Name: "clean", Do: clean},
		{Name: "commit", Do: unmark},
	}}
}

// markCheckpoint records what a checkpoint of the container makes, for a daemon
// that comes after a crash; nothing: there is none.
func (t *Table) markCheckpoint(c *container, paths ...string) error {
	return t.setContainer(c, func(r *containerRecord) { r.Checkpoint = paths })
}

// checkpointDir is where the checkpoint of a container is put together, and
// those of a pod's containers unpacked: below root, since it is as large as their
// memory.
func (t *Table) checkpointDir(id string) string { return filepath.Join(t.cfg.Root, "checkpoints", id) }

// group is the path of a container's cgroup.
func (t *Table) group(c *container) string {
	_, path := t.cgroup(c.pod.config.CgroupParent, c.id)
	return path
}

// checkpointable refuses what CRIU cannot save, or nobody could restore.
func (t *Table) checkpointable(s *saved) error {
	rec := s.c.record()
	if rec.Phase != phaseRunning || !rec.Process.Alive() {
		return errkind.New(errkind.FailedPrecondition, "container %s is %s, not running", s.c.id, rec.Phase)
	}
	if rec.Paused { // it would go on afterwards
		return errkind.New(errkind.FailedPrecondition, "container %s is paused", s.c.id)
	}
	oci, err := t.readSpec(s.c.id)
	if err != nil {
		return err
	}
	s.oci = oci
	no := func(why string) error {
		return errkind.New(errkind.FailedPrecondition, "container %s %s, which cannot be saved", s.c.id, why)
	}
	switch {
	case rec.Config.Security.Namespaces.PID != spec.ModeContainer:
		return no("has no PID namespace of its own")
	case t.userns(s.c.pod) != nil:
		return no("is in a user namespace")
	case rec.Config.TTY:
		return no("has a terminal")
	case oci.Hooks != nil:
		return no("has hooks of CDI devices or plugins")
	}
	return nil
}

func makeCheckpointDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil { // of a checkpoint that could not be undone
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Mkdir(filepath.Join(dir, checkpoint.ImagesDir), 0o700)
}

// save fills the directory of a container's checkpoint. The container is frozen.
func (t *Table) save(ctx context.Context, program string, s *saved) error {
	rec := s.c.record()
	pids, err := cgroup.Procs(t.group(s.c))
	if err != nil {
		return err
	}
	stdio, first, err := findStdio(rec.Process.Pid, pids, t.bundle(s.c.id))
	if err != nil {
		return err
	}
	s.stdio = stdio
	if err := t.dump(ctx, program, s); err != nil {
		return err
	}
	meta := checkpoint.Config{ID: s.c.id, Name: rec.Config.Metadata.Name, Image: rec.Config.Image, ImageRef: rec.Image.Ref, ImageName: rec.Image.Name,
		Runtime: "berth", CreatedAt: rec.CreatedAt, CheckpointAt: time.Now(), PodID: rec.PodID, ContainerName: rec.Config.Metadata.Name, Attempt: rec.Config.Metadata.Attempt}
	status := checkpoint.Status{CreatedAt: rec.CreatedAt.UnixNano(), StartedAt: rec.StartedAt.UnixNano(), Pid: uint32(rec.Process.Pid)}
	for name, v := range map[string]any{
		checkpoint.SpecFile: s.oci, checkpoint.ConfigFile: meta, checkpoint.StatusFile: status,
		checkpoint.BindMountsFile: bindMounts(s.oci), checkpoint.DescriptorsFile: first, checkpoint.StdioFile: stdio,
	} {
		if err := checkpoint.Put(s.dir, name, v); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(s.dir, checkpoint.RootfsDiffFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(t.cfg.Checkpoint.Diffs.WriteDiff(ctx, s.c.id, untilDone{ctx, f}), f.Close())
}

func bindMounts(oci *specs.Spec) []checkpoint.BindMount {
	out := []checkpoint.BindMount{}
	for _, m := range oci.Mounts {
		if m.Type != "bind" {
			continue
		}
		kind := "file"
		if st, err := os.Stat(m.Source); err == nil && st.IsDir() {
			kind = "directory"
		}
		out = append(out, checkpoint.BindMount{Source: m.Source, Destination: m.Destination, FileType: kind})
	}
	return out
}

// writeArchive writes the archive of a container's checkpoint, durably, to a
// file that must not be there yet.
func writeArchive(ctx context.Context, s *saved) (err error) {
	f, err := os.OpenFile(s.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	if err := checkpoint.Archive(ctx, untilDone{ctx, io.MultiWriter(f, sum)}, s.dir); err != nil {
		return err
	}
	s.sum = hex.EncodeToString(sum.Sum(nil))
	if s.size, err = f.Seek(0, io.SeekCurrent); err != nil {
		return err
	}
	return f.Sync()
}

// untilDone writes to w until ctx ends: in the middle of a file too, which may
// be as large as a container's memory.
type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u untilDone) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// recoverCheckpoints undoes the checkpoints during which a daemon was killed:
// what they froze goes on, what they wrote is removed.
func (t *Table) recoverCheckpoints(ctx context.Context) {
	for _, c := range t.all() {
		rec := c.record()
		if len(rec.Checkpoint) == 0 {
			continue
		}
		err := cgroup.Unfreeze(t.group(c))
		for _, path := range rec.Checkpoint {
			err = errors.Join(err, os.RemoveAll(path))
		}
		logged(ctx, "Cannot undo a checkpoint", errors.Join(err, t.markCheckpoint(c)))
	}
	logged(ctx, "Cannot remove checkpoints that nobody waits for", os.RemoveAll(filepath.Join(t.cfg.Root, "checkpoints")))
}

// strayCheckpoints lists the directories of checkpoints that are not under way.
func (t *Table) strayCheckpoints() []string {
	entries, err := os.ReadDir(filepath.Join(t.cfg.Root, "checkpoints"))
	if err != nil {
		return nil // there has been none yet
	}
	var out []string
	for _, e := range entries {
		t.mu.Lock()
		c, p := t.containers[e.Name()], t.pods[e.Name()]
		t.mu.Unlock()
		saving := c != nil && len(c.record().Checkpoint) > 0
		if restoring := p != nil && p.restore != nil && !p.finished(); !saving && !restoring {
			out = append(out, t.checkpointDir(e.Name()))
		}
	}
	return out
}
