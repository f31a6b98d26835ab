package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/steps"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// Run makes a pod and returns its id. A second call with the same metadata
// joins the first: it waits for it, or returns its result. A caller that goes
// away cancels nothing. A pod of that name and attempt that has been stopped
// is errkind.AlreadyExists.
func (t *Table) Run(ctx context.Context, v View, cfg spec.Pod) (string, error) {
	p, joined, late, err := t.beginPod(ctx, v, cfg, nil, t.run)
	if err != nil {
		return "", err
	}
	select {
	case <-p.told:
	case <-ctx.Done():
		return "", errkind.New(errkind.Of(ctx.Err()), "pod %s/%s is still being made; the next call with the same name and attempt joins it: %w",
			cfg.Metadata.Namespace, cfg.Metadata.Name, ctx.Err())
	}
	switch {
	case p.err != nil && !late: // later callers find what was kept of it
		return "", p.err
	case joined && !v.sees(p.origin()):
		return "", errkind.New(errkind.AlreadyExists, "a local pod %s/%s (attempt %d) exists: %s", cfg.Metadata.Namespace, cfg.Metadata.Name, cfg.Metadata.Attempt, p.id)
	case joined && p.phase() != phaseReady:
		return "", errkind.New(errkind.AlreadyExists, "pod %s/%s (attempt %d) exists and is %s: %s; remove it or ask for the next attempt",
			cfg.Metadata.Namespace, cfg.Metadata.Name, cfg.Metadata.Attempt, p.phase(), p.id)
	}
	return p.id, nil
}

// beginPod finds the pod of cfg's name and attempt, or has it made by run. It
// tells whether there was one, and whether that was made already.
func (t *Table) beginPod(ctx context.Context, v View, cfg spec.Pod, from *restoration, run func(context.Context, *Pod)) (p *Pod, joined, late bool, err error) {
	key := podKey{meta: cfg.Metadata}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.byKey[key]; p != nil {
		return p, true, p.finished(), nil
	}
	id := newID()
	p = &Pod{id: id, key: key, from: v.Origin(), group: t.cfg.Shim.Group, config: &cfg, restore: from, made: make(chan struct{}), told: make(chan struct{}),
		containers: map[string]*container{}, byName: map[spec.ContainerMetadata]*container{},
		rec: podRecord{ID: id, BootID: t.cfg.BootID, Origin: v.Origin(), ShimGroup: t.cfg.Shim.Group, Config: cfg, Phase: phaseCreating, CreatedAt: time.Now()}}
	if !t.goBackground(ctx, func(ctx context.Context) { run(ctx, p) }) {
		return nil, false, false, ending()
	}
	t.pods[id], t.byKey[key] = p, p
	return p, false, false, nil
}

// run makes the pod under the daemon's own context.
func (t *Table) run(ctx context.Context, p *Pod) {
	undone, err := t.runPlan(p).Run(ctx)
	if err != nil {
		err = fmt.Errorf("cannot run pod %s/%s: %w", p.config.Metadata.Namespace, p.config.Metadata.Name, err)
		if undone {
			t.forgetPod(p)
		} else {
			// What could not be undone stays visible, not ready and not
			// yet stopped, so that the client's stop tries again.
			klog.FromContext(ctx).Error(err, "Pod could not be undone and is kept as stopping", "pod", p.id)
			t.sinkPod(ctx, p, func(r *podRecord) { r.Phase, r.Trouble = phaseStopping, newTrouble("run", err) })
			t.stopLater(p)
		}
		p.err = err
	}
	if err == nil {
		t.tellRestored(ctx, p)
	}
	p.restore.finish(p)
	t.publish()
	if err == nil {
		t.tellNeighbours(ctx, p) // before the client hears: it may start what looks for the name
	}
	p.quiet.drop()
	p.restore.told()
	close(p.told)
	t.armRepairs()
	if err == nil {
		t.emit(EventCreated, p.id, p)
		t.emit(EventStarted, p.id, p)
		for _, c := range p.restore.containers() {
			t.emit(EventCreated, c.id, p)
		}
		t.checkInit(p) // its end may have been told before there was a pod to end
	}
}

// forgetPod frees the pod's id and name.
func (t *Table) forgetPod(p *Pod) {
	t.sampler.Forget(p.id)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pods, p.id)
	if t.byKey[p.key] == p {
		delete(t.byKey, p.key)
	}
}

