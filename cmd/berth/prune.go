package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func pruneVerb(c *cli) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Remove images that have no name and that no container uses",
		Example: examples("berth prune", "berth prune --all"),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also images that have a name; pinned ones stay")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		res, err := cl.admin.Prune(ctx, &api.PruneRequest{All: all})
		if err != nil {
			return cannot(err, "prune images")
		}
		if c.structured() {
			return c.show(res)
		}
		for _, u := range res.Images {
			fmt.Fprintf(c.out, "Deleted %s %s\n", short(u.ID, false), familiar(u.Name))
		}
		_, err = fmt.Fprintf(c.out, "%s came free\n", size(res.Bytes))
		return err
	})
}
