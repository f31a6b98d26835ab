package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func pushVerb(c *cli) *cobra.Command {
	var quiet bool
	var creds string
	cmd := &cobra.Command{
		Use:     "push IMAGE [NAME]",
		Short:   "Send an image to its registry, or to where another name leads",
		Long:    "push sends an image to its registry, or to where another name leads.\nWithout --creds it uses what docker login has written.",
		Example: examples("berth push registry.example.com/team/app:1", "berth push 9f3c2a1b localhost:5000/app:test"),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the digest")
	cmd.Flags().StringVar(&creds, "creds", "", "USER:PASSWORD for the registry")
	return refusing(c.verb(cmd, cobra.RangeArgs(1, 2), func(ctx context.Context, cl *client, args []string) error {
		to := args[len(args)-1]
		auth, err := c.credentials(ctx, cl, to, creds)
		if err != nil {
			return err
		}
		show := showProgress(ctx, c.out, quiet)
		sum, err := cl.admin.Push(ctx, &api.PushRequest{Image: args[0], Ref: to, Credentials: auth}, show.report)
		show.end(err == nil)
		if err != nil {
			return cannot(err, "push %s", to)
		}
		if quiet {
			_, err = fmt.Fprintln(c.out, sum)
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s: %s\n", to, sum)
		return err
	}),
		refusedFlag{name: "all-tags", short: "a", bool: true, why: "each name is pushed by itself", do: "name the tags"},
		refusedFlag{name: "platform", why: "an image here is of one platform", do: "leave it out"},
		refusedFlag{name: "disable-content-trust", bool: true, why: "docker's content trust has ended; images are verified by digest", do: "name the image by digest, or configure image.verifiers_dir"})
}
