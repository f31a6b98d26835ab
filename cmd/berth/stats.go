package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// statsEvery is how often a live table is drawn. The daemon keeps a sample for
// a second.
const statsEvery = time.Second

func statsVerb(c *cli) *cobra.Command {
	var once, full bool
	cmd := &cobra.Command{
		Use:   "stats [CONTAINER...]",
		Short: "Show what running containers use, again each second",
		Long: "Show what running containers use, again each second: at a terminal as a table that stays\n" +
			"in its place, elsewhere as lines. In the other forms of output each sample of a container\n" +
			"stands by itself, with --no-stream they are one list.\n\n" +
			"Memory is without the file cache that can be had back, and a limit that a container\n" +
			"does not have is the machine's memory. Network is that of the whole pod; -- on the host's.",
		Example: examples("berth stats", "berth stats --no-stream --output json web db"),
	}
	f := cmd.Flags()
	f.BoolVar(&once, "no-stream", false, "print one sample")
	f.BoolVar(&full, "no-trunc", false, "do not shorten ids")
	return c.verb(cmd, cobra.ArbitraryArgs, func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		var wanted []object
		for _, name := range args {
			o, err := inv.findContainer(name)
			if err != nil {
				return err
			}
			if o.container.State != criv1.ContainerState_CONTAINER_RUNNING {
				return &problem{what: fmt.Sprintf("cannot show what %s uses", o), why: "it does not run", do: "see what runs with: berth ps"}
			}
			wanted = append(wanted, o)
		}
		if once {
			rows, err := cl.statsOnce(ctx, wanted)
			if err != nil {
				return cannot(err, "read what containers use")
			}
			return c.printStats(rows, full)
		}
		return c.watchStats(ctx, cl, wanted, full)
	})
}

// statsRow is what stats says of one container.
type statsRow struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	CPU      *float64 `json:"cpu"`          // in CPUs; null: not known yet
	Memory   uint64   `json:"memory"`       // working set, bytes
	Limit    uint64   `json:"memory_limit"` // bytes
	Received *uint64  `json:"net_received"` // bytes; null: on the host's network
	Sent     *uint64  `json:"net_sent"`
	Read     uint64   `json:"block_read"`  // bytes
	Write    uint64   `json:"block_write"` // bytes
	Pids     uint64   `json:"pids"`
	Writable uint64   `json:"writable_layer"` // bytes

	gone bool // it does not run any more
}

