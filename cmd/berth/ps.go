package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func psVerb(c *cli) *cobra.Command {
	var all, quiet, full bool
	cmd := &cobra.Command{
		Use:     "ps",
		Aliases: []string{"ls"},
		Short:   "List containers",
		Example: examples("berth ps -a", "berth rm $(berth ps -aq)"),
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "also those that do not run")
	f.BoolVarP(&quiet, "quiet", "q", false, "ids only")
	f.BoolVar(&full, "no-trunc", false, "do not shorten anything")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		shown := filter(inv.allContainers(), func(o object) bool {
			return all || o.container.State == criv1.ContainerState_CONTAINER_RUNNING
		})
		slices.SortStableFunc(shown, func(a, b object) int { return int(min(1, max(-1, b.createdAt()-a.createdAt()))) })
		var rows []psRow
		for _, o := range shown {
			row := psRow{ID: short(o.container.Id, full || c.output == "json")}
			if !quiet {
				if row, err = cl.psRow(ctx, o, c.now(), full || c.output == "json"); status.Code(err) == codes.NotFound {
					continue // removed since we listed it
				} else if err != nil {
					return cannot(err, "read the status of %s", o)
				}
			}
			rows = append(rows, row)
		}
		return c.printPs(rows, quiet)
	})
}

// psRow is one line of ps.
type psRow struct {
	ID      string    `json:"id"`
	Image   string    `json:"image"`
	Command string    `json:"command,omitempty"`
	Created time.Time `json:"created"`
	Status  string    `json:"status"`
	Ports   string    `json:"ports,omitempty"`
	Pod     string    `json:"pod"`
	Name    string    `json:"name"`

	createdAgo string
}

func (cl *client) psRow(ctx context.Context, o object, now time.Time, full bool) (psRow, error) {
	st, err := cl.runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: o.container.Id})
	if err != nil {
		return psRow{}, err
	}
	row := psRow{
		ID:         short(o.container.Id, full),
		Image:      imageName(o.container, full),
		Command:    commandText(o.container.Annotations[commandNote], full),
		Created:    nanos(o.container.CreatedAt),
		Status:     statusText(st.Status, now),
		Pod:        short(o.container.PodSandboxId, full),
		Name:       o.name(),
		createdAgo: ago(now, nanos(o.container.CreatedAt)),
	}
	if o.pod != nil && o.pod.State == criv1.PodSandboxState_SANDBOX_READY {
		row.Ports = o.pod.Annotations[portsAnnotation]
	}
	return row, nil
}

func (c *cli) printPs(rows []psRow, quiet bool) error {
	if quiet {
		for _, r := range rows {
			fmt.Fprintln(c.out, r.ID)
		}
		return nil
	}
	if c.output == "json" {
		return c.json(append([]psRow{}, rows...))
	}
	var lines [][]string
	for _, r := range rows {
		lines = append(lines, []string{r.ID, r.Image, r.Command, r.createdAgo, r.Status, r.Ports, r.Pod, r.Name})
	}
	return table(c.out, []string{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "POD", "NAMES"}, lines)
}

// imageName is what the user asked for, if the daemon still knows it.
func imageName(c *criv1.Container, full bool) string {
	name := c.GetImage().GetUserSpecifiedImage()
	if name == "" {
		name = c.GetImage().GetImage()
	}
	if strings.HasPrefix(name, "sha256:") {
		return short(name, full)
	}
	if full {
		return name
	}
	return familiar(name)
}

// commandText shows what the annotation says of the command. Containers that
// others made have none: CRI does not tell it.
func commandText(note string, full bool) string {
	var argv []string
	if json.Unmarshal([]byte(note), &argv) != nil || len(argv) == 0 {
		return ""
	}
	text := strings.Join(argv, " ")
	if !full {
		text = ellipsis(text, 20)
	}
	return strconv.Quote(text)
}

// statusText is docker's sentence about a container's state.
func statusText(s *criv1.ContainerStatus, now time.Time) string {
	switch s.State {
	case criv1.ContainerState_CONTAINER_CREATED:
		return "Created"
	case criv1.ContainerState_CONTAINER_RUNNING:
		return "Up " + units.HumanDuration(now.Sub(nanos(s.StartedAt)))
	case criv1.ContainerState_CONTAINER_EXITED:
		text := fmt.Sprintf("Exited (%d) %s", s.ExitCode, ago(now, nanos(s.FinishedAt)))
		if s.Reason == "OOMKilled" {
			text += ", out of memory"
		}
		return text
	}
	return "Unknown"
}
