package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func checkVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare the daemon's records with the machine",
		Long: "Compare the daemon's records with mounts, namespaces, cgroups, interfaces, addresses,\n" +
			"rules, processes and files. It changes nothing; the exit code is 1 if something differs.",
		Example: examples("berth check", "berth check --output json"),
	}
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		problems, err := cl.admin.Check(ctx)
		if err != nil {
			return cannot(err, "check the node")
		}
		if err := c.printCheck(problems); err != nil {
			return err
		}
		if len(problems) > 0 {
			return exitCode(1)
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
		lines = append(lines, []string{p.Kind, p.Object, p.Detail})
	}
	return table(c.out, []string{"KIND", "OBJECT", "PROBLEM"}, lines)
}
