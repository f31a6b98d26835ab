package pod

import (
	"path"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// killedCode is the exit code of a process that SIGKILL has ended, or of a
// shell that passes on how its child ended.
const killedCode = 128 + int32(unix.SIGKILL)

// endedByOOM tells whether the kernel's OOM killer ended the container. It is
// asked before the exit is published, and while the cgroup is still there.
func (t *Table) endedByOOM(c *container, code int32) bool {
	c.mu.Lock()
	ours, before := c.killed, c.rec.OOMBefore
	c.mu.Unlock()
	if ours || code != killedCode {
		// Kills there may have been, of an exec or of a worker that was made
		// anew: they are not why it ended.
		return false
	}
	_, group := t.cgroup(c.pod.config.CgroupParent, c.id)
	kills, err := cgroup.OOMKills(group)
	if err != nil {
		// A neighbour's kill may be mistaken for ours, but not the other way.
		return t.neighbourhoodKills(c) > before
	}
	return kills > 0
}

// neighbourhoodKills counts the OOM kills in the parent of the container's
// cgroup, where that may be all that is left to ask: systemd removes a scope
// with its last process, and on v2 the parent has counted too.
func (t *Table) neighbourhoodKills(c *container) uint64 {
	if !t.cfg.SystemdCgroup || !cgroup.Unified() {
		return 0
	}
	_, group := t.cgroup(c.pod.config.CgroupParent, c.id)
	n, err := cgroup.OOMKills(path.Dir(group))
	if err != nil {
		return 0 // the parent is gone too: nothing to tell from
	}
	return n
}
