package pod

import (
	"context"
	"time"
)

// repairEvery is how often everything is looked at, for what an event source
// that broke did not tell. One timer serves all, and only while there is
// something to look at: an idle node sleeps.
const repairEvery = 3 * time.Minute

// armRepairs starts the timer if there is anything that could end unseen.
func (t *Table) armRepairs() {
	t.mu.Lock()
	n := len(t.containers)
	for _, p := range t.pods {
		if sharesPIDs(p.config) {
			n++
		}
	}
	t.mu.Unlock()
	t.endMu.Lock()
	defer t.endMu.Unlock()
	if n > 0 && !t.ended && !t.repairing {
		t.repairing = true
		t.repairs.Reset(repairEvery)
	}
}

// repair is one pass: it brings shims up that are needed and not there, and
// compares every container and init that is said to run with the kernel.
func (t *Table) repair() {
	t.endMu.Lock()
	t.repairing = false
	t.endMu.Unlock()
	t.goBackground(context.Background(), func(ctx context.Context) {
		needed := map[string]bool{} // keys of the shims that have something alive
		for _, c := range t.all() {
			if c.finished() && !closed(c.exited) {
				needed[t.shims.key(c.pod)] = true
				t.nudge(c.id)
			}
		}
		for _, p := range t.snapshotPods() {
			if p.finished() && p.phase() == phaseReady && sharesPIDs(p.config) {
				needed[t.shims.key(p)] = true
				t.checkInit(p)
			}
		}
		for key := range needed {
			logged(ctx, "Cannot bring up the shim", t.shims.ensure(ctx, key))
		}
	})
	t.armRepairs()
}

// checkInit ends a pod whose init has ended without anybody telling.
func (t *Table) checkInit(p *Pod) {
	if sharesPIDs(p.config) && p.phase() == phaseReady && !p.record().Init.Alive() {
		t.goBackground(context.Background(), func(ctx context.Context) { t.initEnded(ctx, p) })
	}
}
