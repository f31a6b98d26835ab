package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func podsVerb(c *cli) *cobra.Command {
	var quiet, full bool
	cmd := &cobra.Command{
		Use:     "pods",
		Short:   "List pods, the kubelet's included",
		Example: examples("berth pods", "berth pods --output json"),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "ids only")
	cmd.Flags().BoolVar(&full, "no-trunc", false, "do not shorten ids")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		pods := inv.allPods()
		slices.SortFunc(pods, func(a, b object) int { return int(min(1, max(-1, b.createdAt()-a.createdAt()))) })
		return c.printPods(pods, inv, quiet, full)
	})
}

// podRow is one line of pods.
type podRow struct {
	ID         string    `json:"id"`
	Namespace  string    `json:"namespace"`
	Name       string    `json:"name"`
	Created    time.Time `json:"created"`
	State      string    `json:"state"`
	Containers int       `json:"containers"`
	By         string    `json:"by"` // who looks after it
}

func (c *cli) printPods(pods []object, inv *inventory, quiet, full bool) error {
	rows := []podRow{}
	for _, o := range pods {
		row := podRow{
			ID:        short(o.pod.Id, full || c.structured()),
			Namespace: o.pod.GetMetadata().GetNamespace(), Name: o.pod.GetMetadata().GetName(),
			Created: nanos(o.pod.CreatedAt), State: "stopped", Containers: len(inv.of(o.pod.Id)), By: "CRI client",
		}
		if o.pod.State == criv1.PodSandboxState_SANDBOX_READY {
			row.State = "ready"
		}
		switch {
		case o.ours():
			row.By = "berth run"
		case o.kubelets():
			row.By = "kubelet"
		}
		rows = append(rows, row)
	}
	if quiet {
		for _, r := range rows {
			fmt.Fprintln(c.out, r.ID)
		}
		return nil
	}
	if c.structured() {
		return c.show(rows)
	}
	var lines [][]string
	for _, r := range rows {
		lines = append(lines, []string{r.ID, r.Namespace, r.Name, ago(c.now(), r.Created), r.State, strconv.Itoa(r.Containers), r.By})
	}
	return table(c.out, []string{"POD ID", "NAMESPACE", "NAME", "CREATED", "STATE", "CONTAINERS", "MADE BY"}, lines)
}
