package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// Recover brings the Table to where the records and the kernel say that the
// node is. It is called once, before any socket opens: it undoes what was half
// made, ends what was half stopped, adopts what runs, and reports what ended.
func (t *Table) Recover(ctx context.Context) error {
	if err := t.load(); err != nil {
		return err
	}
	for _, p := range t.pods {
		if rec := p.record(); rec.BootID == t.cfg.BootID && rec.Lease.PodID != "" && rec.Phase != phaseStopped {
			if err := t.cfg.Network.Restore(rec.Lease); err != nil {
				return fmt.Errorf("cannot restore the network lease of pod %s: %w", p.id, err)
			}
		}
	}
	t.publish()
	t.recoverCheckpoints(ctx)
	t.recoverContainers(ctx)
	t.recoverPods(ctx)
	if err := t.sweep(ctx); err != nil {
		return err
	}
	if err := t.cfg.Network.Repair(ctx); err != nil {
		// Host-network pods work all the same; Status tells why others do not.
		klog.FromContext(ctx).Error(err, "Cannot repair the network")
	}
	t.tellAllNeighbours(ctx)
	t.publish()
	t.armRepairs()
	return nil
}

// load reads the records. Nothing else runs yet, so no lock is needed.
func (t *Table) load() error {
	pods, broken, err := t.podRows.All()
	if err != nil {
		return err
	}
	containers, brokenToo, err := t.containerRows.All()
	if err != nil {
		return err
	}
	t.brokenRecords = slices.Concat(broken, brokenToo)
	for id, rec := range pods {
		if rec.ID != id || rec.Phase == "" {
			if err := t.setAside(t.podRows.SetAside, id); err != nil {
				return err
			}
			continue
		}
		t.addPod(id, rec)
	}
	for id, rec := range containers {
		if rec.ID != id || rec.Phase == "" || len(rec.PodID) != len(newID()) {
			if err := t.setAside(t.containerRows.SetAside, id); err != nil {
				return err
			}
			continue
		}
		p := t.pods[rec.PodID]
		if p == nil {
			// The pod's row was broken. Its containers can still be ended,
			// and whatever a pod may have can be looked for.
			p = t.addPod(rec.PodID, podRecord{ID: rec.PodID, BootID: rec.BootID, Phase: phaseStopping, Origin: OriginLocal,
				CreatedAt: rec.CreatedAt, Config: spec.Pod{Metadata: spec.PodMetadata{Name: "lost-" + rec.PodID[:12], UID: rec.PodID},
					Namespaces: spec.Namespaces{Network: spec.ModePod, PID: spec.ModePod, IPC: spec.ModePod}}})
		}
		c := &container{id: id, pod: p, made: make(chan struct{}), told: make(chan struct{}), exited: make(chan struct{}), rec: rec}
		close(c.made)
		close(c.told)
		if rec.Phase == phaseExited {
			c.markExited()
		}
		p.containers[id], p.byName[rec.Config.Metadata], t.containers[id] = c, c, c
	}
	return nil
}

// setAside keeps a row that can be read but cannot be used out of the way.
func (t *Table) setAside(aside func(id string) (string, error), id string) error {
	path, err := aside(id)
	t.brokenRecords = append(t.brokenRecords, "record "+id+" is not complete (kept as "+path+")")
	return err
}

func (t *Table) addPod(id string, rec podRecord) *Pod {
	if rec.ShimGroup == "" {
		rec.ShimGroup = t.cfg.Shim.Group
	}
	p := &Pod{id: id, key: podKey{meta: rec.Config.Metadata}, from: rec.Origin, group: rec.ShimGroup, config: &rec.Config, made: make(chan struct{}), told: make(chan struct{}), rec: rec,
		containers: map[string]*container{}, byName: map[spec.ContainerMetadata]*container{}}
	close(p.made)
	close(p.told)
	t.pods[id], t.byKey[p.key] = p, p
	return p
}

