package pod

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// freezeTime bounds how long processes may take to stand still.
const freezeTime = 10 * time.Second

func (t *Table) freeze(ctx context.Context, c *container) error {
	ctx, cancel := context.WithTimeout(ctx, freezeTime)
	defer cancel()
	return cgroup.Freeze(ctx, t.group(c))
}

func (t *Table) unfreeze(c *container) error { return cgroup.Unfreeze(t.group(c)) }

// Pause stops all processes of a running container until Unpause, a stop or its
// end. The record comes first: Recover freezes what is said to be paused.
func (t *Table) Pause(ctx context.Context, v View, id string) error {
	return t.setPaused(ctx, v, id, true)
}

// Unpause lets a paused container go on.
func (t *Table) Unpause(ctx context.Context, v View, id string) error {
	return t.setPaused(ctx, v, id, false)
}

func (t *Table) setPaused(ctx context.Context, v View, id string, pause bool) error {
	c, err := t.findContainer(v, id)
	if err != nil {
		return err
	}
	return t.detached(ctx, func(ctx context.Context) error {
		c.op.Lock()
		defer c.op.Unlock()
		rec := c.record()
		switch {
		case rec.Phase != phaseRunning:
			return errkind.New(errkind.FailedPrecondition, "container %s is %s, not running", c.id, rec.Phase)
		case rec.Paused == pause && pause:
			return errkind.New(errkind.FailedPrecondition, "container %s is paused already", c.id)
		case !rec.Paused && !pause:
			return errkind.New(errkind.FailedPrecondition, "container %s is not paused", c.id)
		case pause:
			err := t.setContainer(c, func(r *containerRecord) { r.Paused = true })
			if err == nil {
				err = t.freeze(ctx, c)
			}
			if err != nil {
				return errors.Join(fmt.Errorf("cannot pause container %s: %w", c.id, err), t.unpause(c))
			}
			return nil
		}
		return t.unpause(c)
	})
}

// unpause lets a container go on, whether or not it was paused; what has ended
// has no group and is no failure.
func (t *Table) unpause(c *container) error {
	if !c.record().Paused {
		return nil
	}
	if err := t.unfreeze(c); err != nil {
		return fmt.Errorf("cannot let container %s go on: %w", c.id, err)
	}
	return t.setContainer(c, func(r *containerRecord) { r.Paused = false })
}
