package pod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-runtime/berth/runtime/checkpoint"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/steps"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// Check compares the records with the machine, both ways: what a record
// promises must be there, and what is ours must have a record. It changes
// nothing. Verbs under way can show as problems; on an idle node none should.
func (t *Table) Check(ctx context.Context) ([]Problem, error) {
	var out []Problem
	for _, b := range t.brokenRecords {
		out = append(out, Problem{"record", b, "cannot be read"})
	}
	mounts, err := mount.Table()
	if err != nil {
		return nil, err
	}
	want := map[string]string{} // mount point -> why
	for _, p := range t.snapshotPods() {
		out = append(out, t.checkPod(p, want)...)
	}
	for _, c := range t.all() {
		out = append(out, t.checkContainer(c, want)...)
	}
	out = append(out, t.checkMounts(mounts, want)...)
	stray, err := t.checkFiles(ctx)
	if err != nil {
		return nil, err
	}
	out = append(out, stray...)
	lines, err := t.cfg.Network.Check(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot check the network: %w", err)
	}
	for _, l := range lines {
		out = append(out, Problem{"network", l, "differs from the leases"})
	}
	return out, nil
}

func (t *Table) snapshotPods() []*Pod {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*Pod, 0, len(t.pods))
	for _, p := range t.pods {
		out = append(out, p)
	}
	return out
}

// checkPod adds the pod's mounts to want and names what is wrong with the rest.
func (t *Table) checkPod(p *Pod, want map[string]string) []Problem {
	rec := p.record()
	_, group := t.cgroup(rec.Config.CgroupParent, p.id)
	if rec.Phase != phaseReady {
		return gone(group, "pod "+p.id+" is "+string(rec.Phase))
	}
	if hasNetns(&rec.Config) {
		want[t.netns(p.id)] = "network namespace of pod " + p.id
		want[t.nsPath(p.id, "uts")] = "UTS namespace of pod " + p.id
	}
	if ns := t.userns(p); ns != nil {
		want[ns.Path] = "user namespace of pod " + p.id
	}
	if hasIPC(&rec.Config) {
		want[t.nsPath(p.id, "ipc")] = "IPC namespace of pod " + p.id
		want[t.shmDir(p.id)] = "/dev/shm of pod " + p.id
	}
	if sharesPIDs(&rec.Config) && !rec.Init.Alive() {
		return []Problem{{"process", fmt.Sprint(rec.Init.Pid), "init of pod " + p.id + " has ended"}}
	}
	return nil
}

func (t *Table) checkContainer(c *container, want map[string]string) []Problem {
	rec := c.record()
	_, group := t.cgroup(c.pod.record().Config.CgroupParent, c.id)
	switch rec.Phase {
	case phaseExited:
		return gone(group, "container "+c.id+" has exited")
	case phaseCreated, phaseRunning:
		want[t.rootfs(c.id)] = "root file system of container " + c.id
		for _, n := range imageVolumes(&rec.Config) {
			want[t.imageVolumeDir(c.id, n)] = "image volume of container " + c.id
		}
		if !rec.Process.Alive() && !closed(c.exited) && rec.StartError == "" {
			return []Problem{{"process", fmt.Sprint(rec.Process.Pid), "container " + c.id + " is " + string(rec.Phase) + " but its process has ended"}}
		}
		return nil
	}
	return []Problem{{"record", c.id, "container is still " + string(rec.Phase)}}
}

// gone tells of a cgroup that should not be there any more.
func gone(group, why string) []Problem {
	if cgroup.Exists(group) {
		return []Problem{{"cgroup", group, "left over: " + why}}
	}
	return nil
}

// checkMounts holds the mount table against what the records want.
func (t *Table) checkMounts(table []mount.Info, want map[string]string) []Problem {
	var out []Problem
	have := map[string]bool{}
	for _, m := range table {
		have[m.Target] = true
		if strings.HasPrefix(m.Target, t.cfg.State+"/") && want[m.Target] == "" && !t.isVolume(m.Target) {
			out = append(out, Problem{"mount", m.Target, "no record wants it"})
		}
	}
	for target, why := range want {
		if !have[target] {
			out = append(out, Problem{"mount", target, why + " is missing"})
		}
	}
	return out
}

// isVolume tells whether a container has the directory for a volume: what is
// mounted there is its maker's.
func (t *Table) isVolume(path string) bool {
	for _, c := range t.Containers(ViewAll, ContainerFilter{}) {
		if slices.ContainsFunc(c.Config.Mounts, func(m spec.Mount) bool { return m.HostPath == path }) {
			return true
		}
	}
	return false
}

// checkFiles finds directories, namespaces, cgroups and writable layers without
// a row.
func (t *Table) checkFiles(ctx context.Context) ([]Problem, error) {
	var out []Problem
	for _, dir := range []string{filepath.Join(t.cfg.State, "pods"), filepath.Join(t.cfg.State, "containers"),
		filepath.Join(t.cfg.State, "libcontainer"), filepath.Join(t.cfg.Root, "volumes")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !t.knows(e.Name()) {
				out = append(out, Problem{"file", filepath.Join(dir, e.Name()), "no record wants it"})
			}
		}
	}
	for _, path := range t.strayCheckpoints() {
		out = append(out, Problem{"file", path, "no checkpoint is under way that makes it"})
	}
	for _, path := range t.strayNamespaces() {
		out = append(out, Problem{"namespace", path, "no record wants it"})
	}
	groups, err := t.strayCgroups()
	if err != nil {
		return nil, err
	}
	for _, path := range groups {
		out = append(out, Problem{"cgroup", path, "no record wants it"})
	}
	snapshots, err := t.cfg.Images.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range snapshots {
		if !t.ownsSnapshot(id) {
			out = append(out, Problem{"snapshot", id, "no container wants it"})
		}
	}
	return out, nil
}

// StepNames lists the failpoints of every verb, for the crash test.
func StepNames() []string {
	t, p := &Table{}, &Pod{}
	c := &container{pod: p}
	var out []string
	for _, plan := range []interface{ Names() []string }{t.runPlan(p), t.stopPlan(p), t.removePlan(p),
		t.createPlan(c), t.startPlan(c), t.removeContainerPlan(c),
		t.checkpointPlan("container.checkpoint", "", nil, steps.Step{Name: "publish"}),
		t.checkpointPlan("pod.checkpoint", "", nil, steps.Step{Name: "publish"}),
		t.runPlan(&Pod{restore: &restoration{}}), t.createPlan(&container{pod: p, saved: &checkpoint.PodContainer{}})} {
		out = append(out, plan.Names()...)
	}
	return out
}