// recoverContainers undoes, adopts and settles. What fails is logged and left
// to the removal that the client will ask for: one container must not keep
// the daemon from starting.
func (t *Table) recoverContainers(ctx context.Context) {
	log := klog.FromContext(ctx)
	needed := map[string]bool{} // keys of the shims that have something alive
	for _, c := range t.all() {
		rec := c.record()
		switch {
		case rec.Phase == phaseCreating, c.pod.phase() == phaseCreating: // the pod was being restored
			if err := t.undoCreate(ctx, c); err != nil {
				log.Error(err, "Cannot undo a half-made container", "container", c.id)
				t.settleLost(ctx, c)
				continue
			}
			t.forgetContainer(c)
		case rec.Phase == phaseExited:
			// The crash may have come before the cgroup was removed.
			if err := t.freeExited(ctx, c); err != nil {
				log.Error(err, "Cannot free an exited container", "container", c.id)
			}
		case rec.BootID != t.cfg.BootID:
			t.settle(ctx, c)
		default:
			c.hold(t.bundle(c.id))
			needed[t.shims.key(c.pod)] = true
		}
	}
	for _, p := range t.pods {
		if rec := p.record(); rec.BootID == t.cfg.BootID && rec.Phase == phaseReady && sharesPIDs(&rec.Config) {
			needed[t.shims.key(p)] = true
		}
	}
	for key := range needed {
		logged(ctx, "Cannot bring up the shim", t.shims.ensure(ctx, key))
	}
	for _, c := range t.all() {
		t.recoverAlive(ctx, c)
	}
}

// recoverAlive finishes a start that was under way, and settles the exits that
// happened while no daemon ran.
func (t *Table) recoverAlive(ctx context.Context, c *container) {
	c.op.Lock()
	defer c.op.Unlock()
	rec := c.record()
	if rec.Phase == phaseExited || rec.BootID != t.cfg.BootID {
		return
	}
	if _, err := os.Stat(filepath.Join(t.bundle(c.id), shimrpc.ExitFile)); err == nil {
		t.settle(ctx, c)
		return
	}
	if rec.Phase == phaseStarting {
		logged(ctx, "Cannot finish a start", t.resumeStart(ctx, c))
		return
	}
	if !rec.Process.Alive() {
		t.nudge(c.id)
	} else if rec.Paused {
		logged(ctx, "Cannot pause a container again", t.freeze(ctx, c)) // a crash may have come before
	}
}

// resumeStart starts a container whose start was recorded. If the process had
// been let go before the crash, the shim says that it is not waiting any more.
func (t *Table) resumeStart(ctx context.Context, c *container) error {
	err := t.exec(ctx, c)
	alive := c.record().Process.Alive()
	switch {
	case err == nil, alive && errkind.Is(err, errkind.FailedPrecondition):
	case ctx.Err() != nil:
		return err // the next daemon tries
	case alive:
		// Nobody could ever start it: it would stay created for good.
		return errors.Join(err, t.failStart(ctx, c, err))
	default:
		t.settle(ctx, c)
		return err
	}
	return t.setRunning(ctx, c)
}

// settleLost keeps a container that could not be undone visible as exited.
func (t *Table) settleLost(ctx context.Context, c *container) {
	exit := &spec.Exit{Code: 128, At: time.Now(), Reason: "StartError", Message: "the daemon ended while the container was made"}
	t.setExited(ctx, c, exit)
}

// recoverPods undoes half-made pods, ends half-stopped ones, and stops those
// whose namespaces the reboot, or somebody, took away.
func (t *Table) recoverPods(ctx context.Context) {
	log := klog.FromContext(ctx)
	mounts, err := mount.Table()
	if err != nil {
		log.Error(err, "Cannot read the mount table")
	}
	mounted := map[string]bool{}
	for _, m := range mounts {
		mounted[m.Target] = true
	}
	pods := make([]*Pod, 0, len(t.pods))
	for _, p := range t.pods {
		pods = append(pods, p)
	}
	var all sync.WaitGroup
	slots := make(chan struct{}, recoverAtATime)
	inTurn := func(p *Pod, f func(context.Context, *Pod)) {
		all.Add(1)
		if !t.goBackground(ctx, func(ctx context.Context) {
			defer all.Done()
			slots <- struct{}{}
			defer func() { <-slots }()
			f(ctx, p)
		}) {
			all.Done()
		}
	}
	for _, p := range pods {
		rec := p.record()
		alive := rec.BootID == t.cfg.BootID && t.intact(p, mounted) && (!sharesPIDs(p.config) || rec.Init.Alive())
		switch {
		case rec.Phase == phaseCreating:
			inTurn(p, t.undoRun)
		case rec.Phase == phaseStopping, rec.Phase == phaseReady && !alive:
			if rec.Phase == phaseReady { // nobody takes it for one until its turn comes
				t.sinkPod(ctx, p, func(r *podRecord) { r.Phase = phaseStopping })
			}
			inTurn(p, func(ctx context.Context, p *Pod) { logged(ctx, "Cannot finish the stop of a pod", t.stopPod(ctx, p)) })
		}
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(recoverPatience):
		log.Info("Pods of before are still being ended, and that goes on")
	}
}

