package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func dfVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "df",
		Short:   "Show what images and containers take up on disk",
		Example: examples("berth df", "berth df --output json"),
	}
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		df, err := cl.admin.Df(ctx)
		if err != nil {
			return cannot(err, "measure the store")
		}
		if c.structured() {
			return c.show(df)
		}
		lines := append(dfLines("image", df.Images), dfLines("container", df.Containers)...)
		if err := table(c.out, []string{"KIND", "ID", "NAME", "SIZE", "FILES", "IN USE"}, lines); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "\n%s in %d files at %s, layers that images share counted once\n", size(df.Bytes), df.Inodes, df.Mountpoint)
		return err
	})
}

func dfLines(kind string, all []api.Usage) [][]string {
	var lines [][]string
	for _, u := range all {
		used := "no"
		if u.InUse {
			used = "yes"
		}
		files := "-"
		if u.Inodes > 0 {
			files = strconv.FormatUint(u.Inodes, 10)
		}
		lines = append(lines, []string{kind, short(u.ID, false), familiar(u.Name), size(u.Bytes), files, used})
	}
	return lines
}
