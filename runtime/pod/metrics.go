package pod

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/stats"
)

// PodMetrics is what the metrics of one pod are made of.
type PodMetrics struct {
	Pod        *PodStatus
	Interfaces []stats.Interface
	Containers []ContainerMetrics
}

// ContainerMetrics is what the metrics of one container are made of.
type ContainerMetrics struct {
	Container *ContainerStatus
	Cgroup    string // path from the root of the hierarchies
	Reading   *stats.Reading
}

// Metrics reads the ready pods and their containers that have a process. One
// that ends meanwhile is left out.
func (t *Table) Metrics(ctx context.Context, v View) []PodMetrics {
	var fs unix.Statfs_t
	known := unix.Statfs(t.cfg.Images.Mountpoint(), &fs) == nil
	ready := t.readyPods(v, PodFilter{})
	containers, carried := t.containersByPod(), t.allInterfaces(ready)
	var out []PodMetrics
	for _, p := range ready {
		m := PodMetrics{Pod: p}
		var ok bool
		if m.Interfaces, ok = carried[p.ID]; !ok {
			continue // it ended
		}
		for _, c := range containers[p.ID] {
			if c.Pid == 0 {
				continue
			}
			_, group := t.cgroup(p.Config.CgroupParent, c.ID)
			detail, err := stats.ReadDetail(group)
			if err != nil {
				continue
			}
			r := &stats.Reading{Detail: detail, Started: c.StartedAt, Seen: time.Now()}
			if r.LayerBytes, _, err = t.cfg.Images.SnapshotUsage(ctx, c.ID); err != nil {
				continue
			}
			if known {
				r.FilesystemBytes, r.InodesFree, r.InodesAll = fs.Blocks*uint64(fs.Bsize), fs.Ffree, fs.Files
			}
			m.Containers = append(m.Containers, ContainerMetrics{Container: c, Cgroup: group, Reading: r})
		}
		out = append(out, m)
	}
	return out
}
