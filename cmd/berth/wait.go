package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func waitVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "wait CONTAINER...",
		Short:   "Wait until containers have ended and print their exit codes",
		Example: examples("berth wait job", "test $(berth wait job) = 0"),
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
			how, err := wait(ctx, cl, o.id())
			if err != nil {
				return cannot(err, "wait for %s", o)
			}
			fmt.Fprintln(c.out, how.ExitCode)
			return nil
		})
	})
}
