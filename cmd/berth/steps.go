package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

// stepsVerb is hidden: it is for the crash tests, which kill the daemon at
// each of the steps that it names.
func stepsVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "steps",
		Short:   "List the places where the daemon can be made to stop short",
		Hidden:  true,
		Example: examples("berth steps", "berth steps | wc -l"),
	}
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		names, err := cl.admin.Steps(ctx)
		if err != nil {
			return cannot(err, "list the steps")
		}
		if c.structured() {
			return c.show(append([]string{}, names...))
		}
		for _, name := range names {
			fmt.Fprintln(c.out, name)
		}
		return nil
	})
}
