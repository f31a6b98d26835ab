package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/stats"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Usage is what a person wants to see of a container that has a process.
type Usage struct {
	*Stats
	MemoryLimit uint64            // bytes; the machine's memory if it has no other
	Interfaces  []stats.Interface // of its pod; none on the host network
	Devices     []stats.DeviceIO  // that it read from or wrote to
}

// Usages samples the containers of ids, or all that have a process if there are
// no ids. Then one that ends meanwhile is left out; of those of ids it is
// FailedPrecondition.
func (t *Table) Usages(ctx context.Context, v View, ids []string) ([]Usage, error) {
	wanted, err := t.toSample(v, ids)
	if err != nil {
		return nil, err
	}
	machine, err := memoryOfMachine()
	if err != nil {
		return nil, err
	}
	pods := map[string]*PodStatus{}
	for _, p := range t.readyPods(ViewAll, PodFilter{}) {
		pods[p.ID] = p
	}
	wanted = slices.DeleteFunc(wanted, func(c *ContainerStatus) bool { return pods[c.PodID] == nil })
	var of []*PodStatus
	for _, c := range wanted {
		of = append(of, pods[c.PodID])
	}
	carried := t.allInterfaces(of)
	out := []Usage{}
	for _, c := range wanted {
		u, err := t.usage(ctx, c, pods[c.PodID])
		switch {
		case err == nil:
		case len(ids) == 0:
			continue
		case errors.Is(err, fs.ErrNotExist):
			return nil, errkind.New(errkind.FailedPrecondition, "cannot sample container %s: it has ended", c.ID)
		default:
			return nil, err
		}
		u.Interfaces = carried[c.PodID]
		if u.MemoryLimit == 0 {
			u.MemoryLimit = machine
		}
		out = append(out, u)
	}
	return out, nil
}

// toSample finds the containers of ids, or all that have a process.
func (t *Table) toSample(v View, ids []string) ([]*ContainerStatus, error) {
	if len(ids) == 0 {
		idle := func(c *ContainerStatus) bool { return c.Pid == 0 }
		return slices.DeleteFunc(slices.Clone(t.Containers(v, ContainerFilter{})), idle), nil
	}
	var wanted []*ContainerStatus
	for _, id := range ids {
		c, err := t.Container(v, id)
		if err != nil {
			return nil, err
		}
		if c.Pid == 0 {
			return nil, errkind.New(errkind.FailedPrecondition, "cannot sample container %s: it does not run", c.ID)
		}
		wanted = append(wanted, c)
	}
	return wanted, nil
}

func (t *Table) usage(ctx context.Context, c *ContainerStatus, p *PodStatus) (u Usage, err error) {
	if u.Stats, err = t.sample(ctx, c); err != nil {
		return u, err
	}
	_, group := t.cgroup(p.Config.CgroupParent, c.ID)
	if u.Devices, err = stats.ReadDevices(group); err != nil {
		return u, fmt.Errorf("cannot sample container %s: %w", c.ID, err)
	}
	if m := u.Memory; m.Available != nil {
		u.MemoryLimit = m.WorkingSet + *m.Available
	}
	return u, nil
}

func memoryOfMachine() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("cannot tell the machine's memory: %w", err)
	}
	return info.Totalram * uint64(info.Unit), nil
}
