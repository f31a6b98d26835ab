package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func startVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "start CONTAINER...",
		Short:   "Start containers that were created and not started",
		Long:    "Start containers that were created and not started, as crictl create leaves them.\nA container runs once; after that it is replaced, not started again.",
		Example: examples("berth start 3f4a", "berth start $(crictl create POD container.json pod.json)"),
	}
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		return c.each(args, func(name string) error {
			o, err := inv.findContainer(name)
			if err != nil {
				return err
			}
			if o.container.State == criv1.ContainerState_CONTAINER_EXITED {
				return &problem{
					what: fmt.Sprintf("cannot start %s", o),
					why:  "it has run already, and a container runs once",
					do:   fmt.Sprintf("remove it and run a new one: berth rm %s && berth run ...; what is in its volumes stays", name),
				}
			}
			if o.container.State == criv1.ContainerState_CONTAINER_CREATED {
				if _, err := cl.runtime.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: o.id()}); err != nil {
					return cannotExecute(err, "start %s", o)
				}
			}
			fmt.Fprintln(c.out, name)
			return nil
		})
	})
}
