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
			"rules, processes and files, every file of every image layer with what was unpacked, and\n" +
			"every stored blob with its digest. A repair has the credentials of docker login.\n" +
			"Without --repair it changes nothing, but no container starts on a layer that is damaged.\n" +
			"The exit code is 1 if something differs still.",
		Example: examples("berth check", "berth check --repair"),
	}
	cmd.Flags().BoolVar(&in.Quick, "quick", false, "do not read the contents of image layers")
	cmd.Flags().BoolVar(&in.Repair, "repair", false, "fetch damaged image layers and blobs from their registries again")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		problems, err := c.check(ctx, cl, in)
		if err != nil {
			return err
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

// check asks the daemon to check. A repair follows a check that tells which
// registries it needs, so that the daemon gets no credentials but theirs.
func (c *cli) check(ctx context.Context, cl *client, in api.CheckRequest) ([]api.Problem, error) {
	look := in
	look.Repair = false
	problems, err := cl.admin.CheckWith(ctx, &look)
	if err != nil || !in.Repair || len(problems) == 0 {
		return problems, cannot(err, "check the node")
	}
	config, err := c.logins()
	if err != nil {
		return nil, &problem{what: "cannot read the credentials for the repair", why: err.Error(), do: "repair the file"}
	}
	in.Credentials = map[string]api.Credentials{}
	for _, p := range problems {
		for _, host := range p.Registries {
			if _, ok := in.Credentials[host]; ok {
				continue
			}
			if in.Credentials[host], err = config.lookup(ctx, host); err != nil {
				return nil, &problem{what: "cannot get the credentials for " + host, why: err.Error(), do: "log in again"}
			}
		}
	}
	problems, err = cl.admin.CheckWith(ctx, &in)
	return problems, cannot(err, "check the node")
}

func (c *cli) printCheck(problems []api.Problem) error {
	if c.structured() {
		return c.show(append([]api.Problem{}, problems...))
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
