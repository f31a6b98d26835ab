package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func untagVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "untag NAME...",
		Short:   "Take names from images, which stay",
		Example: examples("berth untag web:stable", "berth untag web:stable && berth prune"),
	}
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		return c.each(args, func(ref string) error {
			if err := cl.admin.Untag(ctx, ref); err != nil {
				return cannot(err, "untag %s", ref)
			}
			fmt.Fprintf(c.out, "Untagged %s\n", ref)
			return nil
		})
	})
}