// stats samples the wanted containers, or all that run.
func (cl *client) stats(ctx context.Context, wanted []object) ([]statsRow, error) {
	samples, err := cl.admin.Stats(ctx)
	if err != nil {
		return nil, err
	}
	inv, err := cl.look(ctx)
	if err != nil {
		return nil, err
	}
	rows := []statsRow{}
	find := func(id string) (api.StatsSample, bool) {
		i := slices.IndexFunc(samples, func(s api.StatsSample) bool { return s.Container == id })
		if i < 0 {
			return api.StatsSample{}, false
		}
		return samples[i], true
	}
	if len(wanted) == 0 {
		wanted = inv.allContainers()
		wanted = slices.DeleteFunc(wanted, func(o object) bool { _, ok := find(o.id()); return !ok })
	}
	for _, o := range wanted {
		s, ok := find(o.id())
		row := statsRow{
			ID: o.id(), Name: o.name(), Memory: s.Memory, Limit: s.MemoryLimit, Received: s.Received, Sent: s.Sent,
			Read: s.BlockRead, Write: s.BlockWrite, Pids: s.Pids, Writable: s.Writable, gone: !ok,
		}
		if s.CPURate != nil {
			cpus := float64(*s.CPURate) / 1e9
			row.CPU = &cpus
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// statsOnce samples a second time where the daemon has no rate yet.
func (cl *client) statsOnce(ctx context.Context, wanted []object) ([]statsRow, error) {
	rows, err := cl.stats(ctx, wanted)
	if err != nil || !slices.ContainsFunc(rows, func(r statsRow) bool { return r.CPU == nil && !r.gone }) {
		return rows, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(statsEvery + statsEvery/10):
	}
	return cl.stats(ctx, wanted)
}

// watchStats shows samples until it is interrupted.
func (c *cli) watchStats(ctx context.Context, cl *client, wanted []object, full bool) error {
	screen, live := terminalOf(c.out)
	for n := 0; ; n++ {
		var rows []statsRow
		err := again(ctx, cl, func() (err error) {
			rows, err = cl.stats(ctx, wanted)
			return err
		})
		if err != nil {
			return cannot(err, "read what containers use")
		}
		switch {
		case c.structured():
			err = c.eachStats(rows)
		case live:
			err = draw(screen, statsLines(rows, full), n == 0)
		default:
			lines := statsLines(rows, full)
			if n > 0 {
				lines = lines[1:]
			}
			_, err = io.WriteString(c.out, strings.Join(append(lines, ""), "\n"))
		}
		if err != nil {
			return cannot(err, "print statistics")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(statsEvery):
		}
	}
}

// eachStats prints rows one after another, without those that are gone.
func (c *cli) eachStats(rows []statsRow) error {
	for _, r := range rows {
		if r.gone {
			continue
		}
		if err := c.showLine(r); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) printStats(rows []statsRow, full bool) error {
	if c.structured() {
		return c.show(rows)
	}
	_, err := io.WriteString(c.out, strings.Join(append(statsLines(rows, full), ""), "\n"))
	return err
}

// unknown stands for a figure that there is not.
const unknown = "--"

// figures are the columns of one container from the third on, as docker names
// and writes them.
func (r statsRow) figures() []string {
	if r.gone {
		return []string{unknown, unknown + " / " + unknown, unknown, unknown, unknown, unknown}
	}
	return []string{percent(r.CPU), units.BytesSize(float64(r.Memory)) + " / " + units.BytesSize(float64(r.Limit)),
		percent(share(r.Memory, r.Limit)), pair(r.Received, r.Sent), pair(&r.Read, &r.Write), strconv.FormatUint(r.Pids, 10)}
}

// docker adds what docker's templates name.
func (r statsRow) docker() map[string]any {
	f := r.figures()
	return map[string]any{
		"Container": short(r.ID, false), "CPUPerc": f[0], "MemUsage": f[1], "MemPerc": f[2], "NetIO": f[3], "BlockIO": f[4], "PIDs": f[5],
	}
}

// statsLines is docker's table.
func statsLines(rows []statsRow, full bool) []string {
	var lines [][]string
	for _, r := range rows {
		lines = append(lines, append([]string{short(r.ID, full), printable(r.Name)}, r.figures()...))
	}
	var out bytes.Buffer
	_ = table(&out, []string{"CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"}, lines)
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func share(part, whole uint64) *float64 {
	if whole == 0 {
		return nil
	}
	s := float64(part) / float64(whole)
	return &s
}

func percent(of *float64) string {
	if of == nil {
		return unknown
	}
	return fmt.Sprintf("%.2f%%", *of*100)
}

func pair(in, out *uint64) string {
	if in == nil || out == nil {
		return unknown
	}
	return size(*in) + " / " + size(*out)
}

// draw puts lines in place of what the terminal shows, as far as they fit into
// it: a table that scrolled would be a mess.
func draw(screen *os.File, lines []string, first bool) error {
	width, height, err := term.GetSize(int(screen.Fd()))
	if err != nil || width < 1 || height < 2 {
		width, height = 80, 24
	}
	if room := height - 1; len(lines) > room {
		more := fmt.Sprintf("(%d more)", len(lines)-room+1)
		lines = append(slices.Clone(lines[:room-1]), more)
	}
	var b strings.Builder
	if first {
		b.WriteString("\x1b[2J")
	}
	b.WriteString("\x1b[H")
	for _, l := range lines {
		runes := []rune(l)
		b.WriteString(string(runes[:min(len(runes), width)]))
		b.WriteString("\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	_, err = io.WriteString(screen, b.String())
	return err
}
