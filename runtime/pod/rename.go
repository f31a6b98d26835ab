package pod

import (
	"context"
	"fmt"
	"maps"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// NameLabel is the name that a local container was given later. What its client
// called it in its metadata stays, since that is its identity.
const NameLabel = "io.berth.name"

// Rename gives a local container another name, as a label that its further
// attempts have too.
func (t *Table) Rename(_ context.Context, v View, id, name string) error {
	c, err := t.findContainer(v, id)
	if err != nil {
		return err
	}
	if c.pod.origin() != OriginLocal {
		return errkind.New(errkind.FailedPrecondition, "cannot rename container %s: it is the kubelet's", c.id)
	}
	err = t.setContainer(c, func(r *containerRecord) {
		labels := maps.Clone(r.Config.Labels) // others read the old ones
		if labels == nil {
			labels = map[string]string{}
		}
		labels[NameLabel] = name
		r.Config.Labels = labels
	})
	if err != nil {
		return fmt.Errorf("cannot rename container %s: %w", c.id, err)
	}
	return nil
}
