package main

import (
	"context"
	"fmt"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func statsVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "stats [CONTAINER...]",
		Short:   "Show what running containers use, once",
		Example: examples("berth stats", "watch -n 2 berth stats web db"),
	}
	cmd.Flags().Bool("no-stream", true, "print one sample; there is no other way for now")
	return c.verb(cmd, cobra.ArbitraryArgs, func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		wanted := filter(inv.allContainers(), func(o object) bool {
			return o.container.State == criv1.ContainerState_CONTAINER_RUNNING
		})
		if len(args) > 0 {
			wanted = nil
		}
		for _, name := range args {
			o, err := inv.findContainer(name)
			if err != nil {
				return err
			}
			wanted = append(wanted, o)
		}
		rows := []statsRow{}
		for _, o := range wanted {
			row, err := cl.sample(ctx, o)
			if err != nil {
				return cannot(err, "read the figures of %s", o)
			}
			rows = append(rows, row)
		}
		return c.printStats(rows)
	})
}

// statsRow is one line of stats.
type statsRow struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	CPU      float64 `json:"cpu"`    // in CPUs
	Memory   uint64  `json:"memory"` // working set, bytes
	Limit    uint64  `json:"memory_limit,omitempty"`
	Writable uint64  `json:"writable_layer"` // bytes
}

// sampleGap is between the two readings of a container whose rate the daemon
// does not know yet.
const sampleGap = 500 * time.Millisecond

func (cl *client) sample(ctx context.Context, o object) (statsRow, error) {
	first, err := cl.runtime.ContainerStats(ctx, &criv1.ContainerStatsRequest{ContainerId: o.id()})
	if err != nil {
		return statsRow{}, err
	}
	s := first.Stats
	row := statsRow{
		ID: o.id(), Name: o.name(),
		Memory:   s.GetMemory().GetWorkingSetBytes().GetValue(),
		Writable: s.GetWritableLayer().GetUsedBytes().GetValue(),
	}
	if available := s.GetMemory().GetAvailableBytes(); available != nil {
		row.Limit = row.Memory + available.Value
	}
	if rate := s.GetCpu().GetUsageNanoCores(); rate != nil {
		row.CPU = float64(rate.Value) / 1e9
		return row, nil
	}
	select {
	case <-ctx.Done():
		return row, ctx.Err()
	case <-time.After(sampleGap):
	}
	second, err := cl.runtime.ContainerStats(ctx, &criv1.ContainerStatsRequest{ContainerId: o.id()})
	if err != nil {
		return statsRow{}, err
	}
	a, b := s.GetCpu(), second.Stats.GetCpu()
	if span := b.GetTimestamp() - a.GetTimestamp(); span > 0 {
		used := b.GetUsageCoreNanoSeconds().GetValue() - a.GetUsageCoreNanoSeconds().GetValue()
		row.CPU = float64(used) / float64(span)
	}
	return row, nil
}

func (c *cli) printStats(rows []statsRow) error {
	if c.structured() {
		return c.show(rows)
	}
	var lines [][]string
	for _, r := range rows {
		limit := "-"
		if r.Limit > 0 {
			limit = units.BytesSize(float64(r.Limit))
		}
		lines = append(lines, []string{
			short(r.ID, false), r.Name, fmt.Sprintf("%.2f%%", r.CPU*100), units.BytesSize(float64(r.Memory)), limit, size(r.Writable),
		})
	}
	return table(c.out, []string{"CONTAINER ID", "NAME", "CPU %", "MEM USAGE", "LIMIT", "WRITABLE"}, lines)
}
