package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func portVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "port CONTAINER [PORT[/PROTO]]",
		Short:   "Show where the published ports of a container are on the host",
		Example: examples("berth port web", "berth port web 80/tcp"),
	}
	return c.verb(cmd, cobra.RangeArgs(1, 2), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		o, err := inv.findContainer(args[0])
		if err != nil {
			return err
		}
		rows := []portRow{}
		if o.pod != nil && o.pod.State == criv1.PodSandboxState_SANDBOX_READY {
			rows = portRows(o.pod.Annotations[portsAnnotation])
		}
		if len(args) == 2 {
			wanted, proto, ok := strings.Cut(args[1], "/")
			if !ok {
				proto = "tcp"
			}
			rows = slices.DeleteFunc(rows, func(r portRow) bool { return r.Container != wanted+"/"+strings.ToLower(proto) })
			if len(rows) == 0 {
				return &problem{what: fmt.Sprintf("cannot show port %s of %s", args[1], o), why: "it is not published", do: "see what is: berth port " + o.name()}
			}
		}
		if c.structured() {
			return c.show(rows)
		}
		for _, r := range rows {
			if len(args) == 2 {
				fmt.Fprintln(c.out, r.Host)
			} else {
				fmt.Fprintf(c.out, "%s -> %s\n", r.Container, r.Host)
			}
		}
		return nil
	})
}

// portRow is one published port.
type portRow struct {
	Container string `json:"container"` // PORT/PROTO
	Host      string `json:"host"`      // ADDRESS:PORT
}

// portRows reads what berth run wrote on the pod; see portText. A port of every
// address is one of each family, as docker shows it.
func portRows(note string) []portRow {
	rows := []portRow{}
	for text := range strings.SplitSeq(note, ", ") {
		host, container, ok := strings.Cut(text, "->")
		if !ok {
			continue
		}
		if number, all := strings.CutPrefix(host, "*:"); all {
			rows = append(rows, portRow{container, "0.0.0.0:" + number}, portRow{container, "[::]:" + number})
			continue
		}
		rows = append(rows, portRow{container, host})
	}
	return rows
}