const (
	// recoverPatience is how long the daemon's start waits for pods to be ended:
	// after a reboot the plugins of a cluster's network may need what the kubelet
	// starts only once we answer, for each of many pods.
	recoverPatience = 10 * time.Second
	recoverAtATime  = 16 // pods that are ended, while others wait
)

// undoRun undoes a half-made pod.
func (t *Table) undoRun(ctx context.Context, p *Pod) {
	p.verbs.Lock()
	defer p.verbs.Unlock()
	if err := t.runPlan(p).Undo(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot undo a half-made pod; it is kept until a stop succeeds", "pod", p.id)
		t.sinkPod(ctx, p, func(r *podRecord) { r.Phase, r.Trouble = phaseStopping, newTrouble("run", err) })
		t.stopLater(p)
		return
	}
	t.forgetPod(p)
	t.publish()
}

// intact tells whether everything that the pod's containers would need is
// still there: the state directory may have been emptied.
func (t *Table) intact(p *Pod, mounted map[string]bool) bool {
	if hasNetns(p.config) && (!mounted[t.netns(p.id)] || !mounted[t.nsPath(p.id, "uts")]) {
		return false
	}
	if ns := t.userns(p); ns != nil && !mounted[ns.Path] {
		return false
	}
	if hasIPC(p.config) && (!mounted[t.nsPath(p.id, "ipc")] || !mounted[t.shmDir(p.id)]) {
		return false
	}
	_, err := os.Stat(t.podDir(p.id))
	return err == nil
}

// sweep removes what has no row: files that a crash left between an effect
// and its undoing, all below directories of our own or with our prefix.
func (t *Table) sweep(ctx context.Context) error {
	for _, path := range t.strayNamespaces() {
		t.swept(ctx, "namespace", path, netns.Remove(path))
	}
	for _, dir := range []string{filepath.Join(t.cfg.State, "pods"), filepath.Join(t.cfg.State, "containers"), filepath.Join(t.cfg.Root, "volumes")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !t.knows(e.Name()) {
				path := filepath.Join(dir, e.Name())
				t.swept(ctx, "file", path, removeTree(path))
			}
		}
	}
	logged(ctx, "Cannot end what a shim holds without a record", t.shims.sweep(ctx))
	groups, err := t.strayCgroups()
	if err != nil {
		return err
	}
	for _, path := range groups {
		t.swept(ctx, "cgroup", path, cgroup.Remove(path))
	}
	snapshots, err := t.cfg.Images.Snapshots(ctx)
	if err != nil {
		return err
	}
	for _, id := range snapshots {
		if !t.ownsSnapshot(id) {
			t.swept(ctx, "snapshot", id, t.cfg.Images.Discard(ctx, id))
		}
	}
	return nil
}

// swept tells of one thing without a record, and of its removal.
func (t *Table) swept(ctx context.Context, kind, object string, err error) {
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot remove what has no record", "kind", kind, "object", object)
		return
	}
	t.righted(kind)
}

// righted tells that a difference from the records was put right.
func (t *Table) righted(kind string) {
	if t.cfg.Righted != nil {
		t.cfg.Righted(kind)
	}
}

// knows tells whether id is that of a pod or container with a row.
func (t *Table) knows(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pods[id] != nil || t.containers[id] != nil
}

// strayCgroups lists the groups that no row explains, of those below our own
// parent: those of clients may have other runtimes' beside ours.
func (t *Table) strayCgroups() ([]string, error) {
	const id = "*"
	_, pattern := t.cgroup("", id)
	before, after, _ := strings.Cut(filepath.Base(pattern), id)
	names, err := cgroup.List(filepath.Dir(pattern))
	var out []string
	for _, name := range names {
		of := strings.TrimSuffix(strings.TrimPrefix(name, before), after)
		if len(of) == 64 && name == before+of+after && !t.knows(of) {
			out = append(out, filepath.Join(filepath.Dir(pattern), name))
		}
	}
	return out, err
}

// strayNamespaces lists the pinned network namespaces that no row explains.
// Other daemons may share the directory, so the prefix alone does not make one
// ours: the pod's directory in our state must still be there as well.
func (t *Table) strayNamespaces() []string {
	entries, err := os.ReadDir(t.cfg.NetnsDir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		id, ours := strings.CutPrefix(e.Name(), netnsPrefix)
		if !ours || len(id) != 64 || t.knows(id) {
			continue
		}
		if _, err := os.Stat(t.podDir(id)); err == nil {
			out = append(out, filepath.Join(t.cfg.NetnsDir, e.Name()))
		}
	}
	return out
}

func (t *Table) all() []*container {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*container, 0, len(t.containers))
	for _, c := range t.containers {
		out = append(out, c)
	}
	return out
}
