package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func renameVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rename CONTAINER NAME",
		Short: "Give a container another name",
		Long: "Give a container of berth run another name. Its host name and what crictl calls it stay;\n" +
			"further attempts have the new name too.",
		Example: examples("berth rename web old-web", "berth rename 3f4a db"),
	}
	return c.verb(cmd, cobra.ExactArgs(2), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		o, err := inv.findContainer(args[0])
		if err != nil {
			return err
		}
		p := &problem{what: fmt.Sprintf("cannot rename %s to %s", o, args[1])}
		switch taken := inv.takenNames(); {
		case !o.ours():
			p.why, p.do = "it was not made by berth run, and its client knows it by its name", "leave the name to who made it"
			return p
		case !goodName.MatchString(args[1]):
			p.why, p.do = "a name has letters, digits, _, . and -", "choose a name like web or web-1"
			return p
		case taken[args[1]] != "" && args[1] != o.name():
			p.why, p.do = "the name belongs to "+taken[args[1]], "choose another one, or rename that first"
			return p
		}
		return cannot(cl.admin.Rename(ctx, o.id(), args[1]), "rename %s", o)
	})
}
