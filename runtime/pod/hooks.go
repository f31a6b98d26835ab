package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Turn is a turn of the life of a pod or container that hooks are told of.
type Turn string

// The turns. An error refuses the verb where it says so; anywhere else it is
// logged, since nothing may keep a pod from going.
const (
	TurnRun     Turn = "run"     // a pod is made and not yet shown; can be refused
	TurnUpdate  Turn = "update"  // the sums of a pod change; can be refused
	TurnUpdated Turn = "updated" // pods and containers
	TurnCreated Turn = "created" // a container is made and not yet shown
	TurnStart   Turn = "start"   // a container; can be refused
	TurnStarted Turn = "started" // a container
	TurnStop    Turn = "stop"    // a pod, whose containers have ended; a container that was started, once it has ended
	TurnRemove  Turn = "remove"  // pods and containers, also those whose making is undone
)

// Hooks are asked and told of the turns of pods' and containers' lives, each
// turn once, in their order. cmd/berthd gives them. No lock that lists need is
// held meanwhile.
type Hooks interface {
	// Pod tells of a turn of a pod.
	Pod(ctx context.Context, turn Turn, p *PodStatus) error
	// Container tells of a turn of a container.
	Container(ctx context.Context, turn Turn, p *PodStatus, c *ContainerStatus) error
	// Adjust may change the specification of a container that is being made.
	Adjust(ctx context.Context, p *PodStatus, c *ContainerStatus, oci *specs.Spec) error
	// Limit returns the limits to set instead of r.
	Limit(ctx context.Context, p *PodStatus, c *ContainerStatus, r spec.Resources) (spec.Resources, error)
	// Hold keeps new listeners from being shown what exists until release is
	// called: between a turn and its being shown, they would miss both. One
	// goroutine must not hold twice.
	Hold() (release func())
}

// hold is what a verb holds of the hooks, if anything.
type hold struct{ release func() }

// take begins the hold; it does nothing without hooks.
func (h *hold) take(hooks Hooks) {
	if hooks != nil && h.release == nil {
		h.release = hooks.Hold()
	}
}

// drop ends the hold, if there is one.
func (h *hold) drop() {
	if h.release != nil {
		h.release()
		h.release = nil
	}
}

// askPod tells of a turn that can be refused.
func (t *Table) askPod(ctx context.Context, turn Turn, p *PodStatus) error {
	if t.cfg.Hooks == nil {
		return nil
	}
	return t.cfg.Hooks.Pod(ctx, turn, p)
}

// tellPod tells of a turn that nobody can refuse, once: verbs that only move
// forward are done again after a failure. The caller holds p.verbs or is the
// one that makes the pod.
func (t *Table) tellPod(ctx context.Context, turn Turn, p *Pod) {
	if t.cfg.Hooks == nil || p.turn == turn {
		return
	}
	p.turn = turn
	if err := t.cfg.Hooks.Pod(ctx, turn, t.podStatus(p)); err != nil {
		klog.FromContext(ctx).Error(err, "A hook failed", "turn", turn, "pod", p.id)
	}
}

// tellStop tells of a pod's stop.
func (t *Table) tellStop(ctx context.Context, p *Pod) {
	var h hold
	h.take(t.cfg.Hooks)
	defer h.drop()
	t.tellPod(ctx, TurnStop, p)
}

// askContainer tells of a turn that can be refused.
func (t *Table) askContainer(ctx context.Context, turn Turn, c *container) error {
	if t.cfg.Hooks == nil {
		return nil
	}
	return t.cfg.Hooks.Container(ctx, turn, t.podStatus(c.pod), t.containerStatus(c))
}

// tellContainer is tellPod of a container. The caller holds c.op.
func (t *Table) tellContainer(ctx context.Context, turn Turn, c *container) {
	if t.cfg.Hooks == nil || c.turn == turn && turn == TurnRemove {
		return
	}
	c.turn = turn
	if err := t.askContainer(ctx, turn, c); err != nil {
		klog.FromContext(ctx).Error(err, "A hook failed", "turn", turn, "container", c.id)
	}
}

// adjustSpec lets the hooks change the specification before anything is made
// of it. What they changed of the limits is what the container has.
func (t *Table) adjustSpec(ctx context.Context, c *container) error {
	if t.cfg.Hooks == nil {
		return nil
	}
	oci, err := t.readSpec(c.id)
	if err != nil {
		return err
	}
	before := spec.ResourcesOf(oci.Linux.Resources)
	c.quiet.take(t.cfg.Hooks)
	if err := t.cfg.Hooks.Adjust(ctx, t.podStatus(c.pod), t.containerStatus(c), oci); err != nil {
		return err
	}
	if err := spec.Settle(oci); err != nil {
		return fmt.Errorf("a hook changed it to what cannot be: %w", err)
	}
	if after := spec.ResourcesOf(oci.Linux.Resources); !reflect.DeepEqual(before, after) {
		c.mu.Lock()
		c.rec.Resources = mergeResources(c.rec.Resources, after)
		c.mu.Unlock()
	}
	return putSpec(t.bundle(c.id), oci)
}

// specFile is the OCI specification in a bundle.
const specFile = "config.json"

// readSpec reads the OCI specification of a container that has not been removed.
func (t *Table) readSpec(id string) (*specs.Spec, error) {
	b, err := os.ReadFile(filepath.Join(t.bundle(id), specFile))
	if err != nil {
		return nil, err
	}
	oci := &specs.Spec{}
	return oci, json.Unmarshal(b, oci)
}

func putSpec(bundle string, oci *specs.Spec) error {
	b, err := json.Marshal(oci)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, specFile), b, 0o600)
}

// Spec is the OCI specification that a container was made with; an error if
// the container is of an earlier boot or gone.
func (t *Table) Spec(id string) (*specs.Spec, error) {
	t.mu.Lock()
	c := t.containers[id]
	t.mu.Unlock()
	if c == nil {
		return nil, errkind.New(errkind.NotFound, "container %s does not exist", id)
	}
	return t.readSpec(id)
}

// Limit changes the limits of a container like Update, at the wish of a hook:
// no hook is asked.
func (t *Table) Limit(ctx context.Context, id string, r spec.Resources) error {
	if err := checkResources(r); err != nil {
		return fmt.Errorf("cannot update container %s: %w", id, err)
	}
	c, err := t.findContainer(ViewAll, id)
	if err != nil {
		return err
	}
	return t.detached(ctx, func(ctx context.Context) error {
		c.op.Lock()
		defer c.op.Unlock()
		return t.setLimits(ctx, c, r)
	})
}
