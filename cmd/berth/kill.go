package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func killVerb(c *cli) *cobra.Command {
	var signal string
	var force bool
	cmd := &cobra.Command{
		Use:     "kill CONTAINER...",
		Short:   "Send a signal to containers",
		Example: examples("berth kill web", "berth kill -s HUP web"),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "name or number of the signal")
	cmd.Flags().BoolVar(&force, "force", false, "also what the kubelet looks after")
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		if _, err := parseSignal(signal); err != nil {
			return err
		}
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		return c.each(args, func(name string) error {
			o, err := inv.findContainer(name)
			if err != nil {
				return err
			}
			if err := o.guard("kill", force); err != nil {
				return err
			}
			if err := cl.admin.Signal(ctx, o.id(), signal); err != nil {
				return cannot(err, "send %s to %s", signal, o)
			}
			fmt.Fprintln(c.out, name)
			return nil
		})
	})
}
