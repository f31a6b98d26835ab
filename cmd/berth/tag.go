package main

import (
	"context"

	"github.com/spf13/cobra"
)

func tagVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tag IMAGE NAME",
		Short:   "Give an image one more name",
		Example: examples("berth tag nginx:1.29 web:stable", "berth tag 9f3c2a1b registry.example.com/team/app:1"),
	}
	return c.verb(cmd, cobra.ExactArgs(2), func(ctx context.Context, cl *client, args []string) error {
		return cannot(cl.admin.Tag(ctx, args[0], args[1]), "tag %s as %s", args[0], args[1])
	})
}
