package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func execVerb(c *cli) *cobra.Command {
	var stdin, tty bool
	var timeout int64
	cmd := &cobra.Command{
		Use:     "exec CONTAINER COMMAND [ARG...]",
		Short:   "Run a command in a container and print what it said",
		Example: examples("berth exec web nginx -t", "berth exec --timeout 5 db pg_isready"),
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows CONTAINER belongs to the command
	f.BoolVarP(&stdin, "interactive", "i", false, "not yet: keep stdin open")
	f.BoolVarP(&tty, "tty", "t", false, "not yet: give it a terminal")
	f.Int64Var(&timeout, "timeout", 0, "seconds before the command is killed; 0 for never")
	return c.verb(cmd, cobra.MinimumNArgs(2), func(ctx context.Context, cl *client, args []string) error {
		if stdin || tty {
			return &problem{
				what: "cannot exec in " + args[0] + " with -i or -t",
				why:  "stdin and terminals come with the streams, which this version does not have",
				do:   fmt.Sprintf("run a command that needs neither: berth exec %s COMMAND", args[0]),
			}
		}
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		o, err := inv.findContainer(args[0])
		if err != nil {
			return err
		}
		res, err := cl.runtime.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: o.id(), Cmd: args[1:], Timeout: timeout})
		if err != nil {
			return cannotExecute(err, "exec in %s", o)
		}
		if _, err := c.out.Write(res.Stdout); err != nil {
			return err
		}
		if _, err := c.err.Write(res.Stderr); err != nil {
			return err
		}
		if res.ExitCode != 0 {
			return exitCode(res.ExitCode)
		}
		return nil
	})
}
