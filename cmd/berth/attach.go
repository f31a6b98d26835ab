package main

import (
	"cmp"
	"context"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func attachVerb(c *cli) *cobra.Command {
	var noStdin bool
	var detachKeys string
	cmd := &cobra.Command{
		Use:   "attach [flags] CONTAINER",
		Short: "Take part in a container that runs: its output, and its stdin if it has one",
		Long: "Take part in a container that runs: see what it prints from now on, and type to it if it\n" +
			"was made with -i. Signals are passed on to it, unless it has a terminal. Its exit code\n" +
			"becomes the exit code of this command.",
		Example: examples("berth attach web", "berth attach --no-stdin db"),
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "only look")
	cmd.Flags().StringVar(&detachKeys, "detach-keys", defaultDetachKeys, "keys that leave it to itself, if it has a terminal")
	return c.verb(cmd, cobra.ExactArgs(1), func(ctx context.Context, cl *client, args []string) error {
		keys, err := parseDetachKeys(detachKeys)
		if err != nil {
			return err
		}
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		o, err := inv.findContainer(args[0])
		if err != nil {
			return err
		}
		how := interaction{detachKeys: keys, redraw: true}
		result, detached, err := c.attach(ctx, cl, o.id(), !noStdin, how)
		if err != nil {
			return cannot(err, "attach to %s", o)
		}
		if detached {
			c.goesOn(o.String(), "berth attach "+o.name())
		}
		return result
	})
}

// attach takes part in a container until it ends; result is then its outcome.
func (c *cli) attach(ctx context.Context, cl *client, id string, stdin bool, how interaction) (result error, detached bool, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	s, err := cl.admin.Attach(ctx, &api.AttachRequest{Container: id, Stdin: stdin})
	if err != nil && how.begin != nil {
		// One that cannot be started has no process to attach to, and its start
		// tells why.
		err = cmp.Or(how.begin(), err)
	}
	if err != nil {
		return nil, false, err
	}
	// A container that has just ended cannot take it, and need not.
	how.signals = func(sig unix.Signal) { _ = cl.admin.Signal(ctx, id, unix.SignalName(sig)) }
	_, detached, err = c.converse(s, end, how)
	if err = endedBy(ctx, err); err != nil || detached {
		return nil, detached, err
	}
	ended, err := wait(ctx, cl, id)
	if err != nil {
		return nil, false, err
	}
	return c.outcome(id, ended), false, nil
}
