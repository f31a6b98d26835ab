package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// maxCommand is how much of a command a line of history shows.
const maxCommand = 60

func historyVerb(c *cli) *cobra.Command {
	var full bool
	cmd := &cobra.Command{
		Use:     "history IMAGE",
		Short:   "Show the commands that made an image, newest first, with their layers",
		Example: examples("berth history nginx:1.29", "berth history --no-trunc 9f3c2a1b"),
	}
	cmd.Flags().BoolVar(&full, "no-trunc", false, "do not shorten anything")
	return c.verb(cmd, cobra.ExactArgs(1), func(ctx context.Context, cl *client, args []string) error {
		img, err := cl.admin.InspectImage(ctx, args[0])
		if err != nil {
			return cannot(err, "show the history of %s", args[0])
		}
		history := append([]api.History{}, img.History...)
		slices.Reverse(history)
		if c.structured() {
			return c.show(history)
		}
		var lines [][]string
		for _, h := range history {
			layer := "<none>"
			if h.DiffID != "" {
				layer = short(h.DiffID, full)
			}
			command := strings.Join(strings.Fields(h.CreatedBy), " ")
			if !full {
				command = ellipsis(command, maxCommand)
			}
			lines = append(lines, []string{layer, ago(c.now(), h.Created), command, size(uint64(h.Size)), h.Comment})
		}
		return table(c.out, []string{"LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"}, lines)
	})
}