func onNetwork(c *spec.Pod) bool  { return c.Namespaces.Network == spec.ModePod }
func hasNetns(c *spec.Pod) bool   { return onNetwork(c) || c.Namespaces.Network == spec.ModeNone }
func hasIPC(c *spec.Pod) bool     { return c.Namespaces.IPC == spec.ModePod }
func sharesPIDs(c *spec.Pod) bool { return c.Namespaces.PID == spec.ModePod }
func (t *Table) request(p *Pod) network.Request {
	c := p.config // immutable
	return network.Request{PodID: p.id, Network: c.LocalNetwork.Name, IPs: c.LocalNetwork.IPs, MAC: c.LocalNetwork.MAC, Namespace: c.Metadata.Namespace, Name: c.Metadata.Name, UID: c.Metadata.UID, Netns: t.netns(p.id), Ports: c.Ports,
		Cluster: p.from == OriginKubelet, Handler: c.RuntimeHandler, Annotations: c.Annotations, DNS: c.DNS, CgroupParent: c.CgroupParent}
}

// runPlan is the table of RunPodSandbox, and with more steps of RestorePod.
func (t *Table) runPlan(p *Pod) steps.Plan {
	return t.withRestore(p, steps.Plan{Verb: "pod.run", Observe: t.cfg.Observe, Board: &t.board, Object: p.id, Steps: []steps.Step{
		{Name: "lease", Do: func(ctx context.Context) error { return t.leasePod(ctx, p) }, Undo: func(context.Context) error { t.releasePod(p); return nil }},
		{Name: "record", Do: func(context.Context) error { return t.podRows.Put(p.id, p.record()) }, Undo: func(context.Context) error { return t.podRows.Delete(p.id) }},
		{Name: "directory", Do: func(context.Context) error { return t.makePodDir(p) }, Undo: func(context.Context) error { return t.removePodDir(p) }},
		{Name: "namespaces", Do: func(context.Context) error { return t.makeNamespaces(p) }, Undo: func(context.Context) error { return t.removeNamespaces(p) }},
		// What cannot be detached keeps its row and its namespaces, to be tried again.
		{Name: "network", Do: func(ctx context.Context) error { return t.attach(ctx, p) }, Undo: func(ctx context.Context) error { return t.detach(ctx, p) }, Holds: true},
		{Name: "files", Do: func(context.Context) error { return t.makeFiles(p) }, Undo: func(context.Context) error { return t.cfg.Volumes.UnmountShm(t.shmDir(p.id)) }},
		{Name: "shim", Do: func(ctx context.Context) error { return t.shims.ensure(ctx, t.shims.key(p)) }, Undo: func(ctx context.Context) error { return t.shims.release(ctx, p) }},
		{Name: "init", Do: func(ctx context.Context) error { return t.startInit(ctx, p) }, Undo: func(ctx context.Context) error { return t.stopInit(ctx, p) }},
		{Name: "hook", Do: func(ctx context.Context) error {
			p.quiet.take(t.cfg.Hooks)
			return t.askPod(ctx, TurnRun, t.podStatus(p))
		}, Undo: func(ctx context.Context) error { t.tellPod(ctx, TurnRemove, p); return nil }},
		{Name: "commit", Do: func(context.Context) error { return t.setPod(p, func(r *podRecord) { r.Phase = phaseReady }) }},
	}})
}

// leasePod checks what can be checked without an effect and reserves the
// pod's addresses and ports, in memory. The row that is written next is
// durable: the one synced write of a pod's start.
func (t *Table) leasePod(ctx context.Context, p *Pod) error {
	c := p.config
	if c.LogDirectory != "" && !filepath.IsAbs(c.LogDirectory) {
		return errkind.New(errkind.InvalidArgument, "log directory %q is not an absolute path", c.LogDirectory)
	}
	if _, err := t.handler(c.RuntimeHandler); err != nil {
		return err
	}
	if err := t.labelPod(p); err != nil {
		return err
	}
	if err := c.Namespaces.CheckUserNamespace(); err != nil {
		return err
	}
	if !onNetwork(c) {
		return nil
	}
	lease, err := t.cfg.Network.Reserve(ctx, t.request(p))
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rec.Lease = lease
	return nil
}

func (t *Table) releasePod(p *Pod) { t.cfg.Network.Release(p.id) }

func (t *Table) makePodDir(p *Pod) error {
	if err := makePrivate(t.podDir(p.id), t.userns(p)); err != nil {
		return err
	}
	return os.MkdirAll(filepath.Join(t.podDir(p.id), "ns"), 0o700)
}

// defaultSysctls let a container without privileges ping and bind low ports,
// as both peers do; many images rely on it.
var defaultSysctls = map[string]string{
	"net.ipv4.ip_unprivileged_port_start": "0",
	"net.ipv4.ping_group_range":           "0 2147483647",
}

