package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func checkVerb(c *cli) *cobra.Command {
	var in api.CheckRequest
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare the daemon's records with the machine",
		Long: "Compare the daemon's records with mounts, namespaces, cgroups, interfaces, addresses,\n" +
			"rules, processes and files, and every file of every image layer with what was unpacked.\n" +
			"Without --repair it changes nothing, but no container starts on a layer that is damaged.\n" +
			"The exit code is 1 if something differs still.",
		Example: examples("berth check", "berth check --repair"),
	}
	cmd.Flags().BoolVar(&in.Quick, "quick", false, "do not read the contents of image layers")
	cmd.Flags().BoolVar(&in.Repair, "repair", false, "fetch damaged image layers from their registries again")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		problems, err := cl.admin.CheckWith(ctx, &in)
		if err != nil {
			return cannot(err, "check the node")
		}
		if err := c.printCheck(problems); err != nil {
			return err
		}
		for _, p := range problems {
			if !p.Repaired {
				return exitCode(1)
			}
		}
		return nil
	})
}

func (c *cli) printCheck(problems []api.Problem) error {
	if c.output == "json" {
		return c.json(append([]api.Problem{}, problems...))
	}
	if len(problems) == 0 {
		_, err := fmt.Fprintln(c.out, "everything is as recorded")
		return err
	}
	var lines [][]string
	for _, p := range problems {
		if p.Repaired {
			p.Detail = "repaired: " + p.Detail
		}
		lines = append(lines, []string{p.Kind, p.Object, p.Detail})
	}
	return table(c.out, []string{"KIND", "OBJECT", "PROBLEM"}, lines)
}