func (t *Table) makeNamespaces(p *Pod) error {
	c := p.config
	s := netns.Spec{Sysctls: map[string]string{}}
	if hasNetns(c) {
		s.Net, s.UTS = t.netns(p.id), t.nsPath(p.id, "uts")
		s.Hostname = c.Hostname
		for k, v := range defaultSysctls {
			s.Sysctls[k] = v
		}
	}
	if hasIPC(c) {
		s.IPC = t.nsPath(p.id, "ipc")
	}
	for k, v := range c.Sysctls {
		s.Sysctls[k] = v
	}
	s.User, s.OwnQueues = t.userns(p), t.cfg.SELinux != nil
	if s.Net == "" && s.IPC == "" && s.User == nil && len(s.Sysctls) == 0 {
		return nil
	}
	return netns.Create(s)
}

func (t *Table) removeNamespaces(p *Pod) error {
	return netns.Remove(t.netns(p.id), t.nsPath(p.id, "uts"), t.nsPath(p.id, "ipc"), t.nsPath(p.id, "user"))
}

// hostname is what the pod's containers see as theirs.
func hostname(c *spec.Pod) string {
	if hasNetns(c) && c.Hostname != "" {
		return c.Hostname
	}
	h, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return h
}

func (t *Table) makeFiles(p *Pod) error {
	rec := p.record()
	files, err := t.etcContent(p)
	if err != nil {
		return err
	}
	if err := t.cfg.Volumes.WriteFiles(t.podDir(p.id), files); err != nil {
		return err
	}
	if err := t.giveToRoot(p, t.etcFiles(p)...); err != nil {
		return err
	}
	l, err := t.podLabels(p)
	if err != nil {
		return err
	}
	// A container may ask for another level than its pod, and needs them too.
	if err := (labels{file: l.shared}).relabel(t.etcFiles(p)...); err != nil {
		return err
	}
	if !hasIPC(&rec.Config) {
		return nil // the host's /dev/shm serves
	}
	if err := os.MkdirAll(t.shmDir(p.id), 0o755); err != nil {
		return err
	}
	if err := t.cfg.Volumes.MountShm(t.shmDir(p.id), rec.Config.ShmSize); err != nil {
		return err
	}
	if err := l.relabel(t.shmDir(p.id)); err != nil {
		return err
	}
	return t.giveToRoot(p, t.shmDir(p.id))
}

func (t *Table) attach(ctx context.Context, p *Pod) error {
	if !onNetwork(p.config) {
		return nil
	}
	before := p.record().Lease
	lease, err := t.cfg.Network.Attach(ctx, t.request(p), before)
	if reflect.DeepEqual(lease, before) {
		return err
	}
	// What was learnt is on disk before anything uses it: addresses that are not
	// could be in use and not be known.
	return errors.Join(err, t.setPod(p, func(r *podRecord) { r.Lease = lease }))
}

func (t *Table) detach(ctx context.Context, p *Pod) error {
	lease := p.record().Lease
	if !onNetwork(p.config) || lease.PodID == "" {
		return nil
	}
	return t.cfg.Network.Detach(ctx, lease, t.netns(p.id))
}

// removePodDir unmounts whatever is mounted below the pod's directory and
// removes it. Mounts go first: a removal must never reach through one.
func (t *Table) removePodDir(p *Pod) error { return removeTree(t.podDir(p.id)) }

// LogRoot is where the logs of pods lie that leave them to us (the command
// line's). A pod's directory below it goes with the pod; any other log
// directory is its client's.
func (t *Table) LogRoot() string { return filepath.Join(t.cfg.Root, "logs") }

func (t *Table) removeOwnLogs(p *Pod) error {
	rel, err := filepath.Rel(t.LogRoot(), filepath.Clean(p.config.LogDirectory))
	if err != nil || rel == "." || !filepath.IsLocal(rel) {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, other := range t.pods {
		// The next attempt of the pod writes there already.
		if other != p && filepath.Clean(other.config.LogDirectory) == filepath.Clean(p.config.LogDirectory) {
			return nil
		}
	}
	return os.RemoveAll(filepath.Join(t.LogRoot(), rel))
}

// removeTree removes a directory of ours after everything mounted below it.
func removeTree(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	table, err := mount.Table()
	if err != nil {
		return err
	}
	for i := len(table) - 1; i >= 0; i-- {
		if rel, err := filepath.Rel(dir, table[i].Target); err == nil && filepath.IsLocal(rel) {
			if err := mount.Unmount(table[i].Target); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}
